#!/usr/bin/env bash
# The steps of a training script as words of `python -m toolkit`, by its variables. Sourced by fixed_part.sh.
# shellcheck disable=SC2034  # which runs them
set -euo pipefail

PREFLIGHT=(preflight --preset "$PRESET" --data "$DATA" --images "$IMAGES" --infer-gpus "$INFER_CUDA_IDX" --inputs
    --on-error "$FINETUNE_ON_ERROR" --script "$TRAIN_SCRIPT" --save-total-limit "$TOTAL_SAVE_CKPT_LIMIT"
    --runs "${STAGES[@]}" --stage-batches "$PRETRAIN_BATCH_SIZE_PER_GPU" "$PRETRAIN_GRADIENT_ACCUMULATION_STEPS"
    "$FINETUNE_BATCH_SIZE_PER_GPU" "$FINETUNE_GRADIENT_ACCUMULATION_STEPS")
ROWS=("$DATA" --images "$IMAGES" --preset "$PRESET")
CHECK=(check "${ROWS[@]}" --once)
PREPARE=(prepare "${ROWS[@]}" --out "$PRETRAIN_RUN/pretrain_data.json")
COMMON=(--preset "$PRESET" --logging-steps "$LOGGING_STEP" --save-steps "$CKPT_SAVE_STEPS"
    --save-total-limit "$TOTAL_SAVE_CKPT_LIMIT")
TRAIN=(train pretrain "${COMMON[@]}" --out "$PRETRAIN_RUN"
    --data "$PRETRAIN_RUN/pretrain_data.json" --images "$IMAGES" --synthetic-images "$(dirname "$DATA")"
    --batch "$PRETRAIN_BATCH_SIZE_PER_GPU" --accumulation "$PRETRAIN_GRADIENT_ACCUMULATION_STEPS"
    --workers "$PRETRAIN_DATALOADER_NUM_WORKERS")
ADAPTER=()
[[ $PRETRAIN == none ]] || ADAPTER=(--adapter "$PRETRAIN_RUN/mm_projector.bin")
FINETUNE=(train finetune "${COMMON[@]}" --out "$FINETUNE_RUN" "${ADAPTER[@]}"
    --data "$(setting finetune_data)" --images "$(setting finetune_images)" --on-error "$FINETUNE_ON_ERROR"
    --batch "$FINETUNE_BATCH_SIZE_PER_GPU" --accumulation "$FINETUNE_GRADIENT_ACCUMULATION_STEPS"
    --workers "$FINETUNE_DATALOADER_NUM_WORKERS")
SCORE=(score "$EXP_NAME" --preset "$PRESET")
