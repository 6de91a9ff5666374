#!/usr/bin/env bash
# The part of install.sh that makes .venv or repairs it, for when no environment is active. Sourced there.
set -euo pipefail
KIT_PYTHON=.venv/bin/python

fault() {
    if ! has $KIT_PYTHON sys; then
        echo "its Python does not start"
    elif ! has $KIT_PYTHON "os, sys; assert os.path.samefile(sys.prefix, '.venv')"; then
        echo "it is not a virtual environment"
    elif ! suits $KIT_PYTHON; then
        echo "it has Python $(version $KIT_PYTHON), the kit needs 3.10 to 3.12"
    elif [[ -n ${PYTHON:-} && $(version "$PYTHON") != "$(version $KIT_PYTHON)" ]]; then
        echo "it has Python $(version $KIT_PYTHON), not that of PYTHON=$PYTHON"
    fi
}

# Sets BASE to the first Python that can make a virtual environment for the kit.
find_base() {
    local path paths found='' without_venv='' names=(python3 python3.12 python3.11 python3.10 python)
    [[ -z ${PYTHON:-} ]] || names=("$PYTHON")
    mapfile -t paths < <(type -aP "${names[@]}")
    for path in "${paths[@]}"; do
        if suits "$path" && has "$path" "ensurepip, venv"; then
            BASE=$path
            [[ -z $found$without_venv ]] || echo "$BASE is used, Python $(version "$BASE")"
            return
        elif suits "$path"; then
            without_venv=${without_venv:-$path}
        else
            found+="$path is $(version "$path"), "
        fi
    done
    if [[ -n $without_venv ]]; then
        fail "$without_venv cannot make virtual environments; on Debian and Ubuntu this helps:" \
            "apt install python$(version "$without_venv")-venv; then: bash install.sh"
    fi
    [[ -n $found ]] || found="there is no ${PYTHON:-python3}"
    fail "the kit needs Python 3.10 to 3.12, but ${found%, }; install one, then, say: PYTHON=python3.11 bash install.sh"
}

if [[ -e .venv || -L .venv ]]; then
    FAULT=$(fault)
    if [[ -z $FAULT ]]; then
        $KIT_PYTHON toolkit/installed.py repair
        has $KIT_PYTHON pip || { $KIT_PYTHON -m ensurepip &>/dev/null && echo ".venv: pip is added"; } || FAULT="it has no pip"
    fi
fi
if [[ ! -e .venv || -n ${FAULT:-} ]]; then
    find_base
    [[ -z ${FAULT:-} ]] || echo ".venv: $FAULT; it is made again with $BASE, Python $(version "$BASE")"
    rm -rf .venv
    "$BASE" -m venv .venv
fi
