"""`python -m toolkit eval`: answer a benchmark with a trained MGM."""

from __future__ import annotations

import argparse
from pathlib import Path

from toolkit.errors import positive
from toolkit.eval import mmbench
from toolkit.eval.answer import BENCHMARKS, answer_benchmark
from toolkit.fixed_part import read_fixed_part
from toolkit.presets import load_preset
from toolkit.processes import owner_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m toolkit eval`."""
    parser.add_argument("benchmark", choices=BENCHMARKS)
    parser.add_argument("--preset", default="full", help="full, 10k, mini or a YAML file: names the benchmark's files")
    parser.add_argument("--model", type=Path, required=True, help="folder of a finetuned or published MGM")
    parser.add_argument("--out", type=Path, required=True, help="folder for the answers")
    parser.add_argument(
        "--batch", type=positive, help="questions answered at a time (default: as many as memory takes)"
    )
    parser.add_argument("--chunk", type=int, default=0, help="answer only this part of the questions, from 0")
    parser.add_argument("--chunks", type=positive, default=1, help="number of parts (default: 1)")
    parser.add_argument(
        "--reference-mode", action="store_true", help="one question at a time, no fast path: what tests compare with"
    )
    parser.add_argument(
        "--language", choices=mmbench.INSTRUCTIONS, default="en", help="of MMBench's instruction (%(default)s)"
    )


def run(args: argparse.Namespace) -> None:
    """Answer the benchmark, or one chunk of it. Raises UserError as `answer_benchmark` does."""
    # Chunks are answered beside each other.
    with owner_of(args.out, f"{args.chunk}-of-{args.chunks}" if args.chunks > 1 else ""):
        answer_benchmark(
            args.benchmark,
            load_preset(args.preset),
            args.model,
            args.out,
            read_fixed_part(args.preset),
            batch=args.batch,
            chunk=args.chunk,
            chunks=args.chunks,
            reference_mode=args.reference_mode,
            language=args.language,
        )
