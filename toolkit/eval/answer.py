"""Answers a benchmark with a trained MGM.

The answers folder, DIR in `--out DIR`:

    answers.jsonl          one line per question, in the benchmark's order, with the reference's fields
    answers_upload.xlsx    MMBench only: what its server takes
    run.json               what was answered by which weights
    .answers-*.jsonl       answers so far, while a run is not finished; the next run resumes from them
    attempts*.json         its tries, while a run, or a part of it, is not finished; run.json takes them over

A part of the questions (`--chunk K --chunks N`) leaves its answers so far; the run without these options gathers them,
answers what is missing, and writes the rest. Answers of other weights, questions or settings are never taken over.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import math
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from toolkit.attempts import attempt, finished_attempts, remove_attempts
from toolkit.errors import UserError
from toolkit.eval import mmbench, textvqa
from toolkit.eval.answer_files import ANSWERS
from toolkit.eval.questions import BLIND_MARK, Question, answer_line, collapse_warning
from toolkit.files import display_path, package_versions, parse_object, read_json, sha256_of, write_json, write_jsonl
from toolkit.fixed_part import FixedPart
from toolkit.presets import Preset

if TYPE_CHECKING:
    from toolkit.eval.inference import Answerer

BENCHMARKS = ("textvqa", "mmbench")
UPLOAD = "answers_upload.xlsx"
SECONDS_BETWEEN_REPORTS = 10
GREY_SIDE = 64  # px
# Files of a model folder that decide its answers.
MODEL_FILES = ("*.safetensors", "pytorch_model*.bin", "config.json", "tokenizer*")


@dataclass(frozen=True)
class TrainedModel:
    """A model that answers, read once for all benchmarks and only if something is left to answer.

    Args:
        folder: of a finetuned or published MGM.
        full_precision: see `Answerer.load`.
        reference_mode: one question at a time, no fast path.
    """

    folder: Path
    full_precision: bool
    reference_mode: bool

    @functools.cached_property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of every file that decides its answers. Raises UserError where there is no model."""
        if not (self.folder / "config.json").is_file():
            raise UserError(
                f"{self.folder}: no config.json; --model expects the folder of a finetuned or published MGM"
            )
        files = sorted({path for pattern in MODEL_FILES for path in self.folder.glob(pattern)})
        return {display_path(path): sha256_of(path) for path in files}

    @functools.cached_property
    def answerer(self) -> Answerer:
        """The model in memory. Raises UserError as `Answerer.load` does."""
        from toolkit.eval.inference import Answerer

        return Answerer.load(self.folder, self.full_precision, self.reference_mode)


