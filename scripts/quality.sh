#!/usr/bin/env bash
# Table of all scale methods on the demo model: KL divergence, perplexity, suite, minutes.
#
#   scripts/quality.sh [TEXT]     TEXT: a second text, documents parted by lines <|endoftext|>
#
# Every method that `nibble quantize --scales` offers is quantized with the default recipe and calibration, compared with
# the BF16 model on the held-out stories (and TEXT), and asked the 304 text items of the demo suite. Prints a
# Markdown table, also kept in build/quality/table.md. About four minutes on 2 cores. Needs build/release/nibble, or $NIBBLE.
set -euo pipefail
cd "$(dirname "$0")/.."
export NIBBLE="${NIBBLE:-$PWD/build/release/nibble}"

source_model=models/demo
out=build/quality
texts=(models/demo/eval/heldout_generated.txt "$@")
[ -x "$NIBBLE" ] || { echo "quality: no $NIBBLE: build it first (make)" >&2; exit 1; }
[ $# -le 1 ] || { echo "usage: scripts/quality.sh [TEXT]" >&2; exit 2; }
for text in "${texts[@]}"; do
  [ -r "$text" ] || { echo "quality: cannot read $text" >&2; exit 2; }
done

# The program's own list: "--scales TEXT:{auto,max,...}".
methods=$("$NIBBLE" quantize --help | sed -n 's/.*--scales TEXT:{\([^}]*\)}.*/\1/p' | tr ',' '\n' | grep -vx auto)
[ -n "$methods" ] || { echo "quality: found no methods in 'nibble quantize --help'" >&2; exit 1; }

rm -rf "$out"
mkdir -p "$out"

compare() {  # MODEL NAME NOISE_TOKENS
  local i
  for i in "${!texts[@]}"; do
    "$NIBBLE" eval kld "$1" --base "$source_model" --data "${texts[$i]}" --mode documents --noise-tokens "$3" \
      --out "$out/$2.$i.json" >"$out/$2.$i.log" 2>&1 || { cat "$out/$2.$i.log" >&2; return 1; }
  done
}

suite() {  # MODEL NAME; a score below the card is a result, not a failure of this script
  # shellcheck disable=SC2016  # the inner shell expands it
  scripts/with_server "$1" -- sh -c 'python3 models/demo/eval/run_suite.py "$NIBBLE_URL/v1" --json "$0"' \
    "$out/$2.suite.json" >"$out/$2.suite.log" 2>&1 || true
  [ -s "$out/$2.suite.json" ] || { cat "$out/$2.suite.log" >&2; return 1; }
}

echo "quality: BF16, noise floor" >&2
compare "$source_model" bf16 10000000
suite "$source_model" bf16
for method in $methods; do
  echo "quality: $method (at $SECONDS s)" >&2
  start=$(date +%s.%N)
  "$NIBBLE" quantize "$source_model" "$out/$method" --scales "$method" >"$out/$method.log" 2>&1 ||
    { cat "$out/$method.log" >&2; exit 1; }
  echo "$(date +%s.%N) $start" >"$out/$method.time"
  compare "$out/$method" "$method" 0
  suite "$out/$method" "$method"
done

# shellcheck disable=SC2086  # one word a method
python3 - "$out" ${#texts[@]} "${texts[@]}" $methods <<'PY' | tee "$out/table.md"
import json, os, sys

out, count = sys.argv[1], int(sys.argv[2])
texts, methods = sys.argv[3:3 + count], sys.argv[3 + count:]
names = [os.path.basename(text) for text in texts]


def load(name):
    return json.load(open(os.path.join(out, name + ".json")))


def seconds(method):
    end, start = map(float, open(os.path.join(out, method + ".time")).read().split())
    return end - start


def suite(name):
    items = load(name + ".suite")["items"]
    return f"{sum(item['pass'] for item in items)} of {len(items)}"


def row(cells):
    print("| " + " | ".join(cells) + " |")


def label(name):
    return "BF16" if name == "bf16" else f"`{name}`"


for i, name in enumerate(names):
    base = load(f"bf16.{i}")
    print(f"**{name}**: {base['data']['documents']} documents, {base['totals']['tokens']} tokens, SHA-256 "
          f"`{base['data']['sha256'][:16]}...`.\n")
    row(["scales", "mean KLD", "of max's", "99 %", "same top", "PPL ratio"])
    print("|---|" + "---:|" * 5)
    largest = load(f"max.{i}")["totals"]["kld"]["value"]
    for method in methods:
        t = load(f"{method}.{i}")["totals"]
        row([label(method), f"{t['kld']['value']:.6f} \u00b1 {t['kld']['error']:.6f}", f"{t['kld']['value'] / largest:.3f}",
             f"{t['kld_percentiles']['99']:.5f}", f"{100 * t['same_top']['value']:.2f} %",
             f"{t['perplexity_ratio']['value']:.5f} \u00b1 {t['perplexity_ratio']['error']:.5f}"])
    print("\nNoise floor, BF16 against itself over all tokens: " +
          ", ".join(f"{floor['base_against_base']} {floor['kld']['value']:.1e}" for floor in base["noise_floor"]) + ".\n")
row(["scales", "suite", "minutes"])
print("|---|---:|---:|")
for method in ["bf16"] + methods:
    row([label(method), suite(method), "" if method == "bf16" else f"{seconds(method) / 60:.2f}"])
print()
head = load("bf16.0")
print(f"Arithmetic {head['arithmetic']}, KV cache {head['kv_dtype']} (suite: as the checkpoint says), {head['device']}, "
      f"nibble {head['engine']['version']}.")
PY
