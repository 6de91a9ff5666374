#!/usr/bin/env bash
# Lint, types, and the tests on two workers. Further words go to pytest, which then runs alone:
#   bash run_tests.sh                                    everything, as CI runs it
#   bash run_tests.sh --quick                            without the tests marked slow: every package, in two minutes
#   bash run_tests.sh tests/toolkit/mgm -k generate -n 0 these tests, in one process
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source toolkit/environment.sh
# Tests start processes of their own; more threads in each would spin while they wait for each other.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} TOKENIZERS_PARALLELISM=false
CHOSEN=()
if [[ ${1:-} == --quick ]]; then
    CHOSEN=(-m "not slow")
    shift
fi
if (( $# == 0 )); then
    ruff check .
    ruff format --check .
    ty check
fi
# A file's tests stay together, in one worker: they share what they train, and its ports. Longest files first: conftest.py.
python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=10 "${CHOSEN[@]}" "$@"
