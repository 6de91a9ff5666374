"""Time training steps in reference mode against the default, in one process, and check that the losses agree.

    python -m benchmarks.training --preset full --stage pretrain        # one GPU, random weights of MGM-2B
    python -m benchmarks.training --preset mini --stage finetune        # the CPU

Reference mode: every position projected in patch info mining, NCHW ConvNeXt, logits of every position, gradient
checkpointing on (GPU). Both keep fp32 master weights for bf16 models. Stochastic depth is off so that losses compare.
"""

from __future__ import annotations

import argparse
import gc
import statistics
from dataclasses import dataclass
from typing import Literal

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.models import batch_of, describe, device_of, matmul_rate, model_of, seconds
from toolkit.presets import Preset, load_preset
from toolkit.training.master import make_optimizer
from toolkit.training.memory import MGM_2B, best_fit

TOLERANCE = {"bf16": 2e-2, "fp32": 1e-4}


@dataclass(frozen=True)
class Measured:
    """One mode's figures: seconds of each optimizer step, its loss, peak GPU memory, operations of one step."""

    step_seconds: list[float]
    losses: list[float]
    peak_bytes: int
    operations: int


def measure(
    preset: Preset, stage: Literal["pretrain", "finetune"], reference: bool, args: argparse.Namespace
) -> Measured:
    """Train a few steps from the same weights on the same batches."""
    device = device_of(preset)
    model = model_of(preset, device).train()
    model.set_trainable(stage)
    model.set_stochastic_depth(False)
    model.set_reference_mode(reference)
    if device.type == "cuda" and (reference or args.checkpointing):
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    optimizer = make_optimizer(model, preset.stage(stage).learning_rate)
    batches = [batch_of(model, stage, args.batch, seed) for seed in range(args.accumulation)]
    losses: list[float] = []

    def step() -> None:
        total = 0.0
        for batch in batches:
            loss = model(**batch).loss / len(batches)
            loss.backward()
            total += loss.detach()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(total))

    step()  # warm-up: allocations, kernel choices
    with FlopCounterMode(display=False) as counter:
        step()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    times = [seconds(step, device) for _ in range(args.steps)]
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    return Measured(times, losses, peak, counter.get_total_flops())


def main() -> None:
    """Measure both modes and print the comparison; exits with 1 if the losses disagree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="mini", help="full, 10k or mini (default: mini)")
    parser.add_argument("--stage", choices=("pretrain", "finetune"), default="pretrain")
    parser.add_argument("--batch", type=int, help="samples of a micro-batch (default: what fits the GPU; 8 on a CPU)")
    parser.add_argument("--accumulation", type=int, default=4, help="micro-batches of a step (default: 4)")
    parser.add_argument("--steps", type=int, default=5, help="timed steps (default: 5)")
    args = parser.parse_args()
    preset = load_preset(args.preset)
    device = device_of(preset)
    args.checkpointing = False
    if device.type == "cuda":
        memory = torch.cuda.mem_get_info()[1]
        fit = best_fit(MGM_2B, args.stage, 1, memory, [args.batch] if args.batch else [1, 2, 4, 8, 16])
        if fit is None or fit.offload:
            raise SystemExit(f"error: {memory / 1e9:.0f} GB are too little to {args.stage} MGM-2B on one GPU")
        args.batch, args.checkpointing = fit.batch, fit.checkpointing
    args.batch = args.batch or 8
    dtype = torch.bfloat16 if preset.precision == "bf16" else torch.float32
    rate = matmul_rate(device, dtype)
    print(f"{describe(device)}; measured {preset.precision} matmul rate {rate / 1e12:.2f} TFLOP/s")

    samples = args.batch * args.accumulation
    print(f"micro-batch {args.batch} x {args.accumulation}, checkpointing in default mode: {args.checkpointing}")
    results = {}
    print(f"{'mode':10} {'samples/s':>10} {'s/step':>8} {'peak GB':>8} {'TFLOP/sample':>13} {'of matmul':>10}")
    for mode in ("reference", "default"):
        results[mode] = found = measure(preset, args.stage, mode == "reference", args)
        median = statistics.median(found.step_seconds)
        # Only operations the default needs count as useful: reassociated mining, supervised logits, no recomputation.
        share = f"{results['default'].operations / median / rate:10.0%}" if mode == "default" else f"{'':>10}"
        print(
            f"{mode:10} {samples / median:10.2f} {median:8.3f} {found.peak_bytes / 1e9:8.1f} "
            f"{found.operations / samples / 1e12:13.4f} {share}"
        )
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    medians = {mode: statistics.median(found.step_seconds) for mode, found in results.items()}
    pairs = zip(results["reference"].losses, results["default"].losses, strict=True)
    worst = max(abs(plain - fast) / abs(plain) for plain, fast in pairs)
    print(f"{args.stage}: default is {medians['reference'] / medians['default']:.2f} times as fast as reference mode")
    print(f"largest relative difference of losses {worst:.1e} (allowed {TOLERANCE[preset.precision]:.0e})")
    if worst > TOLERANCE[preset.precision]:
        raise SystemExit("error: the losses disagree")


if __name__ == "__main__":
    main()
