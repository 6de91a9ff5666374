#!/usr/bin/env bash
# Installs the tested packages into the active virtual or conda environment (not conda's `base`), else into .venv beside
# this file. Run it again at any time: it repairs .venv and fetches only what is missing.
#   PYTHON=python3.11 bash install.sh    with this Python, 3.10 to 3.12
#   TORCH=cpu bash install.sh            PyTorch without CUDA; TORCH=cuda with it (default: by NVIDIA's driver)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

fail() { echo "error: $*" >&2; exit 1; }
version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true; }
suits() { [[ $(version "$1") =~ ^3\.1[0-2]$ ]]; }
has() { "$1" -c "import $2" &>/dev/null; }
torch() { "$1" -c 'import importlib.metadata as m; print(m.version("torch"))' 2>/dev/null || true; }
pip() { "$KIT_PYTHON" -m pip --disable-pip-version-check --no-input "$@"; }
# Of all that pip says a line for each file of 10 MB or more, and one for each phase that takes a while.
install() {
    pip install --progress-bar off "$@" | sed -unE \
        -e 's|^ *Downloading (.*/)?([^/ ]+) (\([0-9]{2,}[0-9.]* MB\)).*|  \2 \3|p' \
        -e 's|^Building wheels.*|  building what comes as source|p' \
        -e 's|^Installing collected.*|  unpacking, a minute or two|p'
}

if [[ -z ${TORCH:-} ]]; then
    TORCH=cpu
    if [[ -e /proc/driver/nvidia/version ]] || nvidia-smi -L &>/dev/null; then TORCH=cuda; fi
fi
[[ $TORCH =~ ^(cpu|cuda)$ ]] || fail "TORCH=$TORCH: give cpu or cuda"

ACTIVE=${VIRTUAL_ENV:-}
if [[ -z $ACTIVE && ${CONDA_DEFAULT_ENV:-base} != base ]]; then ACTIVE=${CONDA_PREFIX:-}; fi
if [[ -n $ACTIVE && -x $ACTIVE/bin/python && ! $ACTIVE -ef .venv ]]; then
    KIT_PYTHON=$ACTIVE/bin/python
    suits "$KIT_PYTHON" || fail "the active environment $ACTIVE has Python $(version "$KIT_PYTHON")," \
        "the kit needs 3.10 to 3.12: deactivate it, then run again: bash install.sh"
    has "$KIT_PYTHON" pip || fail "the active environment $ACTIVE has no pip: deactivate it, then run: bash install.sh"
else
    source toolkit/venv.sh
fi

NEEDED=(--requirement requirements.txt --requirement solution/requirements.txt --constraint constraints.txt)
# DeepSpeed's own kernels are not used: without them it installs and runs where there is no compiler.
export DS_BUILD_OPS=0
# Where the environment is, and a hash of what decides what pip would say: while it is the same, pip is not asked again.
state() { "$KIT_PYTHON" toolkit/installed.py state "$TORCH" requirements.txt solution/requirements.txt constraints.txt; }
mapfile -t FOUND < <(state); (( ${#FOUND[@]} == 2 )) || fail "$KIT_PYTHON cannot say what is installed, see above"
PREFIX=${FOUND[0]} STATE=${FOUND[1]} SEEN=${FOUND[0]}/better-synth.installed # the state in which pip found or installed everything
if [[ ! -f $SEEN || $(<"$SEEN") != "$STATE" ]]; then
    INSTALLED=$(torch "$KIT_PYTHON")
    if [[ $TORCH == cuda && $INSTALLED == *+cpu ]]; then
        echo "PyTorch $INSTALLED is replaced by the build with CUDA."
        pip uninstall --quiet --yes torch
        INSTALLED=
    fi
    if ! pip install --quiet --no-index "${NEEDED[@]}" &>/dev/null; then
        PIN=$(grep '^torch==' constraints.txt)
        declare -A SIZE=([cpu]="without CUDA, 0.2 GB; for an NVIDIA GPU: TORCH=cuda bash install.sh"
            [cuda]="with CUDA, about 3 GB; without GPU: TORCH=cpu bash install.sh")
        echo "Installing into $PREFIX what is missing there of:"
        [[ $INSTALLED == "${PIN#*==}"* ]] || echo "  PyTorch ${SIZE[$TORCH]}"
        echo "  about 150 other packages, 0.3 GB"
        if [[ $TORCH == cpu && $INSTALLED != "${PIN#*==}"* ]]; then
            install --no-deps --timeout 15 --retries 1 --index-url https://download.pytorch.org/whl/cpu "$PIN" 2>/dev/null \
                || echo "  download.pytorch.org gave no $PIN: it comes from the usual index, with CUDA (about 3 GB)"
        fi
        install "${NEEDED[@]}" || fail "pip could not install, see above; this resumes: bash install.sh"
        pip check >/dev/null || pip check
    fi
    state | tail -n 1 >"$SEEN"
fi
# The one command, beside the Python that it uses. It serves the checkout it is called in, else this one.
COMMAND=$(dirname "$KIT_PYTHON")/better-synth
rm -f "$COMMAND"
# shellcheck disable=SC2016  # for the shell that runs it
{
    printf '#!/usr/bin/env bash\nKIT=%q\nfolder=$PWD\n' "$PWD"
    printf '%s\n' 'until [[ -z $folder || -f $folder/better-synth ]]; do folder=${folder%/*}; done' \
        'exec bash "${folder:-$KIT}/better-synth" "$@"'
} >"$COMMAND"
chmod +x "$COMMAND"
echo "Installed into $PREFIX, PyTorch $(torch "$KIT_PYTHON"). The kit's commands find it themselves."
