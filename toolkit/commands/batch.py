"""`python -m toolkit batch pretrain|finetune`: a micro-batch that fits these GPUs, for the scripts' `auto`."""

from __future__ import annotations

import argparse

from toolkit.presets import load_preset
from toolkit.training.batches import choose_batch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m toolkit batch`."""
    parser.add_argument("stage", choices=("pretrain", "finetune"))
    parser.add_argument("--preset", default="full", help="full, 10k, mini or a YAML file (default: full)")


def run(args: argparse.Namespace) -> None:
    """Print batch size and accumulation. Raises UserError as `choose_batch` does."""
    print(*choose_batch(load_preset(args.preset), args.stage))
