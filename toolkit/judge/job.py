"""One run of a judge over a seed: its model, the blocks that are left to compute, the Parquet file.

    NAME.parquet       a line per line of the seed, see SCHEMA; its metadata (key `judge`) says which seed and model
    NAME.run.json      the record: inputs, versions, counts, seconds; written last
    NAME.model/        the judge that was pre-trained for it, as any pre-training leaves it
    NAME.unfinished/   a file per finished block, and the tries, while a run is not finished; the next one resumes

Every GPU computes blocks in a process of its own: `--chunk K --chunks N` computes every N-th of them, from K on.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from toolkit.attempts import attempt, finished_attempts
from toolkit.dataset.llava import load_originals
from toolkit.dataset.rows import ImageRoots
from toolkit.errors import UserError, shortened
from toolkit.files import display_path, package_versions, require_file, sha256_of, write_json
from toolkit.judge.model import load_judge, model_files, pretrain, run_children
from toolkit.judge.pairs import Pair, blocks_of, read_pairs
from toolkit.presets import Preset
from toolkit.processes import unfinished
from toolkit.terminal import visible

VERSION = 1  # of what a value means; values of another version are never taken over
METADATA = b"judge"
DIGEST = pa.binary(16)
SCHEMA = pa.schema(
    {
        "row": pa.int64(),  # line of the seed, from 1
        "id": pa.string(),
        "caption": DIGEST,  # BLAKE2b of the caption's text
        "image": DIGEST,  # BLAKE2b of the image's bytes
        "value": pa.float64(),  # loss without the image minus loss with it, nats per token
        "loss_with_image": pa.float64(),
        "loss_without_image": pa.float64(),
        "tokens": pa.int32(),  # supervised ones: the caption's and those that end it
        "fault": pa.string(),  # why there is no value; empty for any other row
    }
)
SECONDS_BETWEEN_REPORTS = 10
GPU_BATCH, CPU_BATCH = 32, 8
FAULTS_NAMED = 5


@dataclass(frozen=True)
class Job:
    """What is judged by which model, and where the result goes.

    Args:
        seed: a jsonl of rows.
        roots: folders of their images.
        preset: gives base models, precision and questions.
        model: folder of a pre-training (`mm_projector.bin`) or of a finetuned or published MGM.
        out: the Parquet file.
    """

    seed: Path
    roots: ImageRoots
    preset: Preset
    model: Path
    out: Path

    @property
    def parts(self) -> Path:
        """Folder of the finished blocks."""
        return self.out.with_suffix(".unfinished")

    @property
    def record(self) -> Path:
        """The record's file."""
        return self.out.with_suffix(".run.json")

    @cached_property
    def about(self) -> dict[str, Any]:
        """What the file's metadata says, and what decides its values: equal texts, equal values.

        Raises:
            UserError: the seed or a model's file is missing.
        """
        identity = json.dumps([VERSION, sorted(model_files(self.model, self.preset).values()), self.preset.precision])
        return {
            "version": VERSION,
            "seed": {"path": display_path(self.seed), "id": sha256_of(self.seed)},
            "images": display_path(self.roots.seed),
            "preset": self.preset.name,
            "model": {"path": display_path(self.model), "id": hashlib.sha256(identity.encode()).hexdigest()[:16]},
        }

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the values, as records name it."""
        about = self.about
        return {
            "inputs": {about["seed"]["path"]: about["seed"]["id"], about["model"]["path"]: about["model"]["id"]},
            "configuration": {key: about[key] for key in ("preset", "images", "version")},
        }

    @cached_property
    def pairs(self) -> list[Pair]:
        """The seed's lines.

        Raises:
            UserError: the seed or the preset's questions cannot be read.
        """
        questions = self.preset.questions
        require_file(questions, f"`{self.preset.download}` brings it; a seed of the mini world takes --preset mini")
        return read_pairs(self.seed, self.roots, load_originals(questions))

    @cached_property
    def blocks(self) -> list[tuple[Path, Sequence[Pair]]]:
        """Each block's file and pairs."""
        return [
            (self.parts / f"{key}.parquet", pairs) for key, pairs in blocks_of(self.pairs, self.about["model"]["id"])
        ]


def is_finished(job: Job) -> bool:
    """Whether the file is there and was made of this very seed by this very model.

    Raises:
        UserError: it was made of another seed or by another model, or is none of a judge's.
    """
    if not job.out.is_file():
        return False
    found = read_about(job.out)
    for part in ("seed", "model"):
        _require_same(job.out, found, part, job.about[part])
    return job.record.is_file()


def _require_same(out: Path, found: dict[str, Any], part: str, wanted: dict[str, str]) -> None:
    if found[part]["id"] != wanted["id"]:
        raise UserError(
            f"{out} was made {'of' if part == 'seed' else 'by'} another {part}: {found[part]['path']} "
            f"({found[part]['id'][:8]}), now {wanted['path']} ({wanted['id'][:8]}); choose another --out, or pass "
            "--overwrite"
        )


