# shellcheck shell=bash
# Sourced by shell tests: counts checks and prints the line the test runner reads.
passed=0
failed=0

# check NAME COMMAND...: counts; a failure prints its name and $message_file where that is set.
check() {
  local name=$1
  shift
  if "$@"; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    echo "FAIL $name"
    sed 's/^/    /' "${message_file:-/dev/null}" 2>/dev/null
  fi
}

# The last line of a test; fails when a check did. SKIPPED: how many were left out.
checks_done() {  # [SKIPPED]
  echo "$passed passed, $failed failed, ${1:-0} skipped"
  [ "$failed" -eq 0 ]
}
