#!/usr/bin/env bash
# Puts the Python that has the kit's packages first on PATH: the active environment's, else .venv's.
# Sourced by the other scripts, from any folder.
set -euo pipefail
KIT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# A script that sources this starts others that do: the first has found the Python for all.
if [[ -z ${KIT_FOUND:-} || $KIT_FOUND != "$KIT $(type -P python)" ]]; then
    KIT_PYTHON=
    for candidate in python python3 "$KIT/.venv/bin/python"; do
        # Prints the Python that it ends in, which has changed to .venv's where the candidate lacks packages.
        KIT_PYTHON=$(cd "$KIT" && "$candidate" -c \
            'import sys, toolkit; toolkit.begin(toolkit.PACKAGES); print(sys.executable)' 2>/dev/null) && break
    done
    if [[ -z $KIT_PYTHON || ! -x $(dirname "$KIT_PYTHON")/python ]]; then
        echo "error: no Python has the kit's packages; run this first: bash install.sh  (in $KIT)" >&2
        exit 1
    fi
    PATH=$(dirname "$KIT_PYTHON"):$PATH
    KIT_FOUND="$KIT $(type -P python)"
    export KIT_FOUND
fi

# In front of a command: it ends with this shell, however that ends, where the system can do so. No function: in a
# pipeline that would run in a shell of its own, which outlives this one.
TIED=(setpriv --pdeathsig TERM)
"${TIED[@]}" true 2>/dev/null || TIED=(env)
