#!/usr/bin/env bash
# The whole challenge on the embedded mini world: install, recipe, train on the raw seed and on the recipe's data,
# compare the scores, pack a submission. Runs on two CPU cores; run it again and it goes on where it ended.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

# One thread, as the training script: see the remark there.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

bash install.sh
source toolkit/environment.sh

echo; echo "== 1/4  recipe: clean and synthesize the seed"
python solution/process.py --recipe solution/recipes/mini.yaml

echo; echo "== 2/4  train and evaluate on the raw seed (experiment raw)"
EXP_NAME=raw PRETRAIN_DATASET=../input/mini/mgm_pretrain_mini.jsonl bash toolkit/train_mgm_mini_stage_1.sh

echo; echo "== 3/4  train and evaluate on the recipe's data (experiment recipe)"
EXP_NAME=recipe bash toolkit/train_mgm_mini_stage_1.sh

echo; echo "== 4/4  compare and pack"
python -m toolkit score recipe --baseline raw --preset mini
python -m toolkit pack online recipe --preset mini

cat <<'END'

Where everything lies:
  output/processed_data/processed_data.jsonl     the recipe's rows
  output/audit/mini.parquet                      what became of every row of the seed, and why
  output/training_dirs/MGM-Mini-*-{raw,recipe}   models, logs, records
  output/eval_results/MGM-Mini-Finetune-*        answers and scores
  submit.zip                                     the submission
END
