#!/usr/bin/env bash
# Pre-train, finetune and evaluate MGM-2B on your processed data (8 GPUs as it stands).
# Run inside toolkit/. Every line of the editable part can also be set from the environment.
# Windows line ends would break every line below; the last sign keeps its own from doing so here.
! grep -q $'\r' "${BASH_SOURCE[0]}" || { printf '%s\n' "error: ${BASH_SOURCE[0]} has Windows line ends; remove them: sed -i 's/\r\$//' '${BASH_SOURCE[0]}'" >&2; exit 1; } #
set -euo pipefail

############################################################################
########################### Editable Part Begins ###########################
############################################################################
# name of the experiment; names the output folders
EXP_NAME=${EXP_NAME:-default}
# pre-training file and the folder its image paths start from: absolute, or relative to toolkit/
PRETRAIN_DATASET=${PRETRAIN_DATASET:-../output/processed_data/processed_data.jsonl}
PRETRAIN_DATASET_IMAGE_PATH=${PRETRAIN_DATASET_IMAGE_PATH:-../input/pretrain_stage_1}

# pre-training: `auto`, or a batch size; batch size x accumulation x GPUs must be 256
PRETRAIN_BATCH_SIZE_PER_GPU=${PRETRAIN_BATCH_SIZE_PER_GPU:-8}
PRETRAIN_GRADIENT_ACCUMULATION_STEPS=${PRETRAIN_GRADIENT_ACCUMULATION_STEPS:-4}
PRETRAIN_DATALOADER_NUM_WORKERS=${PRETRAIN_DATALOADER_NUM_WORKERS:-4}
# finetuning: `auto`, or a batch size; batch size x accumulation x GPUs must be 128
FINETUNE_BATCH_SIZE_PER_GPU=${FINETUNE_BATCH_SIZE_PER_GPU:-8}
FINETUNE_GRADIENT_ACCUMULATION_STEPS=${FINETUNE_GRADIENT_ACCUMULATION_STEPS:-2}
FINETUNE_DATALOADER_NUM_WORKERS=${FINETUNE_DATALOADER_NUM_WORKERS:-4}

# logging and checkpoints, in optimizer steps; how many checkpoints are kept
LOGGING_STEP=${LOGGING_STEP:-1}
CKPT_SAVE_STEPS=${CKPT_SAVE_STEPS:-100}
TOTAL_SAVE_CKPT_LIMIT=${TOTAL_SAVE_CKPT_LIMIT:-1}

# inference: indices of the GPUs that share the questions
INFER_CUDA_IDX=${INFER_CUDA_IDX:-0,1,2,3,4,5,6,7}
############################################################################
############################ Editable Part Ends ############################
############################################################################

PRESET=full
TRAIN_SCRIPT=$(realpath "${BASH_SOURCE[0]}")
cd "$(dirname "$TRAIN_SCRIPT")"
[[ -f training/fixed_part.sh ]] || { echo "error: $TRAIN_SCRIPT runs in toolkit/ only; copy it there first" >&2; exit 1; }
source training/fixed_part.sh
