"""One stage of the fixed training, from its data file to its output folder."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import signal
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.attempts import ATTEMPTS, attempt, finished_attempts, remove_attempts
from toolkit.dataset.image_stamps import changed_since, is_same, stamp_of
from toolkit.dataset.rows import ImageRoots
from toolkit.dataset.training_file import read_samples
from toolkit.errors import RowFault, UserError
from toolkit.files import display_path, package_versions, read_json, sha256_of, write_json
from toolkit.fixed_part import LOG_LINE, FixedPart
from toolkit.presets import Preset
from toolkit.processes import end_with_parent, owner_of
from toolkit.terminal import visible
from toolkit.training.checkpoints import remove_checkpoints
from toolkit.training.plan import (
    ANOTHER_RUN,
    LOGS,
    PLAN,
    RECORD,
    RunOptions,
    Settings,
    StageRequest,
    fingerprint,
    is_finished,
    make_plan,
    process_count,
    read_record,
    require_same_fixed_part,
    seeds,
)

if TYPE_CHECKING:
    from toolkit.training.data import SampleReader

ADAPTER = "mm_projector.bin"
# Set for the processes of a launch, whose parent has already written the log's first line.
LAUNCHED = "TOOLKIT_TRAIN_LAUNCHED"


def run_stage(request: StageRequest, preset: Preset, options: RunOptions, fixed_part: FixedPart) -> None:
    """Run one stage, resume it, or say that it is finished.

    Raises:
        UserError: the inputs do not fit each other, the machine or the output folder's earlier run, or the fixed part
            has changed since that began.
    """
    require_same_fixed_part(request.out, fixed_part)
    settings = settings_of(request, preset)
    for name in ("logging_steps", "save_steps", "save_total_limit"):
        _require_positive(name, getattr(options, name))
    if options.workers < 0:
        raise UserError(f"--workers must be 0 or more, found {options.workers}")
    plan = make_plan(settings, fingerprint(_files(request), _models(preset)), fixed_part)
    if LAUNCHED not in os.environ and _is_first():
        print(f"{LOG_LINE}{fixed_part.sha256}", flush=True)
    if is_finished(request.out, plan):
        if _is_first():
            _require_same_images(request, RECORD, read_json(request.data))
        _tidy(request.out)
        print(f"{settings.stage} is already finished in {request.out}: same data, models and settings; nothing to do")
        return
    _require_devices(preset, settings, options.deepspeed)
    if LAUNCHED in os.environ:
        end_with_parent(signal.SIGKILL)  # a launcher that is killed cannot end its processes
        _train(request, preset, settings, options, plan)
        _close_process_group()
        return
    # Under a launcher of the user's own, the first process speaks for all.
    with contextlib.ExitStack() as owned:
        if _is_first():
            owned.enter_context(owner_of(request.out))
            about = {"stage": settings.stage, "versions": package_versions()}
            owned.enter_context(attempt(request.out, plan, about, UserError))
        if settings.processes > 1 and "RANK" not in os.environ:
            _checked_rows(request, preset, settings, plan)
            _launch(settings.processes)
        else:
            _train(request, preset, settings, options, plan)
            _close_process_group()


def require_same_run(request: StageRequest, preset: Preset, fixed_part: FixedPart) -> None:
    """Refuse what `run_stage` would refuse because of an earlier run in the same folder, before anything is written.

    Args:
        request: its data and adapter need not exist yet.

    Raises:
        UserError: the folder holds another run, or one of another fixed part.
    """
    require_same_fixed_part(request.out, fixed_part)
    files = [path for path in _files(request) if path.is_file()]
    missing = {display_path(path) for path in _files(request)} - {display_path(path) for path in files}
    plan = make_plan(settings_of(request, preset), fingerprint(files, _models(preset)), fixed_part)
    is_finished(request.out, plan, unknown=missing)


def _files(request: StageRequest) -> list[Path]:
    return [request.data] + ([request.adapter] if request.adapter else [])


def _models(preset: Preset) -> list[Path]:
    return [preset.llm, preset.vision_tower, preset.vision_tower_aux]


def _require_positive(name: str, count: int) -> None:
    if count < 1:
        raise UserError(f"--{name.replace('_', '-')} must be 1 or more, found {count}")


def settings_of(request: StageRequest, preset: Preset) -> Settings:
    """Everything that decides a stage's numbers.

    Raises:
        UserError: the request's figures fit neither each other nor the preset; TRAIN_SEED is no number.
    """
    if request.stage == "pretrain" and request.adapter:
        raise UserError("--adapter belongs to finetune: pre-training starts from a new adapter")
    _require_positive("batch", request.batch)
    _require_positive("accumulation", request.accumulation)
    figures = preset.stage(request.stage)
    initialisation_seed, order_seed = seeds()
    return Settings(
        stage=request.stage,
        preset=preset.name,
        batch=request.batch,
        accumulation=request.accumulation,
        processes=process_count(preset, request.stage, request.batch, request.accumulation),
        learning_rate=figures.learning_rate,
        image_aspect_ratio=figures.image_aspect_ratio,
        group_by_modality_length=figures.group_by_modality_length,
        precision=preset.precision,
        max_length=preset.max_length,
        stochastic_depth=request.stochastic_depth,
        initialisation_seed=initialisation_seed,
        order_seed=order_seed,
        on_error=request.on_error,
        images=display_path(request.images),
        synthetic_images=display_path(request.synthetic_images),
    )


def _require_devices(preset: Preset, settings: Settings, deepspeed: bool) -> None:
    import torch

    gpus = torch.cuda.device_count()
    if preset.needs_gpu and not gpus:
        raise UserError(f"preset {preset.name} needs a CUDA GPU and none is visible; `--preset mini` runs without")
    # Testing DeepSpeed without GPUs, any number of processes share the CPU.
    present = int(os.environ.get("WORLD_SIZE", 0)) or gpus or (settings.processes if deepspeed else 1)
    # One process may leave further GPUs alone; the mini preset does.
    if settings.processes != present and not (settings.processes == 1 and not preset.needs_gpu):
        raise UserError(
            f"{settings.stage} batch {settings.batch} x accumulation {settings.accumulation} x {present} GPUs is "
            f"{settings.batch * settings.accumulation * present}, preset {preset.name} needs {settings.global_batch}"
        )


def _launch(processes: int) -> None:
    """Start this very command once per GPU, under torch's launcher."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ[LAUNCHED] = "1"
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    # The process that failed has said why; the launcher would add a page.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)("-u", "-m", "toolkit", *sys.argv[1:])
    except (ChildFailedError, SignalException) as error:
        if isinstance(error, ChildFailedError) and error.get_first_failure()[1].exitcode > 0:
            raise UserError("training has failed, for the reason above") from None
        raise UserError("training was cut short; run the same command again to resume") from None


