#!/usr/bin/env bash
# Fetches the challenge's models and data to their folders, about 65 GB. Run it again to resume; --help lists choices,
# --dry-run says what is missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source toolkit/environment.sh
exec python -m toolkit download --kit full "$@"
