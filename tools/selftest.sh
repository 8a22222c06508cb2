#!/usr/bin/env bash
# Proves that every check of this folder can fail: small trees with one violation each, and their clean
# twins. Works below build/selftest and leaves nothing behind.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
tools=$PWD/tools
work=$PWD/build/selftest
rm -rf "$work"
mkdir -p "$work"
trap 'rm -rf "$work"' EXIT

passed=0
failed=0

# file PATH TEXT...: one line per argument, below the current tree.
file() {
  local path=$tree/$1
  shift
  mkdir -p "$(dirname "$path")"
  printf '%s\n' "$@" >"$path"
}

# new_tree NAME: an empty tree with this repository's style file.
new_tree() {
  tree=$work/$1
  mkdir -p "$tree"
  cp .clang-format "$tree/"
}

# expect STATUS PATTERN COMMAND...: status and a line of output that matches.
expect() {
  local status=$1 pattern=$2 output found=0
  shift 2
  output=$("$@" 2>&1) || found=$?
  if [ "$found" -eq "$status" ] && grep -qE -- "$pattern" <<<"$output"; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    echo "selftest: $*: status $found (wanted $status), no line matching '$pattern' in:"
    printf '    %s\n' "${output//$'\n'/$'\n'    }"
  fi
}

# check NAME STATUS PATTERN: runs tools/check_NAME on the current tree.
check() {
  expect "$2" "$3" "$tools/check_$1" --root "$tree"
}

new_tree layers_clean
file src/base/file.h '#pragma once'
file src/tensor/tensor.cc '#include "base/file.h"' '#include <vector>'
file src/kernels/cpu/norm/norm.h '#pragma once' '#include <cstdint>'
file src/kernels/cpu/norm/norm_avx2.cc '#include "kernels/cpu/norm/norm.h"' '#include <immintrin.h>'
file src/kernels/cpu/norm/norm_test.cc '#include "kernels/reference/norm.h"' '#include "base/rng.h"'
file src/device/cuda/handles.cc '#include <cuda_runtime.h>'
file src/runtime/engine.cc '#include "tokenizer/incremental_decoder.h"' '#include "model/weights.h"'
file src/main.cc '#include "cli/run.h"'
check layers 0 '^check_layers: 8 files, 0 problems$'

new_tree layers_up
file src/base/file.cc '' '#include "tensor/tensor.h"'
check layers 1 '^src/base/file.cc:2: base may not include tensor/tensor.h'
new_tree layers_indented
file src/tokenizer/bpe.cc '#  include "formats/bf16.h"'
check layers 1 '^src/tokenizer/bpe.cc:1: tokenizer may not'
new_tree layers_runtime_text
file src/runtime/engine.cc '#include "tokenizer/chat_template.h"'
check layers 1 'runtime may not include tokenizer/chat_template.h'
new_tree layers_cli
file src/server/http.cc '#include "cli/args.h"'
check layers 1 'server may not include cli/args.h'
new_tree layers_device
file src/device/device.h '#include "device/cpu/cpu_device.h"'
check layers 1 'device may not include device/cpu/cpu_device.h'
new_tree layers_reference
file src/device/cpu/ops.cc '#include "kernels/reference/norm.h"'
check layers 1 'device/cpu may not include kernels/reference'
new_tree layers_unknown
file src/utilities/x.cc '#include "base/file.h"'
check layers 1 'not in the layer table'
new_tree layers_bare
file src/base/file.cc '#include "file.h"'
check layers 1 'write the folder'
new_tree layers_isa_std
file src/kernels/cpu/norm/norm_avx512.cc '#include <vector>'
check layers 1 'norm_avx512.cc:1: .*may not include <vector>'
new_tree layers_isa_project
file src/kernels/cpu/norm/norm_avx2.cc '#include "base/check.h"'
check layers 1 'norm_avx2.cc:1: .*may not include base/check.h'
new_tree layers_isa_through
file src/kernels/cpu/norm/norm.h '#include <algorithm>'
file src/kernels/cpu/norm/norm_avx2.cc '#include "kernels/cpu/norm/norm.h"'
check layers 1 'norm.h:1: reached from src/kernels/cpu/norm/norm_avx2.cc'
new_tree layers_isa_neighbour
file src/kernels/cpu/norm/norm_avx2.cc '#include "kernels/cpu/rope/rope.h"'
check layers 1 'may not include kernels/cpu/rope/rope.h'
new_tree layers_cuda
file src/model/decoder.cc '#include <cuda_runtime.h>'
check layers 1 'CUDA header cuda_runtime.h'

