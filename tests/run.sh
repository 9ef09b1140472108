#!/usr/bin/env bash
# Runs every test. What they need beyond Rust is installed first, if this may be done; otherwise the tests that need it
# are skipped by name. With CI set, a skip is a failure.
set -euo pipefail
cd "$(dirname "$0")/.."
export DEBIAN_FRONTEND=noninteractive

# Python reads the TensorBoard events back and validates run files, in an environment of its own.
venv=target/test-venv
make_venv() {
    python3 -m venv "$venv" >/dev/null 2>&1 && return
    # Debian splits the module off; it may be installed where we are root.
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
    apt-get update -qq && apt-get install -y -qq python3 python3-venv >/dev/null && python3 -m venv "$venv"
}
needed='import jsonschema, tensorboard'
if ! "$venv/bin/python" -c "$needed" 2>/dev/null; then
    make_venv && "$venv/bin/pip" install --quiet 'jsonschema>=4.18' 'tensorboard>=2.15' 'setuptools<81' ||
        echo "tests: Python's tensorboard or jsonschema is missing and cannot be installed; the tests that need them" \
            "(tensorboard::… and config::the_schema_… in tests/) are skipped" >&2
fi
if "$venv/bin/python" -c "$needed" 2>/dev/null; then
    export HEDDLE_TEST_PYTHON="$PWD/$venv/bin/python"
elif [ -n "${CI:-}" ]; then
    echo "tests: in CI nothing may be skipped" >&2
    exit 1
fi

# A Slurm of one node, for which one must be root.
if [ "$(id -u)" = 0 ]; then
    if ! command -v slurmctld >/dev/null && command -v apt-get >/dev/null; then
        { apt-get update -qq && apt-get install -y -qq --no-install-recommends slurm-wlm munge; } >/dev/null || true
    fi
    if command -v slurmctld >/dev/null && command -v munged >/dev/null; then
        export HEDDLE_TEST_SLURM=1
    fi
fi
if [ -z "${HEDDLE_TEST_SLURM:-}" ]; then
    echo "tests: Slurm is missing and cannot be installed; the sweeps through it in slurm::… are skipped" >&2
    if [ -n "${CI:-}" ]; then
        echo "tests: in CI nothing may be skipped" >&2
        exit 1
    fi
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

# The book is built by mdBook, unoptimised since it has little to do.
tools="$PWD/target/tools"
if ! mdbook=$(command -v mdbook); then
    mdbook=$tools/bin/mdbook
    [ -x "$mdbook" ] || cargo install --quiet --debug --locked --no-default-features --root "$tools" --target-dir target/mdbook \
        mdbook@0.5.4 || true
fi
if [ -x "$mdbook" ]; then
    export HEDDLE_TEST_MDBOOK=$mdbook
else
    echo "tests: mdbook is missing and cannot be installed; book::the_book_builds is skipped" >&2
    if [ -n "${CI:-}" ]; then
        echo "tests: in CI nothing may be skipped" >&2
        exit 1
    fi
fi

# The same random shapes every time: a commit passes or fails, whoever asks. Another seed explores others.
PROPTEST_RNG_SEED=${PROPTEST_RNG_SEED:-2026} cargo test --release --workspace "$@"
