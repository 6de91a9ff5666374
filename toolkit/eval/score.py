"""The local score of an experiment: its answers to TextVQA and MMBench against the right ones."""

from __future__ import annotations

import dataclasses
import difflib
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from toolkit.errors import UserError
from toolkit.eval import mmbench, textvqa
from toolkit.eval.answer_files import SUFFIXES, Answer, find_answer_file, read_answers, whole_number
from toolkit.eval.letters import read_letter
from toolkit.eval.questions import BLIND, collapse_warning
from toolkit.files import REPOSITORY, display_path, read_json, require_file, sha256_of
from toolkit.presets import PRESETS, Preset, load_preset

EVAL_RESULTS = REPOSITORY / "output" / "eval_results"
TRAINING_DIRS = REPOSITORY / "output" / "training_dirs"
MOST_NAMED = 20  # finished runs in a message
BENCHMARKS = ("textvqa", "mmbench")
WHERE_TEXTVQA_ANNOTATIONS = "https://dl.fbaipublicfiles.com/textvqa/data/TextVQA_0.5.1_val.json"


def find_answers(experiment: str, preset_name: str | None) -> tuple[Path, Preset]:
    """The answers folder of an experiment, and the preset it was run with.

    Args:
        experiment: its name, that of its run's folder, or the path of an answers folder or file.
        preset_name: None to find out: the preset whose run of that name exists.

    Raises:
        UserError: there are no answers, or those of several presets. Where nothing has a similar name, the text lists
            the finished runs in lines of their own.
    """
    presets = [load_preset(preset_name)] if preset_name else [load_preset(name) for name in PRESETS]
    folder = Path(experiment)
    if folder.suffix.lower() in SUFFIXES:
        require_file(folder)
        return folder, presets[0]
    if (folder / "textvqa").is_dir() or (folder / "mmbench").is_dir():
        fitting = [preset for preset in presets if folder.resolve().name.startswith(f"{preset.run_name}-")]
        return folder, (fitting or presets)[0]
    found = _run_folders(folder, presets)
    if not found:
        there = _runs_there(folder.name, presets)
        raise UserError(f"{shlex.quote(experiment)}: no answers in {display_path(EVAL_RESULTS)}; {there}")
    if len(found) > 1:
        raise UserError(f"{experiment}: {' and '.join(path.name for path in found)} exist; say which with --preset")
    return next(iter(found.items()))


def _run_folders(named: Path, presets: Sequence[Preset]) -> dict[Path, Preset]:
    """The folders with answers that a name stands for: an experiment's, or that of a run's folder or its path."""
    word = named.name if named.parent.resolve() in (EVAL_RESULTS, TRAINING_DIRS) else str(named)
    # full and 10k share their runs' name and their evaluation; the first of them will do.
    folders = {EVAL_RESULTS / preset.run_folder("finetune", word): preset for preset in reversed(presets)}
    if not any(path.is_dir() for path in folders):
        folders = {
            EVAL_RESULTS / preset.run_folder("finetune", word.removeprefix(first)): preset
            for preset in reversed(presets)
            for first in (preset.run_folder("pretrain", ""), preset.run_folder("finetune", ""))
            if word.startswith(first)
        }
    return {path: preset for path, preset in folders.items() if path.is_dir()}


def _runs_there(name: str, presets: Sequence[Preset]) -> str:
    """The finished runs, for whoever named none of them."""
    firsts = {preset.run_folder("finetune", "") for preset in presets}
    found = [(folder, first) for first in firsts for folder in EVAL_RESULTS.glob(f"{first}*") if folder.is_dir()]
    runs = sorted({folder.name.removeprefix(first) for folder, first in found})
    if not runs:
        return "there are none yet: run the training script first"
    if near := difflib.get_close_matches(name, runs, n=1):
        return f"did you mean {near[0]}?"
    more = [f"and {len(runs) - MOST_NAMED:,} more"] if len(runs) > MOST_NAMED else []
    return "\n  ".join(["there are", *runs[:MOST_NAMED], *more])