new_tree sizes_clean
file src/base/a.cc 'int f(int a, int b) {' '  return a + b;' '}'
check sizes 0 '0 problems$'
new_tree sizes_file
file src/base/a.cc "$(yes '// line' | head -801)"
check sizes 1 '^src/base/a.cc:1: 801 lines, limit 800'
file tools/size_exceptions.txt 'src/base/a.cc: a generated table'
check sizes 0 '0 problems$'
file tools/size_exceptions.txt 'src/base/a.cc:'
check sizes 1 'no reason given'
new_tree sizes_header
file src/base/a.h "$(yes '// line' | head -401)"
check sizes 1 '^src/base/a.h:1: 401 lines, limit 400'
if tools/check_sizes | grep -q 'functions'; then
  new_tree sizes_function
  file src/base/a.cc 'int f(int a) {' "$(yes '  a += 1;' | head -99)" '  return a;' '}'
  check sizes 1 '^src/base/a.cc:1: f has 102 lines, limit 100'
  new_tree sizes_parameters
  file src/base/a.cc 'int f(int a, int b, int c, int d, int e, int g, int h, int i, int j) { return a; }'
  check sizes 1 'f has 9 parameters, limit 8'
  new_tree sizes_stale
  file src/base/a.cc 'int f() { return 1; }'
  file tools/size_exceptions.txt 'src/base/a.cc f: was long once'
  check sizes 1 'within the limits: remove it'
else
  echo "selftest: function sizes skipped: universal-ctags not installed"
fi

new_tree pairs_clean
file src/kernels/reference/norm.h ''
file src/kernels/reference/norm.cc ''
file src/kernels/cpu/norm/norm_avx2.cc ''
file src/kernels/cpu/norm/norm_test.cc '#include "kernels/reference/norm.h"'
check pairs 0 '^check_pairs: 1 kernel folders, 0 problems$'
rm "$tree/src/kernels/reference/norm.cc"
check pairs 1 'src/kernels/reference/norm.cc is missing'
file src/kernels/cpu/norm/norm_test.cc '#include "base/rng.h"'
check pairs 1 'no test includes a header of kernels/reference'
rm "$tree/src/kernels/cpu/norm/norm_test.cc"
check pairs 1 'has kernels but no test'

new_tree words_clean
file src/base/a.cc '// plain'
check words 0 '0 problems$'
new_tree words_shared
file docs/NOTES.md 'see ../shared/goldens'
check words 1 '^docs/NOTES.md:1: forbidden here: ../shared'
new_tree words_machine
file CMakeLists.txt '' 'include(/work/main/x.cmake)'
check words 1 '^CMakeLists.txt:2: forbidden here: /work/'
new_tree words_registry
file scripts/x.sh 'curl https://pypi.org/simple'
check words 1 'forbidden here: pypi.org'
new_tree words_flags
file cmake/x.cmake 'add_compile_options(-march=native)'
check words 1 'forbidden here: -march='
new_tree words_ascii
file src/base/a.cc '' "// caf$(printf '\303\251')"
check words 1 '^src/base/a.cc:2: not ASCII'

