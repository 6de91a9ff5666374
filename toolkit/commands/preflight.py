"""`python -m toolkit preflight`: check settings, data, GPUs and files before a run starts."""

from __future__ import annotations

import argparse
from pathlib import Path

from toolkit.errors import positive
from toolkit.fixed_part import read_fixed_part, script_change
from toolkit.presets import load_preset
from toolkit.training.plan import require_same_fixed_part
from toolkit.training.preflight import check_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m toolkit preflight`."""
    parser.add_argument("--preset", default="full", help="full, 10k, mini or a YAML file (default: full)")
    parser.add_argument(
        "--stage-batches",
        type=positive,
        nargs=4,
        required=True,
        metavar=("PRETRAIN_BATCH", "PRETRAIN_ACCUMULATION", "FINETUNE_BATCH", "FINETUNE_ACCUMULATION"),
        help="samples per GPU and gradient accumulation steps of both stages",
    )
    parser.add_argument("--gpus", type=positive, help="GPUs that train (default: all visible ones)")
    parser.add_argument("--data", type=Path, required=True, help="the pre-training file, PRETRAIN_DATASET")
    parser.add_argument("--images", type=Path, required=True, help="its image root, PRETRAIN_DATASET_IMAGE_PATH")
    parser.add_argument("--infer-gpus", default="0", help="comma-separated GPUs of inference, INFER_CUDA_IDX")
    parser.add_argument("--script", type=Path, help="training script of the run: its fixed lines are compared")
    parser.add_argument(
        "--runs",
        type=Path,
        nargs="*",
        default=[],
        help="the stages' folders: refused if of another fixed part",
    )


def run(args: argparse.Namespace) -> None:
    """Check a run, then print what will be trained. Raises UserError as `check_run` does, or for another fixed part."""
    lines = check_run(load_preset(args.preset), args.stage_batches, args.gpus, args.data, args.images, args.infer_gpus)
    fixed_part = read_fixed_part(args.preset)
    for folder in args.runs:
        require_same_fixed_part(folder, fixed_part)
    print(*lines, sep="\n")
    if args.script and (change := script_change(args.script.read_bytes())):
        print(f"warning: outside its editable part {change}; `pack` will refuse this run")
