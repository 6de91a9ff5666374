"""`python -m toolkit judge`: how much each image helps a trained MGM to predict its caption, as a Parquet file."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from toolkit.errors import UserError, part_of, positive
from toolkit.files import REPOSITORY, require_file, require_output
from toolkit.presets import load_preset
from toolkit.processes import owner_of

FOLDER = REPOSITORY / "output" / "judge"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m toolkit judge`."""
    parser.add_argument("seed", type=Path, help="the rows to judge, a seed's jsonl")
    parser.add_argument("--images", type=Path, help="folder the image paths start from (default: the seed's own)")
    parser.add_argument("--preset", default="full", help="full, 10k, mini or a YAML file (default: full)")
    parser.add_argument(
        "--model", type=Path, help="folder of a pre-trained, finetuned or published MGM (default: one is pre-trained)"
    )
    parser.add_argument("--train-rows", type=positive, help="rows that a judge is pre-trained on (default: 50,000)")
    parser.add_argument("--out", type=Path, help="Parquet file to write (default: output/judge/SEED.parquet)")
    parser.add_argument("--batch", type=positive, help="pairs in one forward pass (default: 32 on a GPU, 8 on a CPU)")
    parser.add_argument(
        "--workers",
        type=int,
        default=min(4, os.cpu_count() or 1),
        help="processes that read images for each GPU (%(default)s)",
    )
    parser.add_argument("--chunk", type=int, help="judge only this part of the rows, from 0; with --chunks")
    parser.add_argument("--chunks", type=positive, help="number of parts, with --chunk (default: one per GPU)")
    parser.add_argument("--overwrite", action="store_true", help="judge again although the file is there")


def run(args: argparse.Namespace) -> None:
    """Pre-train a judge if none is named, judge all rows, or resume either.

    Raises:
        UserError: the seed, the model or the chunk is none; the file is of another seed or model; those of training.
    """
    require_file(args.seed)
    out = args.out or FOLDER / f"{args.seed.stem}.parquet"
    if out.suffix != ".parquet":
        raise UserError(f"--out {out}: expected the name of a .parquet file")
    require_output(out, args.seed)
    chunk, chunks = part_of(args.chunk, args.chunks)
    if args.workers < 0:
        raise UserError(f"--workers must be 0 or more, found {args.workers}")
    if args.model and args.train_rows:
        raise UserError("--train-rows belongs to a judge that is pre-trained here: leave it out, or --model")
    images = args.images or args.seed.parent
    if not images.is_dir():
        raise UserError(f"{images}: no such folder; --images names the one that the rows' image paths start from")
    preset = load_preset(args.preset)
    part = f"{out.stem}-{chunk}-of-{chunks}" if chunks > 1 else out.stem
    with owner_of(out.parent, part):
        from toolkit.judge.job import Options, judge
        from toolkit.judge.model import ROWS

        options = Options(args.batch, args.workers, chunk, chunks, args.overwrite)
        judge(args.seed, images, args.preset, preset, args.model, args.train_rows or ROWS, out, options)
