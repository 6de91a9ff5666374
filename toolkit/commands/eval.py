"""`python -m toolkit eval`: answer a benchmark, or both, with a trained MGM."""

from __future__ import annotations

import argparse
from pathlib import Path

from toolkit.errors import part_of, positive
from toolkit.eval import mmbench
from toolkit.eval.answer import BENCHMARKS, TrainedModel, answer, is_finished, read_job
from toolkit.eval.questions import BLIND
from toolkit.fixed_part import read_fixed_part
from toolkit.presets import load_preset
from toolkit.processes import owner_of

ALL = "all"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m toolkit eval`."""
    parser.add_argument("benchmark", choices=(*BENCHMARKS, ALL), help="all: both, with the model read once")
    parser.add_argument("--preset", default="full", help="full, 10k, mini or a YAML file: names the benchmark's files")
    parser.add_argument("--model", type=Path, required=True, help="folder of a finetuned or published MGM")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the answers; with `all` each benchmark has one in it"
    )
    parser.add_argument(
        "--batch", type=positive, help="questions answered at a time (default: as many as memory takes)"
    )
    parser.add_argument("--chunk", type=int, help="answer only this part of the questions, from 0; with --chunks")
    parser.add_argument("--chunks", type=positive, help="number of parts; with --chunk")
    parser.add_argument(
        "--reference-mode", action="store_true", help="one question at a time, no fast path: what tests compare with"
    )
    parser.add_argument(
        "--no-image",
        action="store_true",
        help="answer without looking: one grey image for every question; the answers go to blind/ beside --out, and "
        "`score` shows them in a column of their own",
    )
    parser.add_argument(
        "--language", choices=mmbench.INSTRUCTIONS, default="en", help="of MMBench's instruction (%(default)s)"
    )


def run(args: argparse.Namespace) -> None:
    """Answer, or answer one chunk.

    Raises:
        UserError: as `part_of`, `read_job` and `answer`.
    """
    chunk, chunks = part_of(args.chunk, args.chunks)
    preset, fixed_part = load_preset(args.preset), read_fixed_part(args.preset)
    model = TrainedModel(args.model, preset.precision == "fp32", args.reference_mode)
    benchmarks = BENCHMARKS if args.benchmark == ALL else (args.benchmark,)
    jobs = {
        _folder(args.out / benchmark if args.benchmark == ALL else args.out, args.no_image): read_job(
            benchmark, preset, model, fixed_part, args.language, args.no_image
        )
        for benchmark in benchmarks
    }
    for out, job in jobs.items():
        is_finished(out, job)  # refuses a folder of other answers before anything is answered
    for out, job in jobs.items():
        # Chunks are answered beside each other.
        with owner_of(out, f"{chunk}-of-{chunks}" if chunks > 1 else ""):
            answer(job, model, out, batch=args.batch, chunk=chunk, chunks=chunks)


def _folder(out: Path, no_image: bool) -> Path:
    """Where answers go: those given without images to a folder of their own beside the others."""
    return out.parent / BLIND / out.name if no_image and out.parent.name != BLIND else out
