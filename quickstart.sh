#!/usr/bin/env bash
# The whole challenge on the embedded mini world: install, recipe, train on the raw seed and on the recipe's data,
# compare the scores, pack a submission. Runs on two CPU cores; run it again and it resumes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

# One thread, as the training script: see the remark there.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

bash install.sh
source toolkit/environment.sh

mkdir -p output
echo; echo "== 1/4  train and evaluate on the raw seed (experiment raw), on one core; its words go to output/raw.log"
EXP_NAME=raw PRETRAIN_DATASET=../input/mini/mgm_pretrain_mini.jsonl \
    "${TIED[@]}" bash toolkit/train_mgm_mini_stage_1.sh >output/raw.log 2>&1 &
RAW=$!
trap 'kill "$RAW" 2>/dev/null && wait "$RAW" || true' EXIT

echo; echo "== 2/4  meanwhile the recipe: clean and synthesize the seed"
python solution/process.py --recipe solution/recipes/mini.yaml

echo; echo "== 3/4  train and evaluate on the recipe's data (experiment recipe)"
EXP_NAME=recipe "${TIED[@]}" bash toolkit/train_mgm_mini_stage_1.sh
wait "$RAW" || { tail -n 3 output/raw.log >&2; exit 1; }
trap - EXIT

echo; echo "== 4/4  pack and compare"
python -m toolkit pack online recipe --preset mini | tail -n 1
echo
python -m toolkit score recipe --baseline raw --preset mini

cat <<'END'

The rows are in output/processed_data, models and logs in output/training_dirs, answers in output/eval_results.

Next:
  python3 solution/process.py report mini    a page that shows what became of every row, and why
  TRAIN_SEED=1 EXP_NAME=recipe-1 bash toolkit/train_mgm_mini_stage_1.sh    the same with another seed: how much scores vary
  bash download_10k_baseline.sh --dry-run    what the 10k baseline, on one GPU, would fetch

Open this page in a browser: both runs side by side, scores, losses, rows, and every answer with its image.
END
python -m toolkit lab page recipe --baseline raw --preset mini
