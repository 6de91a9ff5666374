#!/usr/bin/env bash
# Fetches what the 10k baseline needs: 10,000 seed pairs, 12k instructions, models, evaluation. Run it again to resume;
# --help lists choices, --dry-run says what is missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source toolkit/environment.sh
exec python -m toolkit download --kit 10k "$@"
