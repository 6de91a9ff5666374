"""`python -m toolkit preflight`: check settings, data, GPUs and files before a run starts."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

from toolkit.dataset.kept_rows import RECORD_SUFFIX, ROWS_SUFFIX
from toolkit.errors import OnError, UserError, positive
from toolkit.files import REPOSITORY, read_json, sha256_of
from toolkit.fixed_part import read_fixed_part, script_change
from toolkit.presets import Preset, load_preset
from toolkit.terminal import visible
from toolkit.training.disk import require_space
from toolkit.training.memory import MGM_2B
from toolkit.training.plan import ANOTHER_RUN, RECORD, StageRequest, has_begun
from toolkit.training.preflight import check_run
from toolkit.training.run import require_same_run

SHOWN_FAULTS = 5


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
    parser.add_argument("--save-total-limit", type=positive, default=1, help="checkpoints kept (default: 1)")
    parser.add_argument("--script", type=Path, help="training script of the run: its fixed lines are compared")
    parser.add_argument("--inputs", action="store_true", help="also look at all that is read later, once per change")
    parser.add_argument(
        "--on-error", choices=("stop", "skip"), default="stop", help="policy for rows of the finetuning set"
    )
    parser.add_argument(
        "--runs",
        type=Path,
        nargs="*",
        default=[],
        help="folders of the stages, finetuning's last: refused if they hold another run",
    )


def run(args: argparse.Namespace) -> None:
    """Check a run, then print what will be trained.

    Raises:
        UserError: as `check_run`, `require_same_run` and `require_space` do; the script's fixed lines were changed;
            under `--inputs`, a file that is read later is faulty.
    """
    preset = load_preset(args.preset)
    lines = check_run(preset, args.stage_batches, args.gpus, args.data, args.images, args.infer_gpus)
    if args.script and (change := script_change(args.script.read_bytes())):
        raise UserError(
            f"{args.script}: outside its editable part {change}; restore it (git checkout, or copy the script again): "
            "only editable lines may differ, and each can be set from outside (NAME=value bash SCRIPT)"
        )
    fixed_part = read_fixed_part(args.preset)
    for request in _requests(args, preset):
        require_same_run(request, preset, fixed_part)
        if preset.needs_gpu and not (request.out / RECORD).is_file():
            require_space(request.out, MGM_2B, request.stage, preset.precision, args.save_total_limit)
    print(*lines, sep="\n", flush=True)
    if args.inputs:
        _look(preset, fixed_part.sha256, args.on_error)


def _look(preset: Preset, code: str, on_error: OnError) -> None:
    """Look at everything that both stages and both benchmarks will read; once, as long as no file changes."""
    from toolkit.eval.inputs import benchmark_files, look_at_benchmarks
    from toolkit.training.inputs import is_known, look_at_stages, remember, signature_of, stage_files

    signature = signature_of([*stage_files(preset), *benchmark_files(preset)], f"{code} {on_error}")
    known = REPOSITORY / "output" / f".inputs-{preset.name}.json"
    if is_known(known, signature):
        print("models, finetuning set, benchmarks: unchanged since they were looked at")
        return
    print("models, finetuning set, benchmarks: reading all rows and images once ...", flush=True)
    started = time.monotonic()
    rows, faults = look_at_stages(preset, on_error)
    look_at_benchmarks(preset)
    if not faults:  # they are named at every start
        remember(known, signature)
    for fault in faults[:SHOWN_FAULTS]:
        what = f"({fault.file or 'no image'}): {fault.reason}: {fault.detail}"
        print(f"warning: finetuning leaves out row {visible(f'{fault.id} {what}')}")
    if faults:
        print(f"warning: finetuning leaves out {len(faults):,} of {rows:,} rows: this run is for experiments only")
    print(f"models, finetuning set ({rows:,} rows), benchmarks: in order, {time.monotonic() - started:.0f} s")


def _requests(args: argparse.Namespace, preset: Preset) -> Iterator[StageRequest]:
    """The stages as the training scripts start them.

    Raises:
        UserError: pre-training's folder was started with other rows.
    """
    runs: list[Path] = args.runs
    pretrain = runs[:-1]
    for out in pretrain:
        data = out / "pretrain_data.json"
        record = data.with_suffix(RECORD_SUFFIX)
        if has_begun(out) and record.is_file() and sha256_of(args.data) not in read_json(record)["inputs"].values():
            raise UserError(
                f"PRETRAIN_DATASET {args.data}: not the file that the run in {out} was started with (that is "
                f"{data.with_suffix(ROWS_SUFFIX).name} there); {ANOTHER_RUN}"
            )
        batch, accumulation = args.stage_batches[:2]
        yield StageRequest(
            "pretrain", data, args.images, args.data.parent, None, out, batch, accumulation, True, "stop"
        )
    for finetune in runs[-1:]:
        adapter = pretrain[-1] / "mm_projector.bin" if pretrain else None
        data, images, (batch, accumulation) = preset.finetune_data, preset.finetune_images, args.stage_batches[2:]
        yield StageRequest(
            "finetune", data, images, images, adapter, finetune, batch, accumulation, True, args.on_error
        )
