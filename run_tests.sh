#!/usr/bin/env bash
# Lint and the whole test suite; further words go to pytest, such as: bash run_tests.sh tests/mgm -k generate
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
if [[ -z ${VIRTUAL_ENV:-}${CONDA_PREFIX:-} && -x .venv/bin/python ]]; then
    source .venv/bin/activate
fi
# Tests start processes of their own; more threads in each would spin while they wait for each other.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} TOKENIZERS_PARALLELISM=false
ruff check .
python -m pytest --durations=10 "$@"
