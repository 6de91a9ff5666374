#!/usr/bin/env bash
# textvqa.sh MODEL OUT: answer TextVQA, see answer.sh.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/answer.sh" textvqa "$@"