@dataclass(frozen=True)
class Job:
    """What is answered by which weights: equal jobs have equal answers.

    Args:
        questions: of the benchmark, or of no one where a record is all that is known of them.
        inputs: SHA-256 of each file that decides the answers.
        configuration: settings that decide them.
        fixed_part: that answers.
        table: rows of MMBench, for its upload; empty where none is written.
    """

    questions: list[Question]
    inputs: dict[str, str]
    configuration: dict[str, Any]
    fixed_part: FixedPart
    table: list[dict[str, str]] = field(default_factory=list)

    @property
    def benchmark(self) -> str:
        """Its name."""
        return self.configuration["benchmark"]

    @property
    def fingerprint(self) -> str:
        """Equal where the answers are."""
        identity = json.dumps([sorted(self.inputs.values()), self.configuration], sort_keys=True)
        return hashlib.sha256(identity.encode()).hexdigest()[:16]

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the answers, as records name it."""
        return {"inputs": self.inputs, "configuration": self.configuration, "fixed_part": self.fixed_part.record()}

    @property
    def unfinished(self) -> str:
        """Start of the names of files with answers so far."""
        return f".answers-{self.fingerprint}-{self.fixed_part.sha256[:8]}-"


def read_job(
    benchmark: Literal["textvqa", "mmbench"],
    preset: Preset,
    model: TrainedModel,
    fixed_part: FixedPart,
    language: Literal["en", "cn"],
    no_image: bool = False,
) -> Job:
    """Read a benchmark's questions and hash everything that decides their answers.

    Args:
        benchmark: which one.
        preset: names its files.
        model: that will answer.
        fixed_part: for the record.
        language: of MMBench's instruction.
        no_image: show one grey image with every question, to see what can be answered without looking. Every line says
            so, and there is no upload.

    Raises:
        UserError: the model or the benchmark's files are missing or faulty.
    """
    settings = preset.textvqa if benchmark == "textvqa" else preset.mmbench
    configuration = {
        "benchmark": benchmark,
        "max_new_tokens": settings.max_new_tokens,
        "full_precision": model.full_precision,
        "reference_mode": model.reference_mode,
    }
    table: list[dict[str, str]] = []
    if benchmark == "textvqa":
        questions = textvqa.read_questions(preset.textvqa.questions, preset.textvqa.images)
    else:
        configuration["language"] = language
        table = mmbench.read_table(settings.questions)
        questions = mmbench.questions_of(table, language)
        if lacking := mmbench.columns_missing_for_upload(table):  # as VLMEvalKit's tables
            table = []
            print(
                f"{benchmark}: no {UPLOAD} will be written, as {settings.questions} has no column {', '.join(lacking)}"
            )
    if no_image:
        configuration["no_image"] = True
        questions, table = [replace(question, image=_grey()) for question in questions], []
    inputs = {display_path(settings.questions): sha256_of(settings.questions), **model.hashes}
    return Job(questions, inputs, configuration, fixed_part, table)


def answer(job: Job, model: TrainedModel, out: Path, *, batch: int | None, chunk: int, chunks: int) -> None:
    """Answer a benchmark, or one chunk of it; resume an earlier run.

    Args:
        job: of `read_job`.
        model: that answers.
        out: folder for the answers.
        batch: questions answered at a time; None for as many as memory takes.
        chunk, chunks: answer part `chunk`, from 0, of this many parts of the questions.

    Raises:
        UserError: `out` holds other answers; the model is faulty; an image is missing or unreadable.
    """
    if is_finished(out, job):
        _tidy(out)
        print(f"{job.benchmark}: all {len(job.questions)} questions are answered already, see {out / ANSWERS}")
        return
    part = f"{chunk}-of-{chunks}" if chunks > 1 else ""
    about = {"command": f"eval {job.benchmark}", "versions": package_versions()}
    with attempt(out, job.identity, about, UserError, part):
        _answer_part(job, model, out, batch, chunk, chunks)


def _answer_part(job: Job, model: TrainedModel, out: Path, batch: int | None, chunk: int, chunks: int) -> None:
    benchmark, questions, fixed_part = job.benchmark, job.questions, job.fixed_part
    started = time.monotonic()
    answers = _answers_so_far(out, job)
    size = math.ceil(len(questions) / chunks)
    part = questions[chunk * size : (chunk + 1) * size]
    # One answer serves questions that are equal in id and text: TextVQA's id is the image's.
    missing = list({_key(question): question for question in part if _key(question) not in answers}.values())
    if missing:
        label = benchmark if chunks == 1 else f"{benchmark} {chunk + 1}/{chunks}"
        answers |= _answer(job, missing, model, out, batch, label)
    if chunks > 1:
        print(f"{benchmark}: chunk {chunk} of {chunks} is answered ({len(part)} questions)")
        return

    mark, name = BLIND_MARK if "no_image" in job.configuration else None, model.folder.resolve().name
    lines = [answer_line(question, answers[_key(question)], name, mark) for question in questions]
    written = [ANSWERS, UPLOAD] if job.table else [ANSWERS]
    if job.table:
        mmbench.write_upload(job.table, {line["question_id"]: line["text"] for line in lines}, out / UPLOAD)
    write_jsonl(out / ANSWERS, lines)
    seconds = round(time.monotonic() - started, 1)
    record = {
        "command": f"eval {benchmark}",
        "inputs": job.inputs,
        "outputs": {display_path(out / name): sha256_of(out / name) for name in written},
        "configuration": job.configuration,
        "batch": batch or "auto",
        "fixed_part": fixed_part.record(),
        "versions": package_versions(),
        "counts": {
            "questions": len(questions),
            "pictures": len({question.image for question in questions}),
            "answered_in_this_run": len(missing),
            "empty_answers": sum(not line["text"] for line in lines),
        },
        "warnings": [warning] if (warning := collapse_warning([line["text"] for line in lines])) else [],
        "attempts": finished_attempts(out, job.identity, seconds),
        "seconds": seconds,
    }
    write_json(out / "run.json", record)
    _tidy(out)
    print(f"{benchmark}: {len(questions)} questions answered, see {out / ANSWERS}")


def _tidy(out: Path) -> None:
    """Remove what finished answers no longer need."""
    for path in out.glob(".answers-*.jsonl"):
        path.unlink()
    remove_attempts(out)


@functools.cache
def _grey() -> bytes:
    """An image of CLIP's mean colour, in which nothing is to be seen, as a PNG."""
    from PIL import Image

    from toolkit.mgm.images import PADDING_COLOUR

    encoded = io.BytesIO()
    Image.new("RGB", (GREY_SIDE, GREY_SIDE), PADDING_COLOUR).save(encoded, "PNG")
    return encoded.getvalue()


