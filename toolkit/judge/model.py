"""The judge itself: an MGM that is given, or one pre-trained for a short time on the very rows it judges."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolkit.allocator import keep_freed_memory
from toolkit.dataset.rows import ImageRoots
from toolkit.dataset.training_file import draw_rows
from toolkit.errors import UserError
from toolkit.files import atomic_write, display_path, sha256_of
from toolkit.judge.pairs import Pair
from toolkit.mgm.checkpoint import build_model, load_adapter, load_finetuned, load_tokenizer
from toolkit.presets import INITIALISATION_SEED, Preset
from toolkit.processes import end_with_parent
from toolkit.terminal import visible
from toolkit.training.batches import choose_batch
from toolkit.training.data import SampleReader
from toolkit.training.plan import RECORD, fingerprint
from toolkit.training.run import ADAPTER
from toolkit.weights import read_config

DATA = "pretrain_data.json"
# Rows of a short pre-training: 195 steps of the full preset, the whole seed of the mini one (docs/mini_world.md).
ROWS = 50_000


def is_adapter(folder: Path) -> bool:
    """Whether a model's folder is that of a pre-training; else it should hold a whole MGM."""
    return (folder / ADAPTER).is_file()


def pretrain(
    folder: Path, pairs: Sequence[Pair], rows: int, preset_name: str, preset: Preset, roots: ImageRoots, workers: int
) -> None:
    """Pre-train a judge, resume, or find it finished; a process of its own trains it, as `train` does.

    Args:
        folder: for the judge.
        pairs: a draw of those that can be trained is.
        rows: how many at most.
        preset_name: as `--preset` takes it.

    Raises:
        UserError: the folder holds the judge of other rows; training has failed, and has said why.
    """
    drawn = draw_rows([pair.sample for pair in pairs if not pair.fault], rows, preset.sample_seed)
    if not drawn:
        first = next((f"; row {pair.row} (id {visible(pair.id)}): {pair.fault}" for pair in pairs), "")
        raise UserError(f"no row can be judged{first}")
    content = "[\n" + ",\n".join(json.dumps(sample, ensure_ascii=False) for sample in drawn) + "\n]\n"
    data = folder / DATA
    if data.is_file() and data.read_text(encoding="utf-8") != content:
        raise UserError(f"{folder} holds a judge of other rows; choose another --out, or pass --overwrite")
    with atomic_write(data) as file:
        file.write(content)
    if (folder / RECORD).is_file():
        return
    batch, accumulation = choose_batch(preset, "pretrain")
    command: list[Any] = [sys.executable, "-m", "toolkit", "train", "pretrain", "--preset", preset_name]
    command += ["--data", data, "--images", roots.seed, "--synthetic-images", roots.processed, "--out", folder]
    command += ["--batch", batch, "--accumulation", accumulation, "--workers", workers, "--logging-steps", 20]
    print(f"pre-training a judge on {len(drawn):,} rows, in {folder}", file=sys.stderr, flush=True)
    run_children([[*command, "--on-error", "skip"]], [{}], "pre-training the judge failed; the same command resumes")


def run_children(commands: Sequence[Sequence[Any]], environments: Sequence[dict[str, str]], failure: str) -> None:
    """Run commands beside each other that end with this process; their lines go to stderr.

    Raises:
        UserError: one failed; `failure` says what that means.
    """
    children = [
        subprocess.Popen(
            list(map(str, command)),
            stdout=sys.stderr,
            env=os.environ | environment,
            preexec_fn=lambda: end_with_parent(signal.SIGKILL),
        )
        for command, environment in zip(commands, environments, strict=True)
    ]
    statuses = [child.wait() for child in children]
    if any(statuses):
        raise UserError(failure)


def load_judge(folder: Path, preset: Preset, roots: ImageRoots) -> tuple[Any, SampleReader]:
    """The model in evaluation mode, on a GPU where there is one, and what reads rows for it.

    Raises:
        UserError: the folder is no MGM's, or a weight is missing.
    """
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if preset.precision == "bf16" and device.type == "cuda" else torch.float32
    if device.type == "cpu":
        keep_freed_memory()
    if is_adapter(folder):
        model = build_model(
            llm=preset.llm,
            vision_tower=preset.vision_tower,
            vision_tower_aux=preset.vision_tower_aux,
            image_size_aux=preset.image_size_aux,
            max_length=preset.max_length,
            dtype=dtype,
            seed=INITIALISATION_SEED,
        )
        load_adapter(model, folder / ADAPTER)
        aspect, tokenizer = preset.pretrain.image_aspect_ratio, preset.llm
    else:
        model = load_finetuned(folder, dtype)
        aspect, tokenizer = read_config(folder).get("image_aspect_ratio", preset.finetune.image_aspect_ratio), folder
    model = model.to(device).eval()
    reader = SampleReader(
        roots=roots,
        tokenizer=load_tokenizer(tokenizer),
        image_size_aux=model.config.image_size_aux,
        aspect=aspect,
        max_length=model.config.tokenizer_model_max_length,
        image_tokens=model.image_tokens,
    )
    return model, reader


def model_files(folder: Path, preset: Preset) -> dict[str, str]:
    """SHA-256 of what decides the judge's losses, by path; of large files of base models the size.

    Raises:
        UserError: the folder holds no model, or a base model is missing.
    """
    if is_adapter(folder):
        bases = fingerprint([], [preset.llm, preset.vision_tower, preset.vision_tower_aux])
        return {display_path(folder / ADAPTER): sha256_of(folder / ADAPTER)} | bases
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: neither {ADAPTER} nor config.json there; --model expects the folder of an MGM")
    patterns = ("*.safetensors", "pytorch_model*.bin", "config.json", "tokenizer*")
    files = sorted({path for pattern in patterns for path in folder.glob(pattern)})
    return {display_path(path): sha256_of(path) for path in files}
