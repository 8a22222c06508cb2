#!/usr/bin/env bash
# kill -9 inside every phase of `nibble quantize` on the demo model (scripts/kill_check.sh), and
# Ctrl-C: exit status 130, nothing under the final name.
#
# quantize_kill_test.sh NIBBLE MODEL
set -uo pipefail
nibble=$1
model=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# shellcheck source=/dev/null
source scripts/checks.sh

kills() {
  CALIBRATING=4 QUANTIZING=4 PUBLISHING=4 ENOUGH=1 \
    scripts/kill_check.sh "$nibble" "$model" "$work/kills" --scales hessian --calib-samples 8 --calib-length 128
}
check "kills" kills

"$nibble" quantize "$model" "$work/stopped" --calib-samples 256 --calib-length 4096 >/dev/null 2>"$work/message" &
process=$!
for _ in $(seq 1 600); do
  ! grep -q '^layer 1/' "$work/message" || break
  sleep 0.05
done
kill -INT "$process"
wait "$process"
check "exit status of Ctrl-C" test $? -eq 130
check "message of Ctrl-C" grep -q "run the same command again" "$work/message"
check "no destination after Ctrl-C" test ! -e "$work/stopped"

checks_done
