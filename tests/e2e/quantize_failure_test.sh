#!/usr/bin/env bash
# What fails outside while `nibble quantize` runs: a full disk, a file size limit, a source that
# becomes shorter. Each ends with a message that names the file, and nothing looks finished; where
# the cause is gone the same command goes on to the same bytes.
#
# quantize_failure_test.sh NIBBLE MODEL
set -uo pipefail
nibble=$1
model=$2
work=$(mktemp -d)
export message_file=$work/message
mounted=""
clean_up() {
  [ -z "$mounted" ] || umount "$mounted"
  rm -rf "$work"
}
trap clean_up EXIT
skipped=0

# shellcheck source=/dev/null
source scripts/checks.sh
quantize() { "$nibble" quantize "$1" "$2" --scales max --calib-samples 4 --calib-length 64; }
says() { grep -qE "$1" "$work/message"; }

quantize "$model" "$work/whole" >/dev/null 2>&1 || { echo "FAIL an undisturbed run"; exit 1; }

# 3000 blocks of 1 KiB: less than the only shard.
(ulimit -f 3000 && quantize "$model" "$work/limited") >/dev/null 2>"$work/message"
check "status at a file size limit" test $? -eq 1
check "message at a file size limit" says 'limited\.partial/.*: File too large'
check "nothing at a file size limit" test ! -e "$work/limited"
quantize "$model" "$work/limited" >/dev/null 2>&1
check "goes on without the limit" diff -r "$work/whole" "$work/limited"

mkdir "$work/small"
if [ "$(id -u)" -eq 0 ] && mount -t tmpfs -o size=4m none "$work/small" 2>/dev/null; then
  mounted=$work/small
  quantize "$model" "$work/small/out" >/dev/null 2>"$work/message"
  check "status of a full disk" test $? -eq 1
  check "message of a full disk" says 'out\.partial/.*: No space left'
  check "nothing on a full disk" test ! -e "$work/small/out"
  mount -o remount,size=64m "$work/small"
  quantize "$model" "$work/small/out" >/dev/null 2>&1
  check "goes on when there is room" diff -r "$work/whole" "$work/small/out"
else
  skipped=$((skipped + 1))
fi

cp -r "$model" "$work/source"
shard=$work/source/model-00002-of-00002.safetensors
"$nibble" quantize "$work/source" "$work/torn" --scales max --calib-samples 64 --calib-length 512 \
  >/dev/null 2>"$work/message" &
process=$!
for _ in $(seq 1 600); do
  ! grep -q '^layer 1/' "$work/message" || break
  sleep 0.05
done
truncate -s 4096 "$shard"
wait "$process"
check "status of a source that became shorter" test $? -eq 1
check "message of a source that became shorter" says "${shard##*/}: cannot be read any more"
check "nothing from a source that became shorter" test ! -e "$work/torn"

checks_done "$skipped"
