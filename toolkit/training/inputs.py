"""A look at the models and the finetuning set before the first step of either stage, remembered by files' times."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from toolkit.dataset.rows import ImageRoots
from toolkit.dataset.training_file import read_samples
from toolkit.errors import OnError, SkippedRow, UserError
from toolkit.files import read_json, write_json
from toolkit.presets import Preset
from toolkit.terminal import visible
from toolkit.weights import image_tokens_of, look_at_weights, read_config, weight_files


def stage_files(preset: Preset) -> list[Path]:
    """Files of the base models and the finetuning set, its images among them.

    Raises:
        UserError: the finetuning set cannot be read, or a model folder has no weights.
    """
    folders = (preset.llm, preset.vision_tower, preset.vision_tower_aux)
    files = [path for folder in folders if weight_files(folder) for path in sorted(folder.iterdir()) if path.is_file()]
    names = sorted({row["image"] for row in read_samples(preset.finetune_data) if isinstance(row.get("image"), str)})
    return [*files, preset.finetune_data, *(preset.finetune_images / name for name in names)]


def look_at_stages(preset: Preset, on_error: OnError) -> tuple[int, list[SkippedRow]]:
    """Read the models' configurations, tokenizer and headers, and every row and image of the finetuning set.

    Args:
        on_error: policy for rows of the finetuning set that cannot be trained.

    Returns:
        how many rows the finetuning set has, and those that finetuning would leave out.

    Raises:
        UserError: the first file or row that could not be used.
    """
    # They bring torch, which a look at what is known need not wait for.
    from toolkit.mgm.checkpoint import load_tokenizer
    from toolkit.training.data import SampleReader, scan

    read_config(preset.llm)
    tokenizer, image_tokens = load_tokenizer(preset.llm), image_tokens_of(preset.vision_tower)
    for folder in (preset.llm, preset.vision_tower, preset.vision_tower_aux):
        for path in weight_files(folder):
            look_at_weights(path)
    roots = ImageRoots(seed=preset.finetune_images, processed=preset.finetune_images)
    aspect = preset.finetune.image_aspect_ratio
    reader = SampleReader(roots, tokenizer, preset.image_size_aux, aspect, preset.max_length, image_tokens)
    rows = read_samples(preset.finetune_data)
    faults = list(scan(rows, reader).faults.values())
    if faults and (on_error == "stop" or len(faults) == len(rows)):
        first = faults[0]
        named = f"row {visible(first.id)} ({visible(first.file) or 'no image'}): {first.reason}: {first.detail}"
        raise UserError(
            f"{preset.finetune_data}: {len(faults)} of {len(rows)} rows cannot be trained; the first is {named}; "
            f"bring the files again: {preset.download}; "
            "or, for an experiment, leave these rows out: FINETUNE_ON_ERROR=skip"
        )
    return len(rows), faults


def signature_of(files: Iterable[Path], code: str) -> str:
    """A hash of files' paths, sizes and change times, and of the code that looks at them; a missing file counts too."""
    digest = hashlib.sha256(code.encode())
    for path in files:
        try:
            status = path.stat()
            digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(errors="surrogateescape"))
        except OSError:
            digest.update(f"{path}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def is_known(file: Path, signature: str) -> bool:
    """Whether `remember` has written this signature; a damaged file knows nothing."""
    try:
        return file.is_file() and read_json(file) == {"inputs": signature}
    except UserError:
        return False


def remember(file: Path, signature: str) -> None:
    """Keep a signature for the next run."""
    write_json(file, {"inputs": signature})
