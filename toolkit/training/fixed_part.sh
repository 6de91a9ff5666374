#!/usr/bin/env bash
# The fixed part of every training script: check, prepare, pre-train, finetune, answer, score. Sourced inside toolkit/
# with the editable variables, PRESET and TRAIN_SCRIPT set. Run it again to resume where the last run ended.
set -euo pipefail

fail() { echo "error: $*" >&2; exit 1; }
setting() { sed -n "s/^$1: *\([^ ]*\).*/\1/p" "toolkit/presets/$PRESET.yaml"; }

[[ $EXP_NAME =~ ^[A-Za-z0-9._-]+$ ]] || fail "EXP_NAME=$EXP_NAME: use letters, digits, '.', '_' and '-' only"
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

if [[ $PRETRAIN_BATCH_SIZE_PER_GPU == auto ]]; then
    CHOSEN=$(python -m toolkit batch pretrain --preset "$PRESET")
    read -r PRETRAIN_BATCH_SIZE_PER_GPU PRETRAIN_GRADIENT_ACCUMULATION_STEPS <<<"$CHOSEN"
fi
if [[ $FINETUNE_BATCH_SIZE_PER_GPU == auto ]]; then
    CHOSEN=$(python -m toolkit batch finetune --preset "$PRESET")
    read -r FINETUNE_BATCH_SIZE_PER_GPU FINETUNE_GRADIENT_ACCUMULATION_STEPS <<<"$CHOSEN"
fi
"${TOOLKIT[@]}" preflight --preset "$PRESET" --data "$DATA" --images "$IMAGES" --infer-gpus "$INFER_CUDA_IDX" \
    --script "$TRAIN_SCRIPT" --runs "$PRETRAIN_RUN" "$FINETUNE_RUN" \
    --stage-batches "$PRETRAIN_BATCH_SIZE_PER_GPU" "$PRETRAIN_GRADIENT_ACCUMULATION_STEPS" \
    "$FINETUNE_BATCH_SIZE_PER_GPU" "$FINETUNE_GRADIENT_ACCUMULATION_STEPS"

# The script as it was run: settings that came from the environment are written into the copy.
mkdir -p "$PRETRAIN_RUN" "$FINETUNE_RUN"
while IFS= read -r line || [[ -n $line ]]; do
    if [[ $line =~ ^([A-Z_]+)=\$\{[A-Z_]+:-.*\}$ ]]; then
        name=${BASH_REMATCH[1]}
        line="$name=\${$name:-${!name}}"
    fi
    printf '%s\n' "$line"
done <"$TRAIN_SCRIPT" >"$FINETUNE_RUN/train.sh"

COMMON=(--preset "$PRESET" --logging-steps "$LOGGING_STEP" --save-steps "$CKPT_SAVE_STEPS"
    --save-total-limit "$TOTAL_SAVE_CKPT_LIMIT")
ADAPTER=()
if [[ ${PRETRAIN:-} != none ]]; then
    "${TOOLKIT[@]}" check "$DATA" --images "$IMAGES" --preset "$PRESET"
    "${TOOLKIT[@]}" prepare "$DATA" --images "$IMAGES" --preset "$PRESET" \
        --out "$PRETRAIN_RUN/pretrain_data.json"
    "${TOOLKIT[@]}" train pretrain "${COMMON[@]}" --out "$PRETRAIN_RUN" \
        --data "$PRETRAIN_RUN/pretrain_data.json" --images "$IMAGES" --synthetic-images "$(dirname "$DATA")" \
        --batch "$PRETRAIN_BATCH_SIZE_PER_GPU" --accumulation "$PRETRAIN_GRADIENT_ACCUMULATION_STEPS" \
        --workers "$PRETRAIN_DATALOADER_NUM_WORKERS" 2>&1 | tee -a "$PRETRAIN_RUN/pretrain.log"
    ADAPTER=(--adapter "$PRETRAIN_RUN/mm_projector.bin")
fi
"${TOOLKIT[@]}" train finetune "${COMMON[@]}" --out "$FINETUNE_RUN" "${ADAPTER[@]}" \
    --data "$(setting finetune_data)" --images "$(setting finetune_images)" \
    --batch "$FINETUNE_BATCH_SIZE_PER_GPU" --accumulation "$FINETUNE_GRADIENT_ACCUMULATION_STEPS" \
    --workers "$FINETUNE_DATALOADER_NUM_WORKERS" 2>&1 | tee -a "$FINETUNE_RUN/finetune.log"

export PRESET INFER_CUDA_IDX
"${TIED[@]}" bash toolkit/eval/textvqa.sh "$FINETUNE_RUN" "$ANSWERS/textvqa"
"${TIED[@]}" bash toolkit/eval/mmbench.sh "$FINETUNE_RUN" "$ANSWERS/mmbench"
cp "$FINETUNE_RUN/train.sh" output/train.sh
"${TOOLKIT[@]}" score "$EXP_NAME" --preset "$PRESET"
