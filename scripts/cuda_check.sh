#!/bin/sh
# Builds nibble and cuda_check (preset cuda) and runs all of it on GPU 0: selftest, goldens, whole models,
# timings.
#
#   scripts/cuda_check.sh [GOLDENS] [CONFIGS]
#
# GOLDENS: a folder with text_small, text_odd and models/ (small, odd); CONFIGS: a folder with 35b-seed,
# 35b-fp8-dense, mid4-seed, mid4-fp8-dense. What is not there is named and left out. Without a GPU or nvcc
# it says so and succeeds. CUDA_CHECK and NIBBLE name programs that were built elsewhere.
cd "$(dirname "$0")/.." || exit 1
goldens=${1:-testdata/goldens}
configs=${2:-benchmarks/configs}
program=${CUDA_CHECK:-build/cuda/tests/cuda/cuda_check}
nibble=${NIBBLE:-build/cuda/nibble}
if ! command -v nvidia-smi >/dev/null || ! nvidia-smi -L >/dev/null 2>&1; then
  echo "cuda_check skipped: no GPU"
  exit 0
fi
if [ -z "$CUDA_CHECK" ]; then
  if ! command -v nvcc >/dev/null; then
    echo "cuda_check skipped: no nvcc"
    exit 0
  fi
  cmake --preset cuda && cmake --build build/cuda --target cuda_check nibble || exit 1
fi
nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem,power.limit --format=csv,noheader
failed=0
run() {
  echo "## cuda_check $*"
  "$program" "$@" || failed=1
}
"$nibble" selftest --device cuda || failed=1
unpacked=$(mktemp -d)
trap 'rm -rf "$unpacked"' EXIT
for family in small odd; do
  if [ ! -d "$goldens/text_$family" ] || [ ! -d "$goldens/models/$family" ]; then
    echo "text_$family left out: not in $goldens"
    continue
  fi
  cp -r "$goldens/models/$family" "$unpacked/$family" && chmod -R u+w "$unpacked/$family"
  find "$unpacked/$family" -name '*.xz' -exec xz -d {} +
  run goldens "$goldens/text_$family" "$unpacked/$family"
done
run text models/demo models/demo/eval/heldout_generated.txt 2e-5
[ -f "$goldens/heldout.txt" ] && run text models/demo "$goldens/heldout.txt" 4e-4
# FP8 activations against exact: mean KLD at most 4e-4 on the first text, 1.5e-2 on the second.
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
"$nibble" quantize models/demo "$work/demo" --recipe nvfp4-mlp-w4a16 --scales max >/dev/null || failed=1
for text in models/demo/eval/heldout_generated.txt "$goldens/heldout.txt"; do
  [ -f "$text" ] || continue
  kld() {
    "$nibble" eval kld "$work/demo" --device cuda --mode documents --data "$text" "$@" || failed=1
  }
  kld --save-base "$work/base"
  kld --base "$work/base" --activations fp8 | grep -E "^model|^text|Mean +KLD|Same top"
done
for config in mid4-seed mid4-fp8-dense; do
  if [ -d "$configs/$config" ]; then run dummy "$configs/$config"; else echo "$config left out"; fi
done
bench() {
  "$nibble" bench engine --device cuda --load-format dummy --kv-cache-dtype fp8 -r 3 "$@" || failed=1
}
for config in 35b-seed 35b-fp8-dense; do
  if [ ! -d "$configs/$config" ]; then echo "$config left out"; continue; fi
  bench "$configs/$config" -p 0 -n 128 -s 1,2,4,8,32
  bench "$configs/$config" -p 0 -n 128 -d 32640
  bench "$configs/$config" -p 512,2048,8192 -n 0 --max-num-batched-tokens 8192
  bench "$configs/$config" -p 2048,8192 -n 0 --max-num-batched-tokens 8192 --activations fp8
done
sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
if [ -x "$sanitizer" ]; then
  check() {
    echo "## compute-sanitizer --tool $1"
    "$sanitizer" --error-exitcode 1 --tool "$@" || failed=1
  }
  check memcheck "$nibble" selftest --device cuda
  # Not linear: racecheck reports cuBLASLt's own kernels there. The blocks take minutes.
  check racecheck "$nibble" selftest --device cuda --only rows,head,experts-block,delta-block
else
  echo "compute-sanitizer left out: not found"
fi
nvidia-smi --query-gpu=clocks.sm,clocks.mem,temperature.gpu,power.draw --format=csv,noheader
exit $failed
