"""Disk that a stage takes at its peak, computed from counts before the first step."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

from toolkit.errors import UserError
from toolkit.training.memory import Sizes

# fp32 masters and AdamW's two moments of a bf16 weight; of an fp32 weight the moments alone.
OPTIMIZER_BYTES = {"bf16": 12, "fp32": 8}
WEIGHT_BYTES = {"bf16": 2, "fp32": 4}


def checkpoint_bytes(sizes: Sizes, stage: Literal["pretrain", "finetune"], precision: Literal["bf16", "fp32"]) -> int:
    """Size of one checkpoint: the weights as results hold them, DeepSpeed's copy of what learns, the optimizer."""
    learns = sizes.adapter if stage == "pretrain" else sizes.parameters - sizes.towers
    return weights_bytes(sizes, stage, precision) + learns * (WEIGHT_BYTES[precision] + OPTIMIZER_BYTES[precision])


def weights_bytes(sizes: Sizes, stage: Literal["pretrain", "finetune"], precision: Literal["bf16", "fp32"]) -> int:
    """Size of a stage's result."""
    return WEIGHT_BYTES[precision] * (sizes.adapter if stage == "pretrain" else sizes.parameters)


def require_space(
    folder: Path, sizes: Sizes, stage: Literal["pretrain", "finetune"], precision: Literal["bf16", "fp32"], keep: int
) -> None:
    """Refuse to start what would fill the disk: the checkpoints kept, the next one beside them, then the result.

    Args:
        folder: of the stage; need not exist. What its checkpoints take already is not needed again.
        sizes: of the model.
        stage, precision: decide what is written.
        keep: checkpoints kept.

    Raises:
        UserError: says how much is needed and how much is free.
    """
    one = checkpoint_bytes(sizes, stage, precision)
    there = sum(path.stat().st_size for path in folder.glob("checkpoint-*/**/*") if path.is_file())
    needed = (keep + 1) * one + weights_bytes(sizes, stage, precision) - there
    existing = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(existing).free
    if needed > free:
        less = "; TOTAL_SAVE_CKPT_LIMIT=1 needs less" if keep > 1 else ""
        raise UserError(
            f"{folder}: {stage} needs up to {needed / 1e9:.1f} GB there ({keep} checkpoints of {one / 1e9:.1f} GB, the "
            f"next one, and the result), {free / 1e9:.1f} GB are free; make room{less}"
        )
