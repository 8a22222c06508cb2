#!/usr/bin/env bash
# Micro-benchmarks (build/release/benchmarks), then the engine on the demo model.
#
# Numbers are worth keeping only from a quiet machine; write down machine, command and spread with them.
set -euo pipefail
cd "$(dirname "$0")/.."

found=no
for program in build/release/benchmarks/*; do
  if [ ! -f "$program" ] || [ ! -x "$program" ]; then continue; fi
  found=yes
  echo "== $program"
  "$program"
done
[ "$found" = yes ] || echo "bench: no micro-benchmark was built"

echo "== nibble bench engine"
build/release/nibble bench engine models/demo -p 512 -n 64 -r 3
