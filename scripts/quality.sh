#!/usr/bin/env bash
# What quantization costs: file size, perplexity and the demo suite, BF16 beside NVFP4.
#
# Needs build/release/nibble and the quantized model that `make demo` leaves in build/demo/nvfp4.
# The suite's exit status (a category below the model card) is shown, not hidden: BF16 must pass.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

report() {
  local model=$1 status
  echo "== $model: $(cat "$model"/*.safetensors | wc -c) bytes of weights"
  build/release/nibble eval ppl "$model" --data models/demo/eval/heldout_generated.txt \
    --mode documents || return 1
  # shellcheck disable=SC2016  # the inner shell expands it
  scripts/with_server "$model" -- sh -c 'python3 models/demo/eval/run_suite.py "$NIBBLE_URL/v1"'
  status=$?
  echo "== $model: suite exit status $status"
  return "$status"
}

report models/demo
bf16=$?
[ -d build/demo/nvfp4 ] || { echo "quality: no build/demo/nvfp4: run make demo first" >&2; exit 1; }
report build/demo/nvfp4 || echo "   (NVFP4 may lose items: this is what the report is for)"
exit "$bf16"
