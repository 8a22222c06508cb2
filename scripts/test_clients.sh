#!/usr/bin/env bash
# The official openai client against our server: a pinned client in a virtual environment below build/.
#
# Needs PyPI on the first run only. Called by `make test-clients`, which builds the program before.
set -euo pipefail
cd "$(dirname "$0")/.."

openai_version=3.54.0
environment=build/clients-venv

if ! "$environment/bin/python" -c "
import importlib.metadata, sys
sys.exit(importlib.metadata.version('openai') != '$openai_version')" 2>/dev/null; then
  echo "test-clients: installing openai==$openai_version into $environment"
  rm -rf "$environment"
  python3 -m venv "$environment"
  "$environment/bin/pip" install --quiet --disable-pip-version-check --no-cache-dir \
    "openai==$openai_version"
fi

scripts/with_server models/demo -- "$environment/bin/python" tests/e2e/openai_client_test.py
