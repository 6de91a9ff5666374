"""What one training stage is made of, so that a run can be told from another, resumed, and known to be finished.

Imports no torch: asking whether a stage is finished takes a moment.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from toolkit.errors import OnError, UserError
from toolkit.files import display_path, read_json, sha256_of
from toolkit.fixed_part import LOG_LINE, FixedPart
from toolkit.presets import INITIALISATION_SEED, SAMPLE_ORDER_SEED, Preset

RECORD = "run.json"
PLAN = "plan.json"
LOGS = ("pretrain.log", "finetune.log")
ANOTHER_RUN = "choose another EXP_NAME, or remove the folder to start again"
# Larger files, base model weights, are told apart by name and size: hashing them takes longer than it tells.
HASHED_BYTES = 64 << 20


@dataclass(frozen=True)
class StageRequest:
    """What a user asks of one stage; the rest of its settings is the preset's.

    Args:
        stage: which parameters learn.
        data: LLaVA-format JSON.
        images: folder the rows' image paths start from.
        synthetic_images: folder that holds `synthetic_images/`.
        adapter: `mm_projector.bin` to start from; None for a new adapter.
        out: folder for the results.
        batch: samples of a micro-batch of one process.
        accumulation: micro-batches of an optimizer step of one process.
        stochastic_depth: of the frozen aux tower; off only in equality tests.
        on_error: policy for rows that cannot be trained.
    """

    stage: Literal["pretrain", "finetune"]
    data: Path
    images: Path
    synthetic_images: Path
    adapter: Path | None
    out: Path
    batch: int
    accumulation: int
    stochastic_depth: bool
    on_error: OnError


@dataclass(frozen=True)
class RunOptions:
    """How a stage runs; changes nothing in its result.

    Args:
        workers: loader processes for each training process.
        logging_steps, save_steps: optimizer steps between two log lines, two checkpoints.
        save_total_limit: checkpoints kept.
        deepspeed: use DeepSpeed also without a GPU. With one it is used where installed; one GPU that needs no offload
            can do without, with the same arithmetic (master.py).
        reference_mode: no fast path.
    """

    workers: int
    logging_steps: int
    save_steps: int
    save_total_limit: int
    deepspeed: bool = False
    reference_mode: bool = False


@dataclass(frozen=True)
class Settings:
    """Everything but the input files and the fixed part that decides a stage's numbers.

    Args:
        stage: which parameters learn.
        preset: name of the preset the figures come from.
        batch, accumulation, processes: their product is the global batch.
        learning_rate: highest of the cosine schedule.
        image_aspect_ratio, group_by_modality_length, precision, max_length: see presets/full.yaml.
        stochastic_depth: of the frozen aux tower; off only in equality tests.
        initialisation_seed, order_seed: of a new adapter, and of the sample order and stochastic depth.
        on_error: policy for rows that cannot be trained.
        images, synthetic_images: folders of the rows' images.
    """

    stage: Literal["pretrain", "finetune"]
    preset: str
    batch: int
    accumulation: int
    processes: int
    learning_rate: float
    image_aspect_ratio: Literal["square", "pad"]
    group_by_modality_length: bool
    precision: Literal["bf16", "fp32"]
    max_length: int
    stochastic_depth: bool
    initialisation_seed: int
    order_seed: int
    on_error: OnError
    images: str
    synthetic_images: str

    @property
    def global_batch(self) -> int:
        """Samples of an optimizer step over all processes."""
        return self.batch * self.accumulation * self.processes


def seeds() -> tuple[int, int]:
    """(initialisation, sample order): 1024 and 42, both moved by the environment variable TRAIN_SEED.

    Raises:
        UserError: TRAIN_SEED is no whole number from 0 on.
    """
    text = os.environ.get("TRAIN_SEED", "0")
    if not text.isdecimal():
        raise UserError(f"TRAIN_SEED must be a whole number from 0 (the fixed seeds) on, found {text!r}")
    return INITIALISATION_SEED + int(text), SAMPLE_ORDER_SEED + int(text)


def process_count(preset: Preset, stage: Literal["pretrain", "finetune"], batch: int, accumulation: int) -> int:
    """How many processes make up the preset's global batch.

    Raises:
        UserError: none do.
    """
    target = preset.stage(stage).global_batch
    processes, rest = divmod(target, batch * accumulation)
    if rest or not processes:
        raise UserError(
            f"{stage} batch {batch} x accumulation {accumulation} does not divide preset {preset.name}'s global batch "
            f"of {target}: choose figures whose product with the number of GPUs is {target}"
        )
    return processes


def fingerprint(files: list[Path], folders: list[Path]) -> dict[str, str]:
    """SHA-256 of each file and of each file directly in a folder, by path; of big model files the size in bytes.

    Raises:
        UserError: a file or folder is missing.
    """
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; `python -m toolkit doctor` names the command that brings it")
        files = files + sorted(path for path in folder.iterdir() if path.is_file())
    for path in files:
        if not path.is_file():
            raise UserError(f"{path}: no such file")
    return {
        display_path(path): sha256_of(path) if path.stat().st_size <= HASHED_BYTES else f"{path.stat().st_size} bytes"
        for path in files
    }


def make_plan(settings: Settings, inputs: dict[str, str], fixed_part: FixedPart) -> dict[str, Any]:
    """The plan as records hold it; two runs with equal plans give equal results."""
    return {"inputs": inputs, "configuration": dataclasses.asdict(settings), "fixed_part": fixed_part.record()}


def require_same_fixed_part(folder: Path, fixed_part: FixedPart) -> None:
    """Refuse to resume, or to take for finished, what was started under another fixed part.

    Args:
        folder: of a stage; need not exist.
        fixed_part: as it is now.

    Raises:
        UserError: the folder's record, plan or log names another one; tells which files differ where it is known.
    """
    for name in (RECORD, PLAN):
        if (folder / name).is_file() and (changes := fixed_part.changes(read_record(folder / name))):
            raise UserError(f"{folder / name}: this run began under another fixed part: {changes}; {ANOTHER_RUN}")
    for log in (folder / name for name in LOGS):
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
        if any(line.startswith(LOG_LINE) and line != LOG_LINE + fixed_part.sha256 for line in lines):
            raise UserError(f"{log}: this log began under another fixed part; {ANOTHER_RUN}")


def has_begun(folder: Path) -> bool:
    """Whether a stage has been started in `folder`, so that nothing of its inputs may change there."""
    return (folder / RECORD).is_file() or (folder / PLAN).is_file()


def stage_inputs(folder: Path) -> dict[str, str]:
    """Hashes of the inputs that the stage in `folder` was started with, by path; empty if none was."""
    for name in (RECORD, PLAN):
        if (folder / name).is_file():
            return read_record(folder / name)["inputs"]
    return {}


def is_finished(folder: Path, plan: dict[str, Any], unknown: Collection[str] = ()) -> bool:
    """Whether this very stage has been run to its end in `folder`; False also if it was only started.

    Args:
        folder: of the stage; need not exist.
        plan: see `make_plan`.
        unknown: inputs that are not there yet, which may be any.

    Raises:
        UserError: the folder holds another run's results or checkpoints, or a damaged record.
    """
    for name in (RECORD, PLAN):
        if (folder / name).is_file():
            state = "a finished" if name == RECORD else "an unfinished"
            _require_same(folder, read_record(folder / name), plan, state, unknown)
            return name == RECORD
    return False


def read_record(path: Path) -> dict[str, Any]:
    """A stage's record or plan.

    Raises:
        UserError: it is no JSON, or lacks what every one holds.
    """
    try:
        record = read_json(path)
    except UserError as error:
        raise UserError(f"{error}; {ANOTHER_RUN}") from None
    parts = ("inputs", "configuration")
    if not isinstance(record, dict) or not all(isinstance(record.get(part), dict) for part in parts):
        raise UserError(f"{path}: damaged, no record of a stage ({' and '.join(parts)} are missing); {ANOTHER_RUN}")
    return record


def _require_same(
    folder: Path, record: dict[str, Any], plan: dict[str, Any], state: str, unknown: Collection[str]
) -> None:
    changed = [
        key
        for part in ("inputs", "configuration")
        for key in sorted({*record[part], *plan[part]}.difference(unknown))
        if record[part].get(key) != plan[part].get(key)
    ]
    if changed and set(changed) <= {"batch", "accumulation", "processes"}:
        began = record["configuration"]
        raise UserError(
            f"{folder} holds {state} run of batch {began['batch']} x accumulation {began['accumulation']} on "
            f"{began['processes']} GPUs: which samples share a micro-batch depends on all three, so it resumes with "
            f"these only; {ANOTHER_RUN}"
        )
    if changed:
        raise UserError(
            f"{folder} holds {state} run that differs in {', '.join(changed[:3])}"
            f"{f' and {len(changed) - 3} more' if len(changed) > 3 else ''}; {ANOTHER_RUN}"
        )
