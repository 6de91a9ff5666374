"""`python -m toolkit batch pretrain|finetune`: a micro-batch that fits these GPUs, for the scripts' `auto`."""

from __future__ import annotations

import argparse

from toolkit.errors import UserError
from toolkit.presets import load_preset
from toolkit.training.memory import MGM_2B, best_fit

# Beyond this a larger micro-batch no longer makes a full-size step quicker.
LARGEST_BATCH = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m toolkit batch`."""
    parser.add_argument("stage", choices=("pretrain", "finetune"))
    parser.add_argument("--preset", default="full", help="full, 10k, mini or a YAML file (default: full)")


def run(args: argparse.Namespace) -> None:
    """Print batch size and accumulation whose product with the visible GPUs is the preset's global batch.

    Raises:
        UserError: no GPU for a preset that needs one; the GPUs cannot share the global batch; nothing fits.
    """
    preset = load_preset(args.preset)
    target = preset.stage(args.stage).global_batch
    if not preset.needs_gpu:
        print(target, 1)
        return
    import torch

    gpus = torch.cuda.device_count()
    if not gpus:
        raise UserError("`auto` looks at the GPUs and none is visible; `--preset mini` runs without")
    if target % gpus:
        raise UserError(f"{gpus} GPUs cannot share {target}; choose another number with CUDA_VISIBLE_DEVICES")
    share = target // gpus
    smallest = min(torch.cuda.mem_get_info(gpu)[1] for gpu in range(gpus))
    batches = [batch for batch in range(1, min(share, LARGEST_BATCH) + 1) if share % batch == 0]
    fit = best_fit(MGM_2B, args.stage, gpus, smallest, batches)
    if fit is None:
        raise UserError(f"{smallest / 1e9:.0f} GB a GPU are too little to {args.stage} MGM-2B")
    print(fit.batch, share // fit.batch)