def _reader(request: StageRequest, preset: Preset, settings: Settings) -> SampleReader:
    from toolkit.mgm.checkpoint import load_tokenizer
    from toolkit.training.data import SampleReader
    from toolkit.weights import image_tokens_of

    return SampleReader(
        roots=ImageRoots(seed=request.images, processed=request.synthetic_images),
        tokenizer=load_tokenizer(preset.llm),
        image_size_aux=preset.image_size_aux,
        aspect=settings.image_aspect_ratio,
        max_length=settings.max_length,
        image_tokens=image_tokens_of(preset.vision_tower),
    )


def _checked_rows(
    request: StageRequest, preset: Preset, settings: Settings, plan: dict[str, Any]
) -> tuple[list[dict[str, Any]], SampleReader, dict[str, Any]]:
    """The rows to train, their reader, and the plan with what the check of every row found.

    A resumed run keeps what its first check found: its sample order depends on which rows were skipped.

    Raises:
        UserError: a row cannot be trained and the policy is `stop`, or no row can.
    """
    from toolkit.training.data import scan

    rows = read_samples(request.data)
    reader = _reader(request, preset, settings)
    if (request.out / PLAN).is_file():
        if _is_first():
            _require_same_images(request, PLAN, rows)
        plan = read_record(request.out / PLAN)
    else:
        if _is_first():
            print(f"checking {len(rows):,} rows and their images ...", flush=True)
        images = _images(request, rows)
        stamp = stamp_of(images)
        found = scan(rows, reader)
        if not is_same(images, stamp):
            raise UserError(
                f"{display_path(request.images)}: images changed while they were checked: run the same again"
            )
        if found.faults and settings.on_error == "stop":
            first = next(iter(found.faults.values()))
            raise UserError(
                f"{request.data}: {len(found.faults)} of {len(rows)} rows cannot be trained; the first is row "
                f"{visible(first.id)} ({visible(first.file) or 'no image'}): {first.reason}: {first.detail}; "
                "fix them or pass --on-error skip"
            )
        if len(found.faults) == len(rows):
            raise UserError(f"{request.data}: no row of {len(rows)} can be trained")
        plan = plan | {
            "counts": {
                "rows": len(rows),
                "skipped": len(found.faults),
                "text_only": found.text_only,
                "exif_orientation_ignored": found.rotated_images,
            },
            "skipped": [{"row": index} | dataclasses.asdict(row) for index, row in found.faults.items()],
            "images": stamp,
        }
        if _is_first():
            write_json(request.out / PLAN, plan)
            print(
                f"{len(rows) - len(found.faults):,} rows can be trained, {len(found.faults):,} are skipped", flush=True
            )
    skipped = {row["row"] for row in plan["skipped"]}
    return [row for index, row in enumerate(rows) if index not in skipped], reader, plan


