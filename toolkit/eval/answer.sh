#!/usr/bin/env bash
# answer.sh BENCHMARK MODEL OUT: answer a benchmark with a trained MGM, one process per GPU; `all`: both benchmarks, into
# OUT/textvqa and OUT/mmbench, with the model read once.
# From the environment: PRESET, and INFER_CUDA_IDX, the GPUs as in 0,1,2 (`cpu`: one process without a GPU).
# Run it again to resume an interrupted run, also with other GPUs.
set -euo pipefail
BENCHMARK=$1 MODEL=$2 OUT=$3
REPOSITORY=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
source "$REPOSITORY/toolkit/environment.sh"
export PYTHONPATH=$REPOSITORY${PYTHONPATH:+:$PYTHONPATH}
ANSWER=("${TIED[@]}" python -m toolkit eval "$BENCHMARK" --preset "${PRESET:-full}" --model "$MODEL" --out "$OUT")

IFS=, read -ra GPUS <<<"${INFER_CUDA_IDX:-cpu}"
# The numbers count what this shell may see: under CUDA_VISIBLE_DEVICES=4,5 number 0 is the machine's GPU 4.
IFS=, read -ra VISIBLE <<<"${CUDA_VISIBLE_DEVICES:-}"
for index in "${!GPUS[@]}"; do
    if [[ ${GPUS[index]} == cpu ]]; then
        GPUS[index]=
    else
        GPUS[index]=${VISIBLE[GPUS[index]]:-${GPUS[index]}}
    fi
done
if ((${#GPUS[@]} > 1)); then
    PIDS=()
    trap 'kill "${PIDS[@]}" 2>/dev/null || true' EXIT
    for index in "${!GPUS[@]}"; do
        CUDA_VISIBLE_DEVICES=${GPUS[index]} "${ANSWER[@]}" --chunk "$index" --chunks "${#GPUS[@]}" &
        PIDS+=($!)
    done
    FAILED=()
    for index in "${!PIDS[@]}"; do
        wait "${PIDS[index]}" || FAILED+=("${GPUS[index]}")
    done
    trap - EXIT
    if ((${#FAILED[@]})); then
        echo "error: eval $BENCHMARK failed on GPU ${FAILED[*]}, see above; run the same command again to resume" >&2
        exit 1
    fi
fi
# Gathers the chunks' answers; with one GPU, or none, does all the work.
CUDA_VISIBLE_DEVICES=${GPUS[0]} "${ANSWER[@]}"
