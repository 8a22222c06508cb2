#!/usr/bin/env bash
# kill -9 at many moments of `nibble quantize`: the destination is absent or whole, and the same
# command goes on to the same bytes. Also Ctrl-C: exit status 130, nothing under the final name.
#
# quantize_kill_test.sh NIBBLE MODEL
set -uo pipefail
nibble=$1
model=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0
failed=0

check() {  # NAME COMMAND...
  local name=$1
  shift
  if "$@"; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    echo "FAIL $name"
  fi
}
quantize() { "$nibble" quantize "$model" "$1" --calib-samples 4 --calib-length 64; }
# A kill between the last rename and the removal of our notes leaves these two: no part of the model.
same_as_whole() { diff -r -x .nibble-job -x .nibble-progress "$work/whole" "$1"; }
absent_or_whole() { [ ! -e "$1" ] || same_as_whole "$1" >/dev/null; }
milliseconds() { echo $(($(date +%s%N) / 1000000)); }

started=$(milliseconds)
quantize "$work/whole" >/dev/null 2>&1 || { echo "FAIL an undisturbed run"; exit 1; }
duration=$(($(milliseconds) - started))

killed=0
for step in $(seq 1 20); do
  out=$work/killed
  "$nibble" quantize "$model" "$out" --calib-samples 4 --calib-length 64 >/dev/null 2>&1 &
  process=$!
  sleep "$(awk -v d="$duration" -v s="$step" 'BEGIN { printf "%.3f", d * s / 20 / 1000 }')"
  kill -KILL "$process" 2>/dev/null && killed=$((killed + 1))
  wait "$process" 2>/dev/null
  check "killed after $step/20 of the time" absent_or_whole "$out"
  if [ $((step % 5)) -eq 0 ]; then
    [ -e "$out" ] || quantize "$out" >/dev/null 2>&1
    check "gone on after kill $step" same_as_whole "$out"
    check "nothing else is left after kill $step" test "$(ls "$work" | sort | xargs)" = "killed whole"
  fi
  [ ! -e "$out" ] || rm -rf "$out"
done
check "at least five runs were killed before their end (were: $killed)" test "$killed" -ge 5

"$nibble" quantize "$model" "$work/stopped" --calib-samples 256 --calib-length 4096 >/dev/null 2>"$work/message" &
process=$!
for _ in $(seq 1 600); do
  [ ! -e "$work/stopped.partial" ] || break
  sleep 0.05
done
kill -INT "$process"
wait "$process"
check "exit status of Ctrl-C" test $? -eq 130
check "message of Ctrl-C" grep -q "run the same command again" "$work/message"
check "no destination after Ctrl-C" test ! -e "$work/stopped"

echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" -eq 0 ]