def _images(request: StageRequest, rows: list[dict[str, Any]]) -> dict[str, Path]:
    """Name in the rows -> file, of every image; rows whose image has no valid name are left out."""
    roots = ImageRoots(seed=request.images, processed=request.synthetic_images)
    images = {}
    for row in rows:
        with contextlib.suppress(RowFault):
            if "image" in row:
                images[str(row["image"])] = roots.of_row(row)
    return images


def _require_same_images(request: StageRequest, name: str, rows: list[dict[str, Any]]) -> None:
    """Refuse to resume, or to take for finished, a stage that was started with other images of the same names.

    Args:
        name: of the stage's plan or record. A finished stage's images may be gone.

    Raises:
        UserError: names those that were written since.
    """
    file = request.out / name
    record, images = read_record(file), _images(request, rows)
    known = record.get("images")
    are_gone = name == RECORD and not all(path.is_file() for path in images.values())
    if known is None or are_gone or is_same(images, known):
        return
    skipped = {row["file"] for row in record["skipped"]}
    if missing := [path for key, path in images.items() if key not in skipped and not path.is_file()]:
        raise UserError(f"{missing[0]}: no such file, though it was there when this run began; bring it back to resume")
    changed = changed_since(images, file.stat().st_mtime)
    which = f" ({', '.join(changed[:3])}{f' and {len(changed) - 3} more' * (len(changed) > 3)})" if changed else ""
    raise UserError(
        f"{request.out} holds a run that began with other images under the same names{which}; {ANOTHER_RUN}"
    )


