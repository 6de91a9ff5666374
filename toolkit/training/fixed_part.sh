#!/usr/bin/env bash
# The fixed part of every training script: check, prepare, pre-train, finetune, answer, score. Sourced inside toolkit/
# with the editable variables, PRESET and TRAIN_SCRIPT set. Run it again to resume where the last run ended.
set -euo pipefail

fail() { echo "error: $*" >&2; exit 1; }
setting() { sed -n "s/^$1: *\([^ ]*\).*/\1/p" "toolkit/presets/$PRESET.yaml"; }
# A command that ends well although Ctrl-C was pressed would else let the script go on.
trap 'exit 130' INT

source training/settings.sh
DATA=$(realpath -m "$PRETRAIN_DATASET")
IMAGES=$(realpath -m "$PRETRAIN_DATASET_IMAGE_PATH")
cd ..
source toolkit/environment.sh
TOOLKIT=("${TIED[@]}" python -m toolkit)

if [[ $(setting needs_gpu) == false ]]; then
    # More threads spin while they wait for each other, ten times slower where anything else runs; and the same number
    # everywhere gives the same score everywhere.
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
fi

RUN=$(setting run_name)
PRETRAIN_RUN=output/training_dirs/$RUN-Pretrain-$EXP_NAME
FINETUNE_RUN=output/training_dirs/$RUN-Finetune-$EXP_NAME
ANSWERS=output/eval_results/$RUN-Finetune-$EXP_NAME

for stage in pretrain finetune; do
    batch=${stage^^}_BATCH_SIZE_PER_GPU
    if [[ ${!batch} == auto ]]; then
        CHOSEN=$(python -m toolkit batch "$stage" --preset "$PRESET")
        read -r "${batch?}" "${stage^^}_GRADIENT_ACCUMULATION_STEPS" <<<"$CHOSEN"
    fi
done
STAGES=("$FINETUNE_RUN")
[[ $PRETRAIN == none ]] || STAGES=("$PRETRAIN_RUN" "$FINETUNE_RUN")
source toolkit/training/steps.sh

# Where all is there already, the same commands see to that in one process: most of their time would be its start.
all_there() {
    local file
    for file in "${STAGES[@]/%//run.json}" "$FINETUNE_RUN/train.sh" "$ANSWERS"/{textvqa,mmbench}/run.json; do
        [[ -f $file ]] || return
    done
}
if [[ $PRETRAIN$INFER_CUDA_IDX == yescpu ]] && all_there; then
    CUDA_VISIBLE_DEVICES="" "${TOOLKIT[@]}" "${PREFLIGHT[@]}" --then "${CHECK[@]}" --then "${PREPARE[@]}" \
        --then "${TRAIN[@]}" --then "${FINETUNE[@]}" \
        --then eval all --preset "$PRESET" --model "$FINETUNE_RUN" --out "$ANSWERS" --then "${SCORE[@]}"
    cp "$FINETUNE_RUN/train.sh" output/train.sh
    exit
fi

"${TOOLKIT[@]}" "${PREFLIGHT[@]}"
if [[ $PRETRAIN != none ]]; then
    "${TOOLKIT[@]}" "${CHECK[@]}"
    "${TOOLKIT[@]}" "${PREPARE[@]}"
fi

mkdir -p "${STAGES[@]}"
source toolkit/training/keep_script.sh

# log FOLDER NAME: the log that a stage's output is added to; a finished stage's stays as it is.
log() { [[ -f $1/run.json ]] && echo /dev/null || echo "$1/$2"; }
if [[ $PRETRAIN != none ]]; then
    "${TOOLKIT[@]}" "${TRAIN[@]}" 2>&1 | tee -a "$(log "$PRETRAIN_RUN" pretrain.log)"
fi
"${TOOLKIT[@]}" "${FINETUNE[@]}" 2>&1 | tee -a "$(log "$FINETUNE_RUN" finetune.log)"

export PRESET INFER_CUDA_IDX
"${TIED[@]}" bash toolkit/eval/answer.sh all "$FINETUNE_RUN" "$ANSWERS"
cp "$FINETUNE_RUN/train.sh" output/train.sh
"${TOOLKIT[@]}" "${SCORE[@]}"