def answer_files(experiment: Path) -> dict[str, Path]:
    """The files of answers by benchmark.

    Args:
        experiment: a folder with `textvqa/` and `mmbench/`, or one file of answers to MMBench.

    Raises:
        UserError: those of `find_answer_file`.
    """
    if experiment.is_file():
        return {"mmbench": experiment}
    found = {name: find_answer_file(experiment / name) for name in BENCHMARKS}
    return {name: path for name, path in found.items() if path}


def blind_folder(folder: Path) -> Path:
    """Where `eval --no-image` puts the answers of a run: in a folder of their own inside its answers folder."""
    return folder / BLIND


def training_warnings(folder: Path, preset: Preset) -> list[str]:
    """What the records of a run's two stages warn of; nothing where its answers do not lie with its training.

    Raises:
        UserError: a record is no JSON document.
    """
    experiment = folder.resolve().name.removeprefix(preset.run_folder("finetune", ""))
    runs = folder.resolve().parent.parent / TRAINING_DIRS.name
    records = {stage: runs / preset.run_folder(stage, experiment) / "run.json" for stage in ("pretrain", "finetune")}
    found = {stage: read_json(record) for stage, record in records.items() if record.is_file()}
    return [
        f"{stage}: {warning}"
        for stage, record in found.items()
        if isinstance(record, dict)
        for warning in record.get("warnings", [])
    ]


def score_answers(folder: Path, preset: Preset, blind: bool = False) -> tuple[dict[str, Any], list[str]]:
    """Score what is there.

    Args:
        folder: as `answer_files` takes it.
        preset: names the files with the right answers.
        blind: the answers are those given without images, which are never taken for others.

    Returns:
        scores by benchmark, all from 0 to 1, as `score.json` holds them; and a line for everything that was not scored,
        or that is odd about the answers.

    Raises:
        UserError: nothing could be scored, a file is not in its format, or answers were given without images (with
            `blind`: with images).
    """
    score: dict[str, Any] = {"textvqa": None, "mmbench": None}
    notes = []
    answers = answer_files(folder)
    for name, right_answers, source, function in (
        ("textvqa", preset.textvqa.annotations, WHERE_TEXTVQA_ANNOTATIONS, _score_textvqa),
        ("mmbench", preset.mmbench.questions, f"the evaluation data, {preset.download}", _score_mmbench),
    ):
        if name not in answers:
            if not folder.is_file():
                where = folder / name / "answers.jsonl"
                notes.append(f"{name} not scored: {where} is missing; run toolkit/eval/{name}.sh")
        elif not right_answers.is_file():
            notes.append(f"{name} not scored: {right_answers} is missing; get it from {source}")
        else:
            inputs = {path.name: sha256_of(path) for path in (answers[name], right_answers)}
            found = read_answers(answers[name])
            _require_sight(answers[name], found, blind)
            score[name] = {**function(found, right_answers), "inputs": inputs}
            if warning := collapse_warning([answer.text for answer in found]):
                notes.append(f"{name}: {warning}")
            if repeated := score[name]["repeated"]:
                notes.append(f"{name}: {repeated} questions have several answers that differ; the last of each counts")
    if not any(score.values()):
        raise UserError("; ".join(notes))
    return score, notes


def _require_sight(path: Path, answers: list[Answer], blind: bool) -> None:
    """Refuse answers given without images as a run's own, and the other way round."""
    if odd := next((answer for answer in answers if answer.blind != blind), None):
        if blind:
            raise UserError(f"{odd.place}: answered with its image; remove {path.parent} and run eval --no-image again")
        raise UserError(
            f"{odd.place}: answered without its image (eval --no-image), so no score of the run; "
            "score the run itself, which shows these in the column `blind`"
        )


def explain(folder: Path, preset: Preset, count: int) -> list[str]:
    """How single answers were read: of each benchmark the first `count`, those that are not simply right before others.

    Args:
        folder, preset: as in `score_answers`, which has accepted them.
        count: answers shown of each benchmark.
    """
    lines = []
    for name, path in answer_files(folder).items():
        right_answers = preset.textvqa.annotations if name == "textvqa" else preset.mmbench.questions
        if right_answers.is_file():
            read = _explain_textvqa if name == "textvqa" else _explain_mmbench
            told = sorted(read(read_answers(path), right_answers), key=lambda item: item[0])  # stable: else in order
            lines += [f"{name} {line}" for _, line in told[:count]]
    return lines