def _train(
    request: StageRequest, preset: Preset, settings: Settings, options: RunOptions, asked: dict[str, Any]
) -> None:
    started = time.perf_counter()
    # The loader's forked workers would warn about the tokenizer's threads.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import torch

    from toolkit.mgm.checkpoint import build_model, load_adapter, save_adapter, save_config, save_finetuned
    from toolkit.training.stage import fit

    rows, reader, plan = _checked_rows(request, preset, settings, asked)
    model = build_model(
        llm=preset.llm,
        vision_tower=preset.vision_tower,
        vision_tower_aux=preset.vision_tower_aux,
        image_size_aux=preset.image_size_aux,
        max_length=preset.max_length,
        dtype=torch.bfloat16 if settings.precision == "bf16" else torch.float32,
        seed=settings.initialisation_seed,
    )
    if request.adapter:
        load_adapter(model, request.adapter)
    model.config.image_aspect_ratio = settings.image_aspect_ratio
    model.config.tune_mm_mlp_adapter = settings.stage == "pretrain"

    def save_weights(folder: Path) -> None:
        if settings.stage == "pretrain":
            save_adapter(model, folder / ADAPTER)
            save_config(model, folder)
        else:
            save_finetuned(model, reader.tokenizer, folder)

    outcome = fit(model, rows, reader, settings, options, request.out, save_weights)
    if not outcome.trainer.is_world_process_zero():
        return
    save_weights(request.out)
    outcome.trainer.state.save_to_json(str(request.out / "trainer_state.json"))
    counts = plan["counts"] | {
        "micro_batches": outcome.micro_batches,
        "steps": outcome.steps,
        "samples_trained": outcome.samples,
        "resumed_at_step": outcome.resumed_at_step,
    }
    record = {
        "stage": settings.stage,
        **plan,
        "outputs": _outputs(request.out),
        "counts": counts,
        "experiment_only": _experiment_only(request, plan["counts"]["skipped"]),
        "warnings": outcome.warnings,
        "versions": package_versions(),
        "loss_history": "trainer_state.json",
        "attempts": finished_attempts(request.out, asked, time.perf_counter() - started),
        "seconds": round(time.perf_counter() - started, 1),
        "training_seconds": round(outcome.seconds, 1),
        "samples_per_second": round(outcome.samples_per_second, 2),
    }
    write_json(request.out / RECORD, record)
    _tidy(request.out)
    for warning in outcome.warnings:
        print(f"warning: {warning}")
    print(
        f"{settings.stage} finished: {outcome.steps} steps, {outcome.samples:,} samples, "
        f"{outcome.samples_per_second:.1f} samples/s, results in {request.out}"
    )


def _outputs(folder: Path) -> dict[str, str]:
    """SHA-256 of what a stage leaves, and of the script that started it, by path; not of logs and its own records."""
    own = {RECORD, PLAN, ATTEMPTS, *LOGS}
    files = [
        path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith((".", "pretrain_data"))
    ]
    return {display_path(path): sha256_of(path) for path in files if path.name not in own}


def _tidy(folder: Path) -> None:
    """Remove what a finished stage no longer needs."""
    (folder / PLAN).unlink(missing_ok=True)
    remove_attempts(folder)
    remove_checkpoints(folder)


def _close_process_group() -> None:
    """Leave the other processes, if any, in order: Gloo's threads, alive at the interpreter's end, may abort it."""
    from accelerate import PartialState

    state = PartialState()  # the Trainer's own, which knows this process's device
    state.wait_for_everyone()
    state.destroy_process_group()


def _is_first() -> bool:
    """Whether this process speaks for all: the only one, or the launcher's number 0."""
    return os.environ.get("RANK", "0") == "0"


def _experiment_only(request: StageRequest, skipped: int) -> list[str]:
    """What sets this run apart from the fixed training; `pack` refuses a run with any."""
    used = [f"TRAIN_SEED={os.environ['TRAIN_SEED']}"] if os.environ.get("TRAIN_SEED", "0") != "0" else []
    if request.stage == "finetune" and not request.adapter:
        used.append("PRETRAIN=none")
    if request.stage == "finetune" and skipped:
        used.append(f"FINETUNE_ON_ERROR=skip, {skipped} rows")
    if not request.stochastic_depth:
        used.append("--no-stochastic-depth")
    return used