def read_about(file: Path) -> dict[str, Any]:
    """What a judge's file says of itself.

    Raises:
        UserError: it is no such file.
    """
    with contextlib.suppress(pa.ArrowInvalid, OSError, ValueError):
        about = json.loads((pq.read_schema(file).metadata or {}).get(METADATA, b"null"))
        if isinstance(about, dict) and about.get("version") == VERSION:
            return about
    raise UserError(f"{file}: no file of `python -m toolkit judge`; choose another --out, or pass --overwrite")


def compute(job: Job, batch: int, chunk: int, chunks: int, workers: int) -> None:
    """Compute the blocks that are missing, of every `chunks`-th from `chunk` on.

    Raises:
        UserError: those of `judge_pairs` and of loading the model.
    """
    from toolkit.judge.losses import Judged, judge_pairs

    missing = [(file, pairs) for file, pairs in job.blocks[chunk::chunks] if not file.is_file()]
    if not missing:
        return
    model, reader = load_judge(job.model, job.preset, job.roots)
    good = [pair for _, pairs in missing for pair in pairs if not pair.fault]
    batches: list[list[int]] = []  # each of one block, so that it does not depend on which blocks are missing
    start = 0
    for _, pairs in missing:
        count = sum(not pair.fault for pair in pairs)
        # Long captions first: a batch holds captions of like length.
        order = sorted(range(start, start + count), key=lambda index: good[index].length, reverse=True)
        batches += [order[at : at + batch] for at in range(0, count, batch)]
        start += count
    progress = _Progress(len(good), f"judge {chunk + 1}/{chunks}" if chunks > 1 else "judge")
    found: dict[int, Judged] = {}
    answers = judge_pairs(model, reader, good, batches, workers)
    start = 0
    for file, pairs in missing:
        count = sum(not pair.fault for pair in pairs)
        while len(found) < start + count:
            found |= next(answers)
            progress.show(len(found))
        judged = iter([found[index] for index in range(start, start + count)])
        _write(file, [(pair, Judged(fault=pair.fault) if pair.fault else next(judged)) for pair in pairs])
        start += count


class _Progress:
    """A line on stderr every few seconds."""

    def __init__(self, pairs: int, label: str):
        self.pairs, self.label = pairs, label
        self.started = self.reported = time.monotonic()

    def show(self, done: int) -> None:
        """Report that this many pairs are judged."""
        now = time.monotonic()
        if now - self.reported < SECONDS_BETWEEN_REPORTS and done < self.pairs:
            return
        self.reported = now
        rate = done / max(now - self.started, 1e-9)
        left = (self.pairs - done) / rate
        print(
            f"{self.label}: {done:,} of {self.pairs:,} pairs, {rate:.1f} per second, {left:.0f} s left",
            file=sys.stderr,
            flush=True,
        )


def _write(file: Path, block: Sequence[tuple[Pair, Any]]) -> None:
    columns = {
        "row": [pair.row for pair, _ in block],
        "id": [pair.id for pair, _ in block],
        "caption": [pair.caption for pair, _ in block],
        "image": [judged.image for _, judged in block],
        "value": [None if judged.fault else judged.without_image - judged.with_image for _, judged in block],
        "loss_with_image": [judged.with_image for _, judged in block],
        "loss_without_image": [judged.without_image for _, judged in block],
        "tokens": [None if judged.fault else judged.tokens for _, judged in block],
        "fault": [judged.fault for _, judged in block],
    }
    with unfinished(file) as temporary:
        pq.write_table(pa.table(columns, schema=SCHEMA), temporary)
        temporary.replace(file)


def finish(job: Job, started: float) -> str:
    """Gather the blocks into the file, write the record, remove the blocks; returns what to tell the user.

    Raises:
        UserError: no row can be judged.
    """
    table = pa.concat_tables([SCHEMA.empty_table(), *(pq.read_table(file, schema=SCHEMA) for file, _ in job.blocks)])
    values = table["value"].drop_null().to_numpy()
    faults = [
        f"row {row['row']} (id {visible(shortened(row['id']))}): {row['fault']}"
        for row in table.select(["row", "id", "fault"]).filter(pa.compute.not_equal(table["fault"], "")).to_pylist()
    ]
    if not len(values):
        first = faults[0] if faults else "it has no rows"
        raise UserError(f"{job.seed}: no row can be judged; {first}")
    about: dict[str, Any] = job.about | {"rows": len(table), "judged": len(values)}
    with unfinished(job.out) as temporary:
        text = json.dumps(about, sort_keys=True).encode()
        pq.write_table(table.replace_schema_metadata({METADATA: text}), temporary, compression="zstd")
        temporary.replace(job.out)
    reasons = Counter(fault.split("): ", 1)[1].split(":")[0] for fault in faults)
    seconds = time.monotonic() - started
    record = {
        "command": "judge",
        **job.identity,
        "outputs": {display_path(job.out): sha256_of(job.out)},
        "versions": package_versions(),
        "counts": {"rows": len(table), "judged": len(values), "faults": dict(reasons)},
        "attempts": finished_attempts(job.parts, job.identity, seconds),
        "seconds": round(seconds, 1),
    }
    write_json(job.record, record)
    shutil.rmtree(job.parts, ignore_errors=True)
    tenths = ", ".join(f"{value:.2f}" for value in np.percentile(values, range(10, 100, 10)))
    lines = [
        f"{job.out}: {len(values):,} of {len(table):,} rows judged by {about['model']['path']}",
        f"image value, nats per token, tenth by tenth: {tenths}",
    ]
    if faults:
        lines += [f"{len(faults):,} rows have no value ({', '.join(f'{n:,} {name}' for name, n in reasons.items())}):"]
        lines += faults[:FAULTS_NAMED] + ["..."] * (len(faults) > FAULTS_NAMED)
    return "\n".join(lines)