def _key(question: Question) -> str:
    return json.dumps([question.question_id, question.prompt])


def is_finished(out: Path, job: Job) -> bool:
    """Whether a folder holds this job's answers.

    Raises:
        UserError: it holds those of another benchmark or another fixed part, or they have changed since.
    """
    if not ((out / "run.json").is_file() and (out / ANSWERS).is_file()):
        return False
    record = read_json(out / "run.json")
    parts = ("inputs", "configuration", "outputs")
    if not isinstance(record, dict) or not all(isinstance(record.get(part, {}), dict) for part in parts):
        raise UserError(f"{out / 'run.json'}: damaged, no record of a run; remove {out} to answer again")
    configuration, benchmark = record.get("configuration", {}), job.benchmark
    if (other := configuration.get("benchmark")) != benchmark:
        raise UserError(f"{out} holds the answers to {other}; choose another --out for {benchmark}")
    if Job(job.questions, record.get("inputs", {}), configuration, job.fixed_part).fingerprint != job.fingerprint:
        return False
    if changed := job.fixed_part.changes(record):
        raise UserError(f"{out} was answered by another fixed part ({changed}); remove it to answer again")
    if sha256_of(out / ANSWERS) not in record.get("outputs", {}).values():
        raise UserError(f"{out / ANSWERS} is not the file that was written there; remove {out} to answer again")
    return True


def _answers_so_far(out: Path, job: Job) -> dict[str, str]:
    """Answers that unfinished runs of the same job left, by `_key`."""
    answers: dict[str, str] = {}
    for path in out.glob(f"{job.unfinished}*.jsonl"):
        for line in path.read_bytes().splitlines():
            with contextlib.suppress(ValueError):  # a run that was killed may leave half a line
                answers |= {key: text for key, text in parse_object(line).items() if isinstance(text, str)}
    return answers


def _answer(
    job: Job, questions: list[Question], model: TrainedModel, out: Path, batch: int | None, label: str
) -> dict[str, str]:
    """Answer questions, keeping each batch's answers on disk at once."""
    answers_of = model.answerer.answers_one_at_a_time if model.reference_mode else model.answerer.answers
    found: dict[str, str] = {}
    started = reported = time.monotonic()
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=out, prefix=job.unfinished, suffix=".jsonl", delete=False
    ) as file:
        for answers in answers_of(questions, batch, job.configuration["max_new_tokens"]):
            texts = {_key(questions[index]): text for index, text in answers.items()}
            file.write(json.dumps(texts) + "\n")
            file.flush()
            found |= texts
            now = time.monotonic()
            if now - reported > SECONDS_BETWEEN_REPORTS or len(found) == len(questions):
                reported = now
                rate = len(found) / (now - started)
                print(
                    f"{label}: {len(found)} of {len(questions)} answered, {rate:.1f} per second,"
                    f" {(len(questions) - len(found)) / rate:.0f} s left",
                    file=sys.stderr,
                    flush=True,
                )
    return found
