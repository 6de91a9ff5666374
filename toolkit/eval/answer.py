"""Answers a benchmark with a trained MGM.

The answers folder, DIR in `--out DIR`:

    answers.jsonl          one line per question, in the benchmark's order, with the reference's fields
    answers_upload.xlsx    MMBench only: what its server takes
    run.json               what was answered by which weights
    .answers-*.jsonl       answers so far, while a run is not finished; the next run resumes from them

A part of the questions (`--chunk K --chunks N`) leaves its answers so far; the run without these options gathers them,
answers what is missing, and writes the rest. Answers of other weights, questions or settings are never taken over.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from toolkit.errors import UserError
from toolkit.eval import mmbench, textvqa
from toolkit.eval.answer_files import ANSWERS
from toolkit.eval.questions import Question, answer_line, collapse_warning
from toolkit.files import display_path, package_versions, parse_object, read_json, sha256_of, write_json, write_jsonl
from toolkit.fixed_part import FixedPart
from toolkit.presets import Preset

BENCHMARKS = ("textvqa", "mmbench")
UPLOAD = "answers_upload.xlsx"
SECONDS_BETWEEN_REPORTS = 10
# Files of a model folder that decide its answers.
MODEL_FILES = ("*.safetensors", "pytorch_model*.bin", "config.json", "tokenizer*")


@dataclass(frozen=True)
class _Job:
    """What is answered by which weights: equal jobs have equal answers."""

    questions: list[Question]
    inputs: dict[str, str]  # file -> sha256
    configuration: dict[str, Any]
    fixed_part: FixedPart

    @property
    def fingerprint(self) -> str:
        identity = json.dumps([sorted(self.inputs.values()), self.configuration], sort_keys=True)
        return hashlib.sha256(identity.encode()).hexdigest()[:16]

    @property
    def unfinished(self) -> str:
        """Start of the names of files with answers so far."""
        return f".answers-{self.fingerprint}-{self.fixed_part.sha256[:8]}-"


def answer_benchmark(
    benchmark: Literal["textvqa", "mmbench"],
    preset: Preset,
    model: Path,
    out: Path,
    fixed_part: FixedPart,
    *,
    batch: int | None,
    chunk: int,
    chunks: int,
    reference_mode: bool,
    language: Literal["en", "cn"],
) -> None:
    """Answer a benchmark, or one chunk of it; resume an earlier run.

    Args:
        benchmark: which one.
        preset: names its files.
        model: folder of a finetuned or published MGM.
        out: folder for the answers.
        fixed_part: for the record.
        batch: questions answered at a time; None for as many as memory takes.
        chunk, chunks: answer part `chunk`, from 0, of this many parts of the questions.
        reference_mode: one question at a time, no fast path.
        language: of MMBench's instruction.

    Raises:
        UserError: there is no such chunk; the model or the benchmark's files are missing or faulty.
    """
    if not 0 <= chunk < chunks:
        raise UserError(f"--chunk {chunk}: expected 0 to {chunks - 1}, as --chunks is {chunks}")
    settings = preset.textvqa if benchmark == "textvqa" else preset.mmbench
    configuration = {
        "benchmark": benchmark,
        "max_new_tokens": settings.max_new_tokens,
        "full_precision": preset.precision == "fp32",
        "reference_mode": reference_mode,
    }
    table: list[dict[str, str]] = []
    uploads = False
    if benchmark == "textvqa":
        questions = textvqa.read_questions(preset.textvqa.questions, preset.textvqa.images)
    else:
        configuration["language"] = language
        table = mmbench.read_table(settings.questions)
        lacking = mmbench.columns_missing_for_upload(table)
        uploads = not lacking
        if lacking:  # as VLMEvalKit's tables
            print(
                f"{benchmark}: no {UPLOAD} will be written, as {settings.questions} has no column {', '.join(lacking)}"
            )
        questions = mmbench.questions_of(table, language)
    inputs = {display_path(settings.questions): sha256_of(settings.questions), **_model_hashes(model)}
    job = _Job(questions, inputs, configuration, fixed_part)

    if _is_finished(out, job):
        print(f"{benchmark}: all {len(questions)} questions are answered already, see {out / ANSWERS}")
        return
    out.mkdir(parents=True, exist_ok=True)
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

    lines = [answer_line(question, answers[_key(question)], model.resolve().name) for question in questions]
    if uploads:
        mmbench.write_upload(table, {line["question_id"]: line["text"] for line in lines}, out / UPLOAD)
    write_jsonl(out / ANSWERS, lines)
    record = {
        "command": f"eval {benchmark}",
        "inputs": job.inputs,
        "outputs": {
            display_path(out / name): sha256_of(out / name) for name in (ANSWERS, UPLOAD) if uploads or name == ANSWERS
        },
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
        "seconds": round(time.monotonic() - started, 1),
    }
    write_json(out / "run.json", record)
    for path in out.glob(".answers-*.jsonl"):
        path.unlink()
    print(f"{benchmark}: {len(questions)} questions answered, see {out / ANSWERS}")


def _key(question: Question) -> str:
    return json.dumps([question.question_id, question.prompt])


def _model_hashes(folder: Path) -> dict[str, str]:
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: no config.json; --model expects the folder of a finetuned or published MGM")
    files = sorted({path for pattern in MODEL_FILES for path in folder.glob(pattern)})
    return {display_path(path): sha256_of(path) for path in files}


def _is_finished(out: Path, job: _Job) -> bool:
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
    configuration, benchmark = record.get("configuration", {}), job.configuration["benchmark"]
    if (other := configuration.get("benchmark")) != benchmark:
        raise UserError(f"{out} holds the answers to {other}; choose another --out for {benchmark}")
    if _Job(job.questions, record.get("inputs", {}), configuration, job.fixed_part).fingerprint != job.fingerprint:
        return False
    if changed := job.fixed_part.changes(record):
        raise UserError(f"{out} was answered by another fixed part ({changed}); remove it to answer again")
    if sha256_of(out / ANSWERS) not in record.get("outputs", {}).values():
        raise UserError(f"{out / ANSWERS} is not the file that was written there; remove {out} to answer again")
    return True


def _answers_so_far(out: Path, job: _Job) -> dict[str, str]:
    """Answers that unfinished runs of the same job left, by `_key`."""
    answers: dict[str, str] = {}
    for path in out.glob(f"{job.unfinished}*.jsonl"):
        for line in path.read_bytes().splitlines():
            with contextlib.suppress(ValueError):  # a run that was killed may leave half a line
                answers |= {key: text for key, text in parse_object(line).items() if isinstance(text, str)}
    return answers


def _answer(
    job: _Job, questions: list[Question], model: Path, out: Path, batch: int | None, label: str
) -> dict[str, str]:
    """Answer questions, keeping each batch's answers on disk at once."""
    from toolkit.eval.inference import Answerer

    reference_mode = job.configuration["reference_mode"]
    answerer = Answerer.load(model, job.configuration["full_precision"], reference_mode)
    answer = answerer.answers_one_at_a_time if reference_mode else answerer.answers
    found: dict[str, str] = {}
    started = reported = time.monotonic()
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=out, prefix=job.unfinished, suffix=".jsonl", delete=False
    ) as file:
        for answers in answer(questions, batch, job.configuration["max_new_tokens"]):
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
