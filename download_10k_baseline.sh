#!/usr/bin/env bash
# Fetches what the 10k baseline needs: 10,000 seed pairs, 12k instructions, models, evaluation. Run it again to go on; --help lists choices, --dry-run says what is missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
if [[ -z ${VIRTUAL_ENV:-}${CONDA_PREFIX:-} && -x .venv/bin/python ]]; then
    source .venv/bin/activate
fi
exec python -m toolkit download --kit 10k "$@"
