#!/usr/bin/env bash
# The whole way in one command: packages, build, quantize the demo model, serve it, ask it a question.
#
# Everything it writes lies below build/; when it ends, Ctrl-C included, no process of it is left.
set -euo pipefail
cd "$(dirname "$0")/.."
export CCACHE_DIR="${CCACHE_DIR:-$PWD/build/ccache}"

source_model=models/demo
quantized_model=build/demo/nvfp4
# A part of the held-out stories, so that the quality line takes seconds; docs/quality.md has it whole.
text=models/demo/eval/heldout_generated.txt
documents=48
question="Write a little story about a deer and a wagon."

step() {
  echo
  echo "== $* (at $SECONDS s)"
}

weight_bytes() {
  cat "$1"/*.safetensors | wc -c
}

step "1/5 packages"
scripts/deps.sh

step "2/5 build"
cmake --preset release
cmake --build --preset release --target nibble

step "3/5 quantize $source_model (BF16) to $quantized_model (NVFP4)"
rm -rf "$quantized_model"
mkdir -p "$(dirname "$quantized_model")"
build/release/nibble quantize "$source_model" "$quantized_model"
before=$(weight_bytes "$source_model")
after=$(weight_bytes "$quantized_model")

step "4/5 serve $quantized_model and ask"
scripts/with_server "$quantized_model" -- scripts/ask "$question"
awk -v before="$before" -v after="$after" 'BEGIN {
  printf "  weights:  %.1f MB before, %.1f MB after (%.2f of it)\n",
         before / 1e6, after / 1e6, after / before }'

step "5/5 compare $quantized_model with $source_model on $documents documents of $text"
build/release/nibble eval kld "$quantized_model" --base "$source_model" --data "$text" --mode documents \
  --limit "$documents" --noise-tokens 0 --out build/demo/kld.json >/dev/null
python3 - build/demo/kld.json "$before" "$after" <<'PY'
import json, sys

totals = json.load(open(sys.argv[1]))["totals"]
before, after = map(int, sys.argv[2:4])
print("  quality:  KLD {:.6f} +/- {:.6f} nats, same top {:.2f} %, perplexity ratio {:.5f} +/- {:.5f}, size ratio {:.3f}"
      " ({} tokens)".format(totals["kld"]["value"], totals["kld"]["error"], 100 * totals["same_top"]["value"],
                            totals["perplexity_ratio"]["value"], totals["perplexity_ratio"]["error"], after / before,
                            totals["tokens"]))
PY

echo
echo "Try it yourself:  build/release/nibble chat $quantized_model"
