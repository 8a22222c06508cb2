#!/usr/bin/env bash
# kill -9 at many moments of `nibble quantize`, spread over its layers and phases, each followed by
# the same command: the result must be byte for byte that of an undisturbed run, nothing may look
# finished before it is, and a run that goes on may redo no more than the layer it was killed in.
#
# kill_check.sh NIBBLE SOURCE WORK [OPTION OF QUANTIZE...]
#   CALIBRATING=8 QUANTIZING=7 PUBLISHING=5   kills aimed at each phase
#   ENOUGH=5                                  that must hit it: on a short run some come late
# WORK must not exist; it takes twice the result's size, and is removed unless something failed.
set -uo pipefail
if [ $# -lt 3 ]; then
  sed -n '2,10s/^# \{0,1\}//p' "$0"
  exit 2
fi
nibble=$1
source=$2
work=$3
shift 3
options=("$@")
calibrating=${CALIBRATING:-8}
quantizing=${QUANTIZING:-7}
publishing=${PUBLISHING:-5}
enough=${ENOUGH:-5}
mkdir "$work" || exit 1
mkfifo "$work/messages"

# shellcheck source=/dev/null
source "$(dirname "$0")/checks.sh"
milliseconds() { echo $(($(date +%s%N) / 1000000)); }
same_as_whole() { diff -r "$work/whole" "$1"; }

# Phases are lines of their own: "copying", "layer 3/8 calibrating", "head quantizing", "publishing".
is_phase() { [[ $1 =~ ^(copying|publishing|(head|layer\ [0-9]+/[0-9]+)\ (calibrating|quantizing))$ ]]; }

declare -A duration  # of each phase in milliseconds, from the undisturbed run
declare -A hits      # kills inside calibrating, quantizing, publishing
first_phase=""       # of the last run
last_phase=""

# run DESTINATION [PHASE DELAY_MS]: runs the command; kills it so long after PHASE began.
run() {
  local line began now
  first_phase=""
  last_phase=""
  "$nibble" quantize "$source" "$1" "${options[@]}" >"$work/output" 2>"$work/messages" &
  local process=$!
  began=$(milliseconds)
  while IFS= read -r line; do
    is_phase "$line" || { echo "$line" >"$work/last-message"; continue; }
    now=$(milliseconds)
    [ -z "$last_phase" ] || duration[$last_phase]=$((now - began))
    began=$now
    last_phase=$line
    [ -n "$first_phase" ] || first_phase=$line
    if [ "$line" = "${2:-}" ]; then
      sleep "$(awk -v ms="$3" 'BEGIN { printf "%.3f", ms / 1000 }')"
      kill -KILL "$process"
    fi
  done <"$work/messages" 2>/dev/null
  wait "$process" 2>/dev/null
  now=$(milliseconds)
  duration[$last_phase]=$((now - began))
  [ $# -eq 1 ] || hits[${last_phase##* }]=$((${hits[${last_phase##* }]:-0} + 1))
}

# The place of a phase in the order of work; the phases of one layer share it.
unit_of() {
  case "$1" in
    copying) echo 0 ;;
    layer*) sed -E 's/layer ([0-9]+).*/\1/' <<<"$1" ;;
    head*) echo $((layers + 1)) ;;
    *) echo $((layers + 2)) ;;
  esac
}

# told KILLED RESUMED: prints what a kill hit and what the next run began with; judges it.
told() {
  local redone=$(($(unit_of "$1") - $(unit_of "$2")))
  printf '%-24s -> %-24s %s\n' "$1" "$2" "finished layers redone: $((redone > 0 ? redone : 0))"
  check "after a kill in '$1' work began at '$2'" test "$redone" -le 0
}

run "$work/whole"
[ -e "$work/whole/config.json" ] || { cat "$work/last-message"; exit 1; }
layers=$(sed -nE 's/.*"num_hidden_layers": *([0-9]+).*/\1/p' "$source/config.json" | head -n 1)
total=0
for phase in "${!duration[@]}"; do total=$((total + duration[$phase])); done
echo "undisturbed: $((total / 1000)) s, $layers layers, publishing ${duration[publishing]} ms"

# Kills in the order of work: "unit order-within-unit phase per-mille".
plan() {
  local i layer
  for i in $(seq 0 $((calibrating - 1))); do
    layer=$((i * layers / calibrating + 1))
    echo "$layer 0 $((50 + i * 370 % 900)) layer $layer/$layers calibrating"
  done
  for i in $(seq 0 $((quantizing - 1))); do
    layer=$((i * layers / quantizing + 1))
    echo "$layer 1 $((50 + i * 370 % 900)) layer $layer/$layers quantizing"
  done
}

out=$work/killed
killed=""
while read -r _ _ share phase; do
  run "$out" "$phase" $((duration[$phase] * share / 1000))
  [ -z "$killed" ] || told "$killed" "$first_phase"
  killed=$last_phase
  check "nothing looks finished after a kill in '$killed'" test ! -e "$out"
done < <(plan | sort -n -k1,1 -k2,2 -k3,3)

# The first kill as publishing begins leaves the folder that the others start from.
for i in $(seq 0 $((publishing - 1))); do
  run "$out" publishing $((duration[publishing] * i / publishing))
  [ -z "$killed" ] || told "$killed" "$first_phase"
  killed=$last_phase
  if [ -e "$out" ]; then
    # Killed between the last rename and the removal of our notes: the next run removes them.
    check "what is there after a kill in '$killed' is whole" \
      diff -r -x .nibble-job -x .nibble-progress "$work/whole" "$out"
    "$nibble" quantize "$source" "$out" "${options[@]}" >"$work/output" 2>"$work/last-message"
    check "the next run takes it for finished" grep -q "exists already" "$work/last-message"
    check "and leaves nothing but the model" same_as_whole "$out"
    printf '%-24s -> finished\n' "$killed"
    killed=""
    rm -rf "$out" "$out.partial"
    [ ! -e "$work/kept" ] || cp -al "$work/kept" "$out.partial"
  elif [ ! -e "$work/kept" ]; then
    cp -al "$out.partial" "$work/kept"
  fi
done
run "$out"
[ -z "$killed" ] || told "$killed" "$first_phase"
check "the result is that of an undisturbed run" same_as_whole "$out"
rm -rf "$work/kept" "$work/messages" "$work/output" "$work/last-message"
check "nothing else is left" test "$(find "$work" -mindepth 1 -maxdepth 1 -printf '%f\n' | sort | xargs)" = "killed whole"
for phase in calibrating quantizing publishing; do
  check "enough kills inside $phase" test "${hits[$phase]:-0}" -ge "$enough"
done
echo "kills inside calibrating ${hits[calibrating]:-0}, quantizing ${hits[quantizing]:-0}, publishing ${hits[publishing]:-0}"
checks_done || exit 1
rm -rf "$work"
