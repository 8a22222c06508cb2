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
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
for family in small odd; do
  if [ ! -d "$goldens/text_$family" ] || [ ! -d "$goldens/models/$family" ]; then
    echo "text_$family left out: not in $goldens"
    continue
  fi
  cp -r "$goldens/models/$family" "$work/$family" && chmod -R u+w "$work/$family"
  find "$work/$family" -name '*.xz' -exec xz -d {} +
  run goldens "$goldens/text_$family" "$work/$family"
done
run text models/demo models/demo/eval/heldout_generated.txt 2e-5
[ -f "$goldens/heldout.txt" ] && run text models/demo "$goldens/heldout.txt" 4e-4
# Rounded activations against exact, mean KLD: fp8 has limits, nvfp4 is measured.
"$nibble" quantize models/demo "$work/demo" --recipe nvfp4-mlp-w4a16 --scales max >/dev/null || failed=1
kld() {  # TEXT ACTIVATIONS LIMIT
  "$nibble" eval kld "$work/demo" --device cuda --mode documents --no-layers --data "$1" \
    --activations "$2" --base "$work/base" >"$work/kld" || failed=1
  grep -E '^model|^text|Mean +KLD|Same top' "$work/kld"
  awk -v limit="$3" '$1 == "Mean" && $2 == "KLD:" { found = $3 }
    END { if (found == "" || found > limit) { print "FAIL mean KLD above " limit; exit 1 } }' \
    "$work/kld" || failed=1
}
for text in models/demo/eval/heldout_generated.txt "$goldens/heldout.txt"; do
  [ -f "$text" ] || continue
  "$nibble" eval kld "$work/demo" --device cuda --mode documents --no-layers --noise-tokens 0 \
    --data "$text" --save-base "$work/base" >/dev/null || failed=1
  case $text in *generated*) limit=4e-4 ;; *) limit=1.5e-2 ;; esac
  kld "$text" fp8 $limit
  kld "$text" nvfp4 1
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
  # racecheck does not follow copies whose end an mbarrier tells (it names cuBLASLt's own kernels):
  # only the group without them.
  check racecheck "$nibble" selftest --device cuda --only rows
else
  echo "compute-sanitizer left out: not found"
fi
nvidia-smi --query-gpu=clocks.sm,clocks.mem,temperature.gpu,power.draw --format=csv,noheader
exit $failed