new_tree headers
file src/base/a.h '#pragma once' '#include <string>' 'inline std::string f() { return {}; }'
check headers 0 '^check_headers: 1 headers \(1 compiled here\), 0 problems$'
file src/base/b.h '#pragma once' 'inline std::string g() { return {}; }'
check headers 1 '^src/base/b.h: does not compile alone'
file src/base/b.cc '#include "base/b.h"'
check headers 1 '^src/base/b.h: does not compile alone'
file src/base/CMakeLists.txt 'nibble_library(base SOURCES b.cc)'
check headers 0 '^check_headers: 2 headers \(1 compiled here\), 0 problems$'
file src/base/b.cc '#include <string>' '#include "base/b.h"'
check headers 1 '^src/base/b.h: does not compile alone'

if command -v clang-format >/dev/null; then
  new_tree format
  file src/base/a.cc 'int f() {' '  return 1;' '}'
  check format 0 '0 problems$'
  file src/base/a.cc 'int f()   { ' ' return 1; }'
  check format 1 'src/base/a.cc:1'
else
  echo "selftest: format skipped: clang-format not installed"
fi

# ISA symbols: real objects, made as the build makes them.
# isa_build NAME SOURCE_NAME TEXT...: compiles one file with AVX2 flags and writes its database.
isa_build() {
  local name=$2
  new_tree "$1"
  shift 2
  file "$name" "$@"
  g++ -std=c++20 -O0 -mavx2 -c "$tree/$name" -o "$tree/x.o"
  printf '[{"directory": "%s", "command": "g++ -mavx2 -o x.o -c %s", "file": "%s"}]\n' \
    "$tree" "$name" "$tree/$name" >"$tree/compile_commands.json"
}
isa_build isa_clean norm_avx2.cc 'namespace nibble::cpu::avx2 {' 'namespace { int g() { return 1; } }' \
  'int rms_norm() { return g(); }' '}'
expect 0 '^check_isa_symbols: 1 objects, 0 problems$' "$tools/check_isa_symbols" "$tree"
isa_build isa_weak norm_avx2.cc 'inline int g() { return 1; }' 'namespace nibble::cpu::avx2 {' \
  'int rms_norm() { return g(); }' '}'
expect 1 'weak symbol g\(\)' "$tools/check_isa_symbols" "$tree"
isa_build isa_global norm_avx2.cc 'int helper() { return 1; }'
expect 1 'global symbol helper\(\) outside nibble::cpu::avx2' "$tools/check_isa_symbols" "$tree"
isa_build isa_level norm_avx2.cc 'namespace nibble::cpu::avx512 { int rms_norm() { return 1; } }'
expect 1 'global symbol nibble::cpu::avx512::rms_norm' "$tools/check_isa_symbols" "$tree"
isa_build isa_name norm_fast.cc 'int x;'
expect 1 'not named' "$tools/check_isa_symbols" "$tree"
isa_build isa_missing norm_avx2.cc 'namespace nibble::cpu::avx2 { int f() { return 1; } }'
rm "$tree/x.o"
expect 1 'is not built' "$tools/check_isa_symbols" "$tree"
printf '[]\n' >"$tree/compile_commands.json"
expect 1 'no object with instruction set flags' "$tools/check_isa_symbols" "$tree"

# The test counter: programs that pass, fail, crash and skip.
new_tree run_tests
file CMakeLists.txt 'cmake_minimum_required(VERSION 3.25)' 'project(x NONE)' 'enable_testing()' \
  'add_test(NAME good COMMAND sh -c "echo 3 passed, 0 failed, 2 skipped")' \
  'add_test(NAME plain COMMAND true)' \
  'add_test(NAME left COMMAND sh -c "exit 77")' \
  'set_tests_properties(left PROPERTIES SKIP_RETURN_CODE 77)' \
  'add_test(NAME bad COMMAND false)'
cmake -S "$tree" -B "$tree/build" >/dev/null
expect 0 '^tests: 4 passed, 0 failed, 3 skipped$' "$tools/run_tests" "$tree/build" -E bad
expect 1 '^tests: 4 passed, 1 failed, 3 skipped$' "$tools/run_tests" "$tree/build"
expect 1 '^tests: 0 passed, 1 failed, 0 skipped$' "$tools/run_tests" "$tree/build" -R no_such_test

echo "selftest: $passed passed, $failed failed"
[ "$failed" -eq 0 ]
