#!/usr/bin/env bash
# Installs the packages nibble is built with, from the distribution's own archive (Debian 12, Ubuntu 24.04).
#
#   scripts/deps.sh            build, run and test (needs root or sudo only when something is missing)
#   scripts/deps.sh --clients  the same, and what `make test-clients` needs
#   scripts/deps.sh --dev      the same, and what .ci/run needs: clang, formatters, linters
#   scripts/deps.sh --check    only looks (combine with the above): exit 1 with the list of what is missing
#
# When nothing is missing it asks no network and changes nothing. It never removes a package.
set -euo pipefail

check_only=no
want_clients=no
want_dev=no
for argument in "$@"; do
  case "$argument" in
    --check) check_only=yes ;;
    --clients) want_clients=yes ;;
    --dev) want_clients=yes want_dev=yes ;;
    -h | --help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "deps: unknown argument '$argument' (known: --check --clients --dev --help)" >&2; exit 2 ;;
  esac
done

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  echo "deps: no apt here; install the packages listed in $0 by hand" >&2
  exit 1
fi

# shellcheck source=/dev/null
codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-unknown}")

# Debian 12 offers two Boosts and its default is too old (coroutines need 1.81); later releases have one.
case "$codename" in
  bookworm) boost=libboost1.81-dev clang_runtime=libclang-rt-14-dev ;;
  noble) boost=libboost-dev clang_runtime=libclang-rt-18-dev ;;
  *) boost=libboost-dev clang_runtime=libclang-rt-dev ;;
esac

packages=(g++ make git cmake ninja-build ccache mold pkg-config python3
  "$boost" nlohmann-json3-dev libcli11-dev libfmt-dev libspdlog-dev libutf8proc-dev libedit-dev
  libzstd-dev zlib1g-dev libssl-dev libgtest-dev libgmock-dev libbenchmark-dev)
if [ "$want_clients" = yes ]; then
  packages+=(python3-venv ca-certificates)
fi
if [ "$want_dev" = yes ]; then
  packages+=(clang "$clang_runtime" llvm clang-format clang-tidy universal-ctags shellcheck xz-utils)
fi

missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$status" = installed ] || missing+=("$package")
done

if [ "${#missing[@]}" -eq 0 ]; then
  echo "deps: all ${#packages[@]} packages are installed"
  exit 0
fi
if [ "$check_only" = yes ]; then
  echo "deps: missing: ${missing[*]}"
  exit 1
fi

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "deps: missing: ${missing[*]}" >&2
    echo "deps: installing needs root, and there is no sudo: run this script as root" >&2
    exit 1
  fi
  as_root=(sudo)
fi

apt() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get "$@"
}

echo "deps: installing ${#missing[@]} packages with apt-get: ${missing[*]}"
# A third-party source that does not answer is no reason to stop: the install below decides.
apt update -qq || echo "deps: apt-get update reported errors; going on with what it has" >&2
if ! apt install -y -qq --no-install-recommends --no-remove -o Dpkg::Use-Pty=0 "${missing[@]}" >/dev/null; then
  echo "deps: apt-get install failed (see above); '--no-remove' keeps it from replacing your packages" >&2
  exit 1
fi
echo "deps: done"
