#!/usr/bin/env bash
# The whole way in one command: packages, build, quantize the demo model, serve it, ask it a question.
#
# Everything it writes lies below build/; when it ends, Ctrl-C included, no process of it is left.
set -euo pipefail
cd "$(dirname "$0")/.."
export CCACHE_DIR="${CCACHE_DIR:-$PWD/build/ccache}"

source_model=models/demo
quantized_model=build/demo/nvfp4
question="Write a little story about a deer and a wagon."

step() {
  echo
  echo "== $* (at $SECONDS s)"
}

weight_bytes() {
  cat "$1"/*.safetensors | wc -c
}

step "1/4 packages"
scripts/deps.sh

step "2/4 build"
cmake --preset release
cmake --build --preset release --target nibble

step "3/4 quantize $source_model (BF16) to $quantized_model (NVFP4)"
rm -rf "$quantized_model"
mkdir -p "$(dirname "$quantized_model")"
build/release/nibble quantize "$source_model" "$quantized_model"
before=$(weight_bytes "$source_model")
after=$(weight_bytes "$quantized_model")

step "4/4 serve $quantized_model and ask"
scripts/with_server "$quantized_model" -- scripts/ask "$question"
awk -v before="$before" -v after="$after" 'BEGIN {
  printf "  weights:  %.1f MB before, %.1f MB after (%.2f of it)\n",
         before / 1e6, after / 1e6, after / before }'

echo
echo "Try it yourself:  build/release/nibble chat $quantized_model"
