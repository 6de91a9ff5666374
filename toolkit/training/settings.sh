#!/usr/bin/env bash
# Refuses values of the editable variables that would stop a run later. Sourced by fixed_part.sh, which defines fail.
set -euo pipefail

(($# == 0)) || fail "$1: the script takes no arguments; variables are set from outside: EXP_NAME=mine bash $(basename "$0")"
[[ -f presets/$PRESET.yaml ]] || fail "PRESET=$PRESET: no such preset; this line is not to be edited, take it from the kit"

# require NAME PATTERN EXPECTED: refuse a variable whose value is not of the pattern.
require() { [[ ${!1:-} =~ ^($2)$ ]] || fail "$1=${!1:-}: expected $3"; }
EXP_NAME_LENGTH=100  # more would make file names too long
require EXP_NAME '[A-Za-z0-9][A-Za-z0-9._-]*' "letters, digits, '.', '_' and '-' only, first a letter or digit"
((${#EXP_NAME} <= EXP_NAME_LENGTH)) || fail "EXP_NAME has ${#EXP_NAME} characters: expected at most $EXP_NAME_LENGTH"
require PRETRAIN_DATASET '.+' "the path of the pre-training file"
require PRETRAIN_DATASET_IMAGE_PATH '.+' "the folder of its images"
for stage in PRETRAIN FINETUNE; do
    require "${stage}_BATCH_SIZE_PER_GPU" 'auto|0*[1-9][0-9]{0,4}' "auto, or a whole number from 1 to 99999"
    require "${stage}_GRADIENT_ACCUMULATION_STEPS" '0*[1-9][0-9]{0,4}' "a whole number from 1 to 99999"
    require "${stage}_DATALOADER_NUM_WORKERS" '0*[0-9]{1,2}' "a whole number from 0 to 99"
done
for name in LOGGING_STEP CKPT_SAVE_STEPS TOTAL_SAVE_CKPT_LIMIT; do
    require "$name" '0*[1-9][0-9]{0,6}' "a whole number from 1 to 9999999"
done
INFER_CUDA_IDX=${INFER_CUDA_IDX// /}
require INFER_CUDA_IDX 'cpu|[0-9]{1,3}(,[0-9]{1,3})*' "GPU numbers with commas between them, such as 0,1"
TRAIN_SEED=${TRAIN_SEED:-0}
require TRAIN_SEED '[0-9]{1,9}' "a whole number from 0 (the fixed seeds) to 999999999"
# Rows of the finetuning set that cannot be trained, as where an image of it is no longer to be had.
FINETUNE_ON_ERROR=${FINETUNE_ON_ERROR:-stop}
require FINETUNE_ON_ERROR 'stop|skip' "stop, or skip (such a run is for experiments)"
PRETRAIN=${PRETRAIN:-yes}
require PRETRAIN 'yes|none' "none, or no such variable"
