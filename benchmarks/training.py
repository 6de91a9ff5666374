"""Time `train`'s own loop in reference mode against the default, and check that the losses agree.

    python -m benchmarks.training --preset full --stage pretrain        # one GPU, random weights of MGM-2B
    python -m benchmarks.training --preset mini --stage finetune        # the CPU

Everything is `train`'s: loader and its workers, micro-batches, Trainer, optimizer, stochastic depth; the mini preset
also trains on its own rows. Each turn is a process of its own, as a stage is: what one leaves to its successors, such
as memory that the C library holds, is no mode's gain. At full size the weights, the images (of photographs' sizes) and
the words (as many as seed and finetuning rows have) are made up. Reference mode: every position projected in patch info
mining, NCHW ConvNeXt, a mask, logits of every position, gradient checkpointing (GPU).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import multiprocessing
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from unittest import mock

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from benchmarks.models import (
    TOKENIZER_OF,
    RandomReader,
    clock_of,
    describe,
    device_of,
    matmul_rate,
    model_of,
    operations,
    rows_of,
    write_images,
)
from toolkit.dataset.rows import ImageRoots
from toolkit.dataset.training_file import read_samples
from toolkit.mgm.checkpoint import load_tokenizer
from toolkit.mgm.model import MGMGemmaForCausalLM
from toolkit.presets import INITIALISATION_SEED, SAMPLE_ORDER_SEED, Preset, load_preset
from toolkit.training import stage as training
from toolkit.training.data import SampleReader
from toolkit.training.memory import MGM_2B, best_fit
from toolkit.training.plan import RunOptions, Settings
from toolkit.training.speed import regions
from toolkit.training.speed.decoder import Decoder
from toolkit.training.speed.packing import PackedDecoder
from toolkit.training.trainer import FixedTrainer

TOLERANCE = {"bf16": 2e-2, "fp32": 1e-4}
# The public code on A800-class GPUs, samples/s on each.
PUBLISHED = {"pretrain": 11.3, "finetune": 3.36}


@dataclass(frozen=True)
class Measured:
    """One mode's figures: seconds of each step, the first with compilation among them, losses, peak GPU memory,
    operations that a sample needs."""

    first_step: float
    step_seconds: list[float]
    losses: list[float]
    peak_bytes: int
    operations: float


def measure(preset: Preset, stage: Literal["pretrain", "finetune"], mode: str, args: argparse.Namespace) -> Measured:
    """Train a few steps from the same weights on the same rows, in the same order."""
    device = device_of(preset)
    model = model_of(preset, device)
    count = args.batch * args.accumulation * (1 + args.steps + bool(args.profile))
    stamps: list[float] = []
    clock = clock_of(device)
    profiler, profiled = torch.profiler.profile(), args.profile and mode == "default"

    def stamp(*_: object) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()
        stamps.append(clock())
        if profiled and len(stamps) == 1 + args.steps:  # one more step
            profiler.start()

    with tempfile.TemporaryDirectory() as folder:
        figures = preset.stage(stage)
        if preset.needs_gpu:
            rows, images, kind = rows_of(stage, count), Path(folder), RandomReader
            write_images(images)
        else:  # the mini world's own
            of_seed = stage == "pretrain"
            images = preset.seed_images if of_seed else preset.finetune_images
            rows, kind = read_samples(preset.questions if of_seed else preset.finetune_data)[:count], SampleReader
        reader = kind(
            roots=ImageRoots(images, images),
            tokenizer=load_tokenizer(TOKENIZER_OF),
            image_size_aux=model.config.image_size_aux,
            aspect=figures.image_aspect_ratio,
            max_length=preset.max_length,
            image_tokens=model.image_tokens,
        )
        needed = operations(model, stage, [reader.tokens(row) for row in rows])
        settings = Settings(
            stage=stage,
            preset=preset.name,
            batch=args.batch,
            accumulation=args.accumulation,
            processes=1,
            learning_rate=figures.learning_rate,
            image_aspect_ratio=figures.image_aspect_ratio,
            group_by_modality_length=figures.group_by_modality_length,
            precision=preset.precision,
            max_length=preset.max_length,
            stochastic_depth=True,
            initialisation_seed=INITIALISATION_SEED,
            order_seed=SAMPLE_ORDER_SEED,
            on_error="stop",
            images=str(images),
            synthetic_images=str(images),
        )
        options = RunOptions(args.workers, 1, 10**6, 1, reference_mode=mode == "reference")
        hook = register_optimizer_step_post_hook(stamp)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        started = clock()
        with mode_of(mode), contextlib.redirect_stdout(sys.stdout if args.verbose else io.StringIO()):
            outcome = training.fit(model, rows, reader, settings, options, Path(folder, "out"), lambda _: None)
        hook.remove()
    if profiled:
        profiler.stop()
        args.profile.mkdir(parents=True, exist_ok=True)
        table = profiler.key_averages().table(f"self_{device.type}_time_total", row_limit=60, max_name_column_width=90)
        (args.profile / f"{stage}_{mode}.txt").write_text(table)
    return Measured(
        first_step=stamps[0] - started,
        step_seconds=[later - earlier for earlier, later in itertools.pairwise(stamps[: 1 + args.steps])],
        losses=[entry["loss"] for entry in outcome.trainer.state.log_history if "loss" in entry],
        peak_bytes=torch.cuda.max_memory_allocated() if device.type == "cuda" else 0,
        operations=needed,
    )


@contextlib.contextmanager
def mode_of(mode: str) -> Iterator[None]:
    """`train`'s own choice of fast paths, or a part of them: none of a GPU's, or only the one without padding."""

    def speed_up(model: MGMGemmaForCausalLM, *_: object, **__: object) -> None:
        model.decoder = PackedDecoder() if mode == "packed" else Decoder()

    with contextlib.ExitStack() as stack:
        # No checkpoint is written here, not even after the last step; compiling need not pay.
        stack.enter_context(mock.patch.object(training, "require_space"))
        stack.enter_context(mock.patch.object(FixedTrainer, "_save_checkpoint"))
        stack.enter_context(mock.patch.object(regions, "WORTH_COMPILING", 0))
        if mode in ("plain", "packed"):
            stack.enter_context(mock.patch.object(training, "speed_up", speed_up))
        yield


def main() -> None:
    """Measure the modes and print the comparison; exits with 1 if the losses disagree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="mini", help="full, 10k or mini (default: mini)")
    parser.add_argument("--stage", choices=("pretrain", "finetune"), default="pretrain")
    parser.add_argument("--batch", type=int, help="samples of a micro-batch (default: `auto`'s; 8 on a CPU)")
    parser.add_argument("--accumulation", type=int, default=4, help="micro-batches of a step (default: 4)")
    parser.add_argument("--steps", type=int, default=5, help="timed steps, after a first one (default: 5)")
    parser.add_argument("--workers", type=int, help="loader processes (default: 8, 0 on a CPU)")
    parser.add_argument(
        "--modes",
        nargs="+",
        default=["reference", "default"],
        choices=("reference", "plain", "packed", "default"),
        help="what to time, in turns where a mode is named again; plain and packed leave out a GPU's fast paths, or "
        "compilation (default: reference default)",
    )
    parser.add_argument("--profile", type=Path, help="folder for a table of the default mode's longest operations")
    parser.add_argument("--verbose", action="store_true", help="show the training's own lines")
    args = parser.parse_args()
    preset = load_preset(args.preset)
    device = device_of(preset)
    if device.type == "cuda" and not args.batch:
        memory = torch.cuda.mem_get_info()[1]
        fit = best_fit(MGM_2B, args.stage, 1, memory, [1, 2, 4, 8, 16, 32])
        if fit is None or fit.offload:
            raise SystemExit(f"error: {memory / 1e9:.0f} GB are too little to {args.stage} MGM-2B on one GPU")
        args.batch = fit.batch
    args.batch = args.batch or 8
    args.workers = (8 if device.type == "cuda" else 0) if args.workers is None else args.workers
    rate = matmul_rate(device, torch.bfloat16 if preset.precision == "bf16" else torch.float32)
    print(f"{describe(device)}; measured {preset.precision} matmul rate {rate / 1e12:.2f} TFLOP/s", flush=True)
    samples = args.batch * args.accumulation
    print(f"{args.stage}, micro-batch {args.batch} x {args.accumulation}, {args.workers} workers")
    print(
        f"{'mode':10} {'samples/s':>10} {'s/step':>8} {'fastest':>8} {'1st step':>9} {'peak GB':>8} {'of matmul':>10} "
        f"{'load':>6}  losses",
        flush=True,
    )
    results: dict[str, list[Measured]] = {}
    for mode in args.modes:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            found = process.submit(measure, preset, args.stage, mode, args).result()
        results.setdefault(mode, []).append(found)
        median = statistics.median(found.step_seconds)
        # Only operations the default needs count as useful: no recomputation, no padding, no logits nobody reads.
        share = found.operations * samples / median / rate
        print(
            f"{mode:10} {samples / median:10.2f} {median:8.3f} {min(found.step_seconds):8.3f} {found.first_step:9.1f} "
            f"{found.peak_bytes / 1e9:8.1f} {share:10.0%} {os.getloadavg()[0]:6.1f}  "
            + " ".join(f"{loss:.4f}" for loss in found.losses),
            flush=True,
        )
    print(f"public code, one GPU of A800 class: {PUBLISHED[args.stage]} samples/s at full size, as published")
    if "reference" not in results:
        return
    plain = results.pop("reference")
    for mode, turns in results.items():
        ratio = _median(plain) / _median(turns)
        pairs = [pair for turn in turns for pair in zip(plain[0].losses, turn.losses, strict=True)]
        worst = max(abs(one - other) / abs(one) for one, other in pairs)
        print(f"{args.stage}: {mode} is {ratio:.2f} times as fast as reference mode")
        print(f"largest relative difference of losses {worst:.1e} (allowed {TOLERANCE[preset.precision]:.0e})")
        if worst > TOLERANCE[preset.precision]:
            raise SystemExit("error: the losses disagree")


def _median(turns: list[Measured]) -> float:
    """Seconds of a step, over all turns of a mode."""
    return statistics.median(step for turn in turns for step in turn.step_seconds)


if __name__ == "__main__":
    main()