@dataclass(frozen=True)
class Options:
    """How a run goes; none of these changes a value beyond rounding.

    Args:
        batch: pairs in one forward pass; None for what suits the device.
        workers: processes that read images, for each GPU.
        chunk, chunks: compute only part `chunk`, from 0, of this many; 1: the rows are shared by all visible GPUs.
        overwrite: judge again what is there.
    """

    batch: int | None
    workers: int
    chunk: int
    chunks: int
    overwrite: bool


def judge(
    seed: Path,
    images: Path,
    preset_name: str,
    preset: Preset,
    given: Path | None,
    rows: int,
    out: Path,
    options: Options,
) -> None:
    """Judge a seed, resume, or say that it is done.

    Args:
        seed: a jsonl.
        images: folder that its image paths start from.
        preset_name: as `--preset` takes it.
        given: folder of the judge; None to pre-train one.
        rows: that it is pre-trained on.
        out: the Parquet file.

    Raises:
        UserError: the file or the judge is of another seed; those of `pretrain`, `compute` and `finish`.
    """
    started = time.monotonic()
    job = Job(seed, ImageRoots(images, seed.parent), preset, given or out.with_suffix(".model"), out)
    if options.overwrite:
        _remove(job, given is None)
    _require_same_seed(job)
    if given is None:
        pretrain(job.model, job.pairs, rows, preset_name, preset, job.roots, options.workers)
    if is_finished(job):
        shutil.rmtree(job.parts, ignore_errors=True)
        print(f"{out}: done already; nothing has changed since (--overwrite judges again)")
        return
    _ = job.pairs  # what they cannot be read from is refused before anything is written
    part = f"{options.chunk}-of-{options.chunks}" if options.chunks > 1 else ""
    with attempt(job.parts, job.identity, {"command": "judge", "versions": package_versions()}, UserError, part):
        _judge(job, preset_name, options, started)


def _judge(job: Job, preset_name: str, options: Options, started: float) -> None:
    """Compute what is left, and gather it where this is no chunk."""
    import torch

    gpus = torch.cuda.device_count()
    if options.chunks == 1 and gpus > 1:
        _compute_on_all_gpus(job, gpus, preset_name, options)
    batch = options.batch or (GPU_BATCH if gpus else CPU_BATCH)
    compute(job, batch, options.chunk, options.chunks, options.workers)
    if options.chunks > 1:
        print(
            f"{job.out}: chunk {options.chunk} of {options.chunks} is judged; the command without --chunk gathers all"
        )
        return
    print(finish(job, started))


def _compute_on_all_gpus(job: Job, gpus: int, preset_name: str, options: Options) -> None:
    """Start this command once per GPU, each for a chunk."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus)))).split(",")
    command: list[Any] = [
        sys.executable,
        "-m",
        "toolkit",
        "judge",
        job.seed,
        "--images",
        job.roots.seed,
        "--preset",
        preset_name,
    ]
    command += ["--model", job.model, "--out", job.out, "--workers", options.workers, "--chunks", gpus]
    command += ["--batch", options.batch] if options.batch else []
    run_children(
        [[*command, "--chunk", chunk] for chunk in range(gpus)],
        [{"CUDA_VISIBLE_DEVICES": device} for device in visible[:gpus]],
        "judging on one of the GPUs failed; the same command resumes",
    )


def _remove(job: Job, with_model: bool) -> None:
    """Remove a file and what belongs to it."""
    for file in (job.record, job.out):
        file.unlink(missing_ok=True)
    for folder in [job.parts] + [job.model] * with_model:
        shutil.rmtree(folder, ignore_errors=True)


def _require_same_seed(job: Job) -> None:
    """Refuse another seed's file before a judge is trained. Raises UserError."""
    if job.out.is_file():
        _require_same(job.out, read_about(job.out), "seed", {"path": display_path(job.seed), "id": sha256_of(job.seed)})
