#!/usr/bin/env bash
# Keeps the training script as it was run in the finetuning folder, with settings that came from the environment.
# Once a stage has begun it stays as it is. Sourced by fixed_part.sh.
set -euo pipefail

begun() { [[ -f $1/plan.json || -f $1/run.json ]]; }
if [[ ! -f $FINETUNE_RUN/train.sh ]] || ! { begun "$PRETRAIN_RUN" || begun "$FINETUNE_RUN"; }; then
    while IFS= read -r line || [[ -n $line ]]; do
        if [[ $line =~ ^([A-Z_]+)=\$\{[A-Z_]+:-.*\}$ ]]; then
            name=${BASH_REMATCH[1]}
            value=${!name}
            [[ $value =~ ^[A-Za-z0-9_./,:@%+=-]*$ ]] || value=${value@Q}
            line="$name=\${$name:-$value}"
        fi
        printf '%s\n' "$line"
    done <"$TRAIN_SCRIPT" >"$FINETUNE_RUN/.train.sh"
    mv "$FINETUNE_RUN/.train.sh" "$FINETUNE_RUN/train.sh"
fi
