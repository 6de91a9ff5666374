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
"${TOOLKIT[@]}" preflight --preset "$PRESET" --data "$DATA" --images "$IMAGES" --infer-gpus "$INFER_CUDA_IDX" \
    --inputs --on-error "$FINETUNE_ON_ERROR" --script "$TRAIN_SCRIPT" --save-total-limit "$TOTAL_SAVE_CKPT_LIMIT" --runs "${STAGES[@]}" \
    --stage-batches "$PRETRAIN_BATCH_SIZE_PER_GPU" "$PRETRAIN_GRADIENT_ACCUMULATION_STEPS" \
    "$FINETUNE_BATCH_SIZE_PER_GPU" "$FINETUNE_GRADIENT_ACCUMULATION_STEPS"
if [[ $PRETRAIN != none ]]; then
    "${TOOLKIT[@]}" check "$DATA" --images "$IMAGES" --preset "$PRESET" --once
    "${TOOLKIT[@]}" prepare "$DATA" --images "$IMAGES" --preset "$PRESET" --out "$PRETRAIN_RUN/pretrain_data.json"
fi

mkdir -p "${STAGES[@]}"
source toolkit/training/keep_script.sh

# log FOLDER NAME: the log that a stage's output is added to; a finished stage's stays as it is.
log() { [[ -f $1/run.json ]] && echo /dev/null || echo "$1/$2"; }
COMMON=(--preset "$PRESET" --logging-steps "$LOGGING_STEP" --save-steps "$CKPT_SAVE_STEPS"
    --save-total-limit "$TOTAL_SAVE_CKPT_LIMIT")
ADAPTER=()
if [[ $PRETRAIN != none ]]; then
    "${TOOLKIT[@]}" train pretrain "${COMMON[@]}" --out "$PRETRAIN_RUN" \
        --data "$PRETRAIN_RUN/pretrain_data.json" --images "$IMAGES" --synthetic-images "$(dirname "$DATA")" \
        --batch "$PRETRAIN_BATCH_SIZE_PER_GPU" --accumulation "$PRETRAIN_GRADIENT_ACCUMULATION_STEPS" \
        --workers "$PRETRAIN_DATALOADER_NUM_WORKERS" 2>&1 | tee -a "$(log "$PRETRAIN_RUN" pretrain.log)"
    ADAPTER=(--adapter "$PRETRAIN_RUN/mm_projector.bin")
fi
"${TOOLKIT[@]}" train finetune "${COMMON[@]}" --out "$FINETUNE_RUN" "${ADAPTER[@]}" \
    --data "$(setting finetune_data)" --images "$(setting finetune_images)" --on-error "$FINETUNE_ON_ERROR" \
    --batch "$FINETUNE_BATCH_SIZE_PER_GPU" --accumulation "$FINETUNE_GRADIENT_ACCUMULATION_STEPS" \
    --workers "$FINETUNE_DATALOADER_NUM_WORKERS" 2>&1 | tee -a "$(log "$FINETUNE_RUN" finetune.log)"

export PRESET INFER_CUDA_IDX
"${TIED[@]}" bash toolkit/eval/answer.sh all "$FINETUNE_RUN" "$ANSWERS"
cp "$FINETUNE_RUN/train.sh" output/train.sh
"${TOOLKIT[@]}" score "$EXP_NAME" --preset "$PRESET"
