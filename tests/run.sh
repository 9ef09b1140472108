#!/usr/bin/env bash
# Runs every test. What they need beyond Rust is installed first, if this may be done; otherwise the tests that need it
# are skipped by name. With CI set, a skip is a failure.
set -euo pipefail
cd "$(dirname "$0")/.."

# Python reads the TensorBoard events back, in an environment of its own.
venv=target/test-venv
make_venv() {
    python3 -m venv "$venv" >/dev/null 2>&1 && return
    # Debian splits the module off; it may be installed where we are root.
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
    apt-get update -qq && apt-get install -y -qq python3 python3-venv >/dev/null && python3 -m venv "$venv"
}
if ! "$venv/bin/python" -c 'import tensorboard' 2>/dev/null; then
    make_venv && "$venv/bin/pip" install --quiet 'tensorboard>=2.15' 'setuptools<81' ||
        echo "tests: Python's tensorboard is missing and cannot be installed; tensorboard::… in tests/ is skipped" >&2
fi
if "$venv/bin/python" -c 'import tensorboard' 2>/dev/null; then
    export HEDDLE_TEST_PYTHON="$PWD/$venv/bin/python"
elif [ -n "${CI:-}" ]; then
    echo "tests: in CI nothing may be skipped" >&2
    exit 1
fi

# A browser shows the report.
if ! command -v chromium >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core; } >/dev/null || true
fi
if command -v chromium >/dev/null; then
    HEDDLE_TEST_CHROMIUM=$(command -v chromium)
    export HEDDLE_TEST_CHROMIUM
else
    echo "tests: chromium is missing and cannot be installed; report::… in tests/ is skipped" >&2
    if [ -n "${CI:-}" ]; then
        echo "tests: in CI nothing may be skipped" >&2
        exit 1
    fi
fi

# The same random shapes every time: a commit passes or fails, whoever asks. Another seed explores others.
PROPTEST_RNG_SEED=${PROPTEST_RNG_SEED:-2026} cargo test --release --workspace "$@"
