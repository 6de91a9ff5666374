"""A micro-batch that fits the visible GPUs: what `auto` as batch size means in the training scripts."""

from __future__ import annotations

from typing import Literal

from toolkit.errors import UserError
from toolkit.presets import Preset
from toolkit.training.memory import MGM_2B, best_fit

# Beyond this a larger micro-batch no longer makes a full-size step quicker.
LARGEST_BATCH = 32


def choose_batch(preset: Preset, stage: Literal["pretrain", "finetune"]) -> tuple[int, int]:
    """Batch size and accumulation whose product with the visible GPUs is the preset's global batch.

    Raises:
        UserError: no GPU for a preset that needs one; the GPUs cannot share the global batch; nothing fits.
    """
    target = preset.stage(stage).global_batch
    if not preset.needs_gpu:
        return target, 1
    import torch

    gpus = torch.cuda.device_count()
    if not gpus:
        raise UserError("`auto` looks at the GPUs and none is visible; `--preset mini` runs without")
    if target % gpus:
        raise UserError(f"{gpus} GPUs cannot share {target}; choose another number with CUDA_VISIBLE_DEVICES")
    share = target // gpus
    smallest = min(torch.cuda.mem_get_info(gpu)[1] for gpu in range(gpus))
    batches = [batch for batch in range(1, min(share, LARGEST_BATCH) + 1) if share % batch == 0]
    fit = best_fit(MGM_2B, stage, gpus, smallest, batches)
    if fit is None:
        raise UserError(f"{smallest / 1e9:.0f} GB per GPU are too little to {stage} MGM-2B")
    return fit.batch, share // fit.batch
