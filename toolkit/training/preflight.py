"""Checks before a run: what would stop it hours later is found in seconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from toolkit.dataset.rows import read_rows
from toolkit.errors import UserError
from toolkit.files import sha256_of
from toolkit.presets import Preset

WEIGHTS = ("*.safetensors", "*.bin")


def check_run(
    preset: Preset, stage_batches: Sequence[int], gpus: int | None, data: Path, images: Path, infer_gpus: str
) -> list[str]:
    """Check a run's settings, data, GPUs and files.

    Args:
        preset: of the run.
        stage_batches: samples per GPU and accumulation of pre-training, then of finetuning.
        gpus: how many train; None for all visible ones.
        data: the pre-training file.
        images: its image root.
        infer_gpus: numbers of the GPUs that infer, with commas between them.

    Returns:
        lines that say what will be trained.

    Raises:
        UserError: the first thing that is wrong; batch products come first, GPUs after the data.
    """
    inferring = _gpu_numbers(infer_gpus) if preset.needs_gpu else []
    visible = visible_gpus() if preset.needs_gpu else 1
    # Where no GPU is visible the settings are checked for the GPUs that INFER_CUDA_IDX names.
    gpus = gpus or visible or len(inferring)
    pretrain_batch = batch_product("pretrain", *stage_batches[:2], gpus, preset)
    finetune_batch = batch_product("finetune", *stage_batches[2:], gpus, preset)
    if not data.is_file():
        raise UserError(f"PRETRAIN_DATASET {data}: no such file; run a recipe first (python solution/process.py)")
    if not images.is_dir():
        raise UserError(f"PRETRAIN_DATASET_IMAGE_PATH {images}: no such folder; run `{preset.download}`")
    if preset.needs_gpu:
        require_gpus(gpus, inferring, visible)
    require_files(preset)

    rows = sum(1 for _ in read_rows(data))
    if not rows:
        raise UserError(f"PRETRAIN_DATASET {data}: the file is empty; run a recipe first")
    lines = [
        f"pre-training file   {data.resolve()}",
        f"rows                {rows:,} (at most {preset.sample_cap:,} are trained)",
        f"sha256              {sha256_of(data)}",
        f"pre-training batch  {pretrain_batch}",
        f"finetuning batch    {finetune_batch}",
    ]
    if seed_file := seed_copy(data, (images, preset.seed_images)):
        lines.append(f"warning: this is the raw seed ({seed_file.name}), not a recipe's output")
    return lines


def batch_product(
    stage: Literal["pretrain", "finetune"], batch: int, accumulation: int, gpus: int, preset: Preset
) -> str:
    """The product that gives a stage's global batch, as text.

    Args:
        stage: whose global batch.
        batch: samples per GPU and micro-batch.
        accumulation: micro-batches per optimizer step.
        gpus: devices that train; the CPU counts as one.
        preset: gives the product expected.

    Raises:
        UserError: the product is another one.
    """
    product, expected = batch * accumulation * gpus, preset.stage(stage).global_batch
    device = "CPU" if not preset.needs_gpu else "GPU" if gpus == 1 else "GPUs"
    text = f"{batch} x {accumulation} x {gpus} {device} = {product}"
    if product == expected:
        return text
    if expected % gpus:
        advice = f"{gpus} GPUs cannot share {expected}, choose another number with CUDA_VISIBLE_DEVICES"
    else:
        names = f"{stage.upper()}_BATCH_SIZE_PER_GPU x {stage.upper()}_GRADIENT_ACCUMULATION_STEPS"
        advice = f"set {names} to {expected // gpus}"
    raise UserError(f"{stage} batch: {text}, must be {expected}: {advice}")


def visible_gpus() -> int:
    """CUDA devices torch can see."""
    # Imported here: only runs that need a GPU wait for torch.
    import torch

    return torch.cuda.device_count()


def require_gpus(gpus: int, infer_gpus: list[int], visible: int) -> None:
    """Refuse to start without the GPUs a run asks for.

    Args:
        gpus: how many train.
        infer_gpus: numbers of those that infer.
        visible: how many there are.

    Raises:
        UserError: too few are visible.
    """
    if not visible:
        raise UserError(
            "no GPU: this preset needs CUDA devices and torch sees none (nvidia-smi, CUDA_VISIBLE_DEVICES); "
            "without one, try train_mgm_mini_stage_1.sh"
        )
    if gpus > visible:
        raise UserError(f"{gpus} GPUs asked for, {visible} visible: see CUDA_VISIBLE_DEVICES")
    if max(infer_gpus) >= visible:
        last = f"0 to {visible - 1}" if visible > 1 else "only 0"
        raise UserError(f"INFER_CUDA_IDX names GPU {max(infer_gpus)}, visible: {last}; set it to visible GPUs")


def require_files(preset: Preset) -> None:
    """Refuse to start without the models and the finetuning and evaluation data of a preset.

    Raises:
        UserError: names the first missing file or folder, how many more, and the command that brings them.
    """
    needed = [
        *(folder / "config.json" for folder in (preset.llm, preset.vision_tower)),
        preset.questions,
        preset.finetune_data,
        preset.finetune_images,
        preset.textvqa.questions,
        preset.textvqa.images,
        preset.mmbench.questions,
    ]
    missing = [path for path in needed if not path.exists()]
    missing += [
        folder / "model weights"
        for folder in (preset.llm, preset.vision_tower, preset.vision_tower_aux)
        if not any(any(folder.glob(pattern)) for pattern in WEIGHTS)
    ]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise UserError(f"missing: {missing[0]}{more}; run `{preset.download}`")


def seed_copy(data: Path, seed_folders: tuple[Path, ...]) -> Path | None:
    """The seed's own rows file that `data` is, or is a copy of; None if there is none."""
    size = data.stat().st_size
    for folder in seed_folders:
        for path in sorted(folder.glob("*.jsonl")):
            if path.samefile(data) or (path.stat().st_size == size and sha256_of(path) == sha256_of(data)):
                return path
    return None


def _gpu_numbers(text: str) -> list[int]:
    numbers = [number.strip() for number in text.split(",")]
    if not all(number.isdecimal() for number in numbers):
        raise UserError(f"INFER_CUDA_IDX {text!r}: expected GPU numbers with commas between them, such as 0,1")
    return [int(number) for number in numbers]
