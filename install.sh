#!/usr/bin/env bash
# Installs what the kit needs into the active conda or virtual environment, else into .venv beside this file.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

if [[ -z ${VIRTUAL_ENV:-}${CONDA_PREFIX:-} ]]; then
    [[ -x .venv/bin/python ]] || "${PYTHON:-python3}" -m venv .venv
    source .venv/bin/activate
fi
python - <<'PY'
import sys
if not (3, 10) <= sys.version_info < (3, 13):
    sys.exit(f"error: Python {sys.version.split()[0]} at {sys.executable}: the kit needs 3.10 to 3.12; "
             "choose one with PYTHON=python3.11 bash install.sh")
PY

# DeepSpeed's own kernels are not used: without them it installs and runs where there is no compiler.
DS_BUILD_OPS=0 python -m pip install --quiet --disable-pip-version-check \
    --requirement requirements.txt --requirement solution/requirements.txt --constraint constraints.txt
python -m pip check --disable-pip-version-check >/dev/null || python -m pip check --disable-pip-version-check
echo "Installed into $(python -c 'import sys; print(sys.prefix)')."
