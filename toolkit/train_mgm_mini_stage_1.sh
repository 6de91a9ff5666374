#!/usr/bin/env bash
# The embedded mini world: the same steps on two CPU cores, in minutes.
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
PRETRAIN_DATASET_IMAGE_PATH=${PRETRAIN_DATASET_IMAGE_PATH:-../input/mini}

# pre-training: `auto`, or a batch size; batch size x accumulation x 1 CPU must be 2
PRETRAIN_BATCH_SIZE_PER_GPU=${PRETRAIN_BATCH_SIZE_PER_GPU:-2}
PRETRAIN_GRADIENT_ACCUMULATION_STEPS=${PRETRAIN_GRADIENT_ACCUMULATION_STEPS:-1}
PRETRAIN_DATALOADER_NUM_WORKERS=${PRETRAIN_DATALOADER_NUM_WORKERS:-1}
# finetuning: `auto`, or a batch size; batch size x accumulation x 1 CPU must be 4
FINETUNE_BATCH_SIZE_PER_GPU=${FINETUNE_BATCH_SIZE_PER_GPU:-4}
FINETUNE_GRADIENT_ACCUMULATION_STEPS=${FINETUNE_GRADIENT_ACCUMULATION_STEPS:-1}
FINETUNE_DATALOADER_NUM_WORKERS=${FINETUNE_DATALOADER_NUM_WORKERS:-1}

# logging and checkpoints, in optimizer steps; how many checkpoints are kept
LOGGING_STEP=${LOGGING_STEP:-10}
CKPT_SAVE_STEPS=${CKPT_SAVE_STEPS:-100}
TOTAL_SAVE_CKPT_LIMIT=${TOTAL_SAVE_CKPT_LIMIT:-1}

# inference: indices of the GPUs that share the questions (here: the CPU)
INFER_CUDA_IDX=${INFER_CUDA_IDX:-cpu}
############################################################################
############################ Editable Part Ends ############################
############################################################################

PRESET=mini
TRAIN_SCRIPT=$(realpath "${BASH_SOURCE[0]}")
cd "$(dirname "$TRAIN_SCRIPT")"
[[ -f training/fixed_part.sh ]] || { echo "error: $TRAIN_SCRIPT runs in toolkit/ only; copy it there first" >&2; exit 1; }
source training/fixed_part.sh