def _matched_textvqa(answers: list[Answer], annotations: Path) -> dict[tuple[str, str], list[Answer]]:
    wanted = textvqa.read_annotations(annotations)
    found: dict[tuple[str, str], list[Answer]] = {}
    for answer in answers:
        if answer.prompt is None:
            raise UserError(f"{answer.place}: no 'prompt' in it, which tells TextVQA's questions about one image apart")
        key = textvqa.annotation_key(answer.question_id, answer.prompt)
        if key not in wanted:
            raise UserError(
                f"{answer.place}: {annotations} knows no question {key[1]!r:.80} about image {key[0]!r:.40}"
            )
        found.setdefault(key, []).append(answer)
    return found


def _score_textvqa(answers: list[Answer], annotations: Path) -> dict[str, Any]:
    """Mean soft accuracy over all annotated questions; one without an answer counts 0."""
    wanted, found = textvqa.read_annotations(annotations), _matched_textvqa(answers, annotations)
    scores = [textvqa.soft_accuracy(given[-1].text, wanted[key]) for key, given in found.items()]
    return {
        "accuracy": sum(scores) / len(wanted),
        "questions": len(wanted),
        "unanswered": len(wanted) - sum(bool(given[-1].text) for given in found.values()),
        "repeated": _repeated(found),
    }


def _explain_textvqa(answers: list[Answer], annotations: Path) -> Iterable[tuple[float, str]]:
    wanted = textvqa.read_annotations(annotations)
    for key, given in _matched_textvqa(answers, annotations).items():
        share = textvqa.soft_accuracy(given[-1].text, wanted[key])
        right = ", ".join(f"{text!r} x {count}" for text, count in Counter(wanted[key]).most_common(3))
        read = textvqa.normalise(given[-1].text)
        yield share, f"{key[0]} {key[1]!r:.80}: {given[-1].text!r:.80} read as {read!r:.80}, {share:.2f} of {right}"


def _matched_mmbench(answers: list[Answer], table: list[dict[str, str]], questions: Path) -> dict[int, list[Answer]]:
    known = {int(row["index"]) for row in table}
    found: dict[int, list[Answer]] = {}
    for answer in answers:
        index = whole_number(answer)
        if index not in known:
            raise UserError(
                f"{answer.place}: {questions} has no question {index}; answers of another benchmark or split?"
            )
        found.setdefault(index, []).append(answer)
    return found


def _score_mmbench(answers: list[Answer], questions: Path) -> dict[str, Any]:
    table = mmbench.read_table(questions)
    if not any(row.get("answer") for row in table):
        raise UserError(f"{questions}: no right answers in it; only the dev split can be scored locally")
    if all(int(row["index"]) >= mmbench.CIRCULAR for row in table):
        raise UserError(f"{questions}: only rotated questions, each index is {mmbench.CIRCULAR:,} or more")
    found = _matched_mmbench(answers, table, questions)
    # As in the upload, a later line for the same question wins.
    texts = {index: given[-1].text for index, given in found.items()}
    overall, categories = mmbench.accuracy(table, texts)
    return {
        **dataclasses.asdict(overall),
        "questions": len(table),
        "unanswered": sum(not texts.get(int(row["index"])) for row in table),
        "repeated": _repeated(found),
        "categories": {name: dataclasses.asdict(share) for name, share in categories.items()},
    }


def _explain_mmbench(answers: list[Answer], questions: Path) -> Iterable[tuple[int, str]]:
    table = mmbench.read_table(questions)
    rows = {int(row["index"]): row for row in table}
    for index, given in _matched_mmbench(answers, table, questions).items():
        text, right = given[-1].text, rows[index].get("answer", "")
        reading = read_letter(text, mmbench.offered(rows[index]))
        strict, tolerant = text == right, right in (text, reading.letter)
        verdict = "right" if strict else "right, tolerant only" if tolerant else "wrong"
        yield (
            strict + tolerant,
            f"{index}: {text!r:.80} read as {reading.letter} ({reading.how}); {right} is right: {verdict}",
        )


def _repeated(found: Mapping[Any, list[Answer]]) -> int:
    return sum(len({answer.text for answer in given}) > 1 for given in found.values())
