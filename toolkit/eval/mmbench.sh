#!/usr/bin/env bash
# mmbench.sh MODEL OUT: answer MMBench, see answer.sh.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/answer.sh" mmbench "$@"
