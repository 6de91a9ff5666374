"""`python -m toolkit train pretrain|finetune`: one stage of the fixed training."""

from __future__ import annotations

import argparse
from pathlib import Path

from toolkit.fixed_part import read_fixed_part
from toolkit.presets import load_preset
from toolkit.training.plan import RunOptions, StageRequest
from toolkit.training.run import run_stage


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m toolkit train`."""
    parser.add_argument("stage", choices=("pretrain", "finetune"), help="the adapter learns, or all but the towers")
    parser.add_argument("--preset", default="full", help="full, 10k, mini or a YAML file (default: full)")
    parser.add_argument("--data", type=Path, required=True, help="LLaVA-format JSON, as `prepare` writes it")
    parser.add_argument("--images", type=Path, required=True, help="folder the rows' image paths start from")
    parser.add_argument(
        "--synthetic-images",
        type=Path,
        help="folder that holds synthetic_images/, beside processed_data.jsonl (default: that of --images)",
    )
    parser.add_argument("--out", type=Path, required=True, help="output folder; running again resumes there")
    parser.add_argument("--adapter", type=Path, help="mm_projector.bin to start from (finetune; default: untrained)")
    parser.add_argument("--batch", type=int, required=True, help="samples of a micro-batch on one GPU")
    parser.add_argument("--accumulation", type=int, required=True, help="micro-batches of a step on one GPU")
    parser.add_argument("--workers", type=int, default=4, help="loader processes for each GPU (default: 4)")
    parser.add_argument("--logging-steps", type=int, default=1, help="steps between two log lines (default: 1)")
    parser.add_argument("--save-steps", type=int, default=100, help="steps between two checkpoints (default: 100)")
    parser.add_argument("--save-total-limit", type=int, default=1, help="checkpoints kept (default: 1)")
    parser.add_argument("--on-error", choices=("stop", "skip"), default="stop", help="policy for rows not trainable")
    parser.add_argument("--no-stochastic-depth", action="store_true", help="for equality tests; not the fixed training")
    parser.add_argument("--reference-mode", action="store_true", help="no fast path: what equality is tested against")
    parser.add_argument("--deepspeed", action="store_true", help="use DeepSpeed also without a GPU, to test it")


def run(args: argparse.Namespace) -> None:
    """Train the stage, resume it, or say that it is finished. Raises UserError as `run_stage` does."""
    request = StageRequest(
        stage=args.stage,
        data=args.data,
        images=args.images,
        synthetic_images=args.synthetic_images or args.images,
        adapter=args.adapter,
        out=args.out,
        batch=args.batch,
        accumulation=args.accumulation,
        stochastic_depth=not args.no_stochastic_depth,
        on_error=args.on_error,
    )
    options = RunOptions(
        workers=args.workers,
        logging_steps=args.logging_steps,
        save_steps=args.save_steps,
        save_total_limit=args.save_total_limit,
        deepspeed=args.deepspeed,
        reference_mode=args.reference_mode,
    )
    run_stage(request, load_preset(args.preset), options, read_fixed_part(args.preset))
