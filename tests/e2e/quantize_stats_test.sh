#!/usr/bin/env bash
# `nibble quantize --stats`: statistics saved by one run stand in for the next one's forward pass,
# with the same bytes; others are refused. And recipes that need no statistics ask for no text.
#
# quantize_stats_test.sh NIBBLE MODEL
set -uo pipefail
nibble=$1
model=$2
work=$(mktemp -d)
export message_file=$work/message
trap 'rm -rf "$work"' EXIT

# shellcheck source=/dev/null
source scripts/checks.sh
quantize() {  # DESTINATION OPTION...: messages in $work/message
  local out=$1
  shift
  "$nibble" quantize "$model" "$work/$out" --scales hessian --calib-length 64 "$@" \
    >"$work/message" 2>&1
}
says() { grep -qE "$1" "$work/message"; }

quantize plain --calib-samples 4 || { echo "FAIL a run without --stats"; exit 1; }
check "saving" quantize saving --calib-samples 4 --stats "$work/stats"
check "the file is there" test -s "$work/stats"
check "saving changes no byte" diff -r "$work/plain" "$work/saving"
check "reusing" quantize reusing --calib-samples 4 --stats "$work/stats"
check "it says so" says "statistics are taken from"
check "no sequence is run" test "$(grep -c 'sequence' "$work/message")" -eq 0
check "reusing changes no byte" diff -r "$work/plain" "$work/reusing"

quantize other --calib-samples 5 --stats "$work/stats"
check "status for another calibration" test $? -eq 2
check "message for another calibration" says "made from source .* with calibration .*this run has"
quantize forced --calib-samples 4 --stats "$work/stats" --force-all-experts
check "forced experts are another calibration" test $? -eq 2

"$nibble" quantize "$model" "$work/maxima" --calib-samples 4 --calib-length 64 --scales max \
  --stats "$work/small-stats" >"$work/message" 2>&1
check "statistics without moments" test -s "$work/small-stats"
quantize lacking --calib-samples 4 --stats "$work/small-stats"
check "moments that are not there" test $? -eq 2
check "their message" says "no second moments"

mkdir "$work/bare"
cp "$model"/*.safetensors* "$model/config.json" "$work/bare"
"$nibble" quantize "$work/bare" "$work/weights-only" --recipe nvfp4-mlp-w4a16 --scales mse \
  >"$work/message" 2>&1
check "weights alone need no calibration text" test -e "$work/weights-only/config.json"
"$nibble" quantize "$work/bare" "$work/nothing" >"$work/message" 2>&1
check "inputs do" says "no calibration data"
check "and no search does without it" test "$(grep -c -e '--scales' "$work/message")" -eq 0
"$nibble" quantize "$work/bare" "$work/nothing" --recipe nvfp4-mlp-w4a16 >"$work/message" 2>&1
check "the default search reads it too" says "no calibration data"
check "its message names one that does not" says "[-]-scales mse .*weights alone"

checks_done
