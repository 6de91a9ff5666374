"""The local score of an experiment: `textvqa/answers.jsonl` and `mmbench/answers.jsonl` against the right answers."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from toolkit.errors import UserError
from toolkit.eval import mmbench, textvqa
from toolkit.files import REPOSITORY, read_jsonl, sha256_of
from toolkit.presets import PRESETS, Preset, load_preset

EVAL_RESULTS = REPOSITORY / "output" / "eval_results"
WHERE_TEXTVQA_ANNOTATIONS = "https://dl.fbaipublicfiles.com/textvqa/data/TextVQA_0.5.1_val.json"


def find_answers(experiment: str, preset_name: str | None) -> tuple[Path, Preset]:
    """The answers folder of an experiment, and the preset it was run with.

    Args:
        experiment: its name, or the path of an answers folder.
        preset_name: None to find out: the preset whose run of that name exists.

    Raises:
        UserError: there are no answers, or those of several presets.
    """
    presets = [load_preset(preset_name)] if preset_name else [load_preset(name) for name in PRESETS]
    folder = Path(experiment)
    if (folder / "textvqa").is_dir() or (folder / "mmbench").is_dir():
        fitting = [preset for preset in presets if folder.resolve().name.startswith(f"{preset.run_name}-")]
        return folder, (fitting or presets)[0]
    # full and 10k share their runs' name and their evaluation; the first of them will do.
    folders = {EVAL_RESULTS / preset.run_folder("finetune", experiment): preset for preset in reversed(presets)}
    found = [path for path in folders if path.is_dir()]
    if not found:
        names = " or ".join(sorted(path.name for path in folders))
        raise UserError(f"{experiment}: no answers in {EVAL_RESULTS} ({names}); run the training script first")
    if len(found) > 1:
        raise UserError(f"{experiment}: {' and '.join(path.name for path in found)} exist; say which with --preset")
    return found[0], folders[found[0]]


def score_answers(folder: Path, preset: Preset) -> tuple[dict[str, Any], list[str]]:
    """Score what is there.

    Args:
        folder: with `textvqa/answers.jsonl` and `mmbench/answers.jsonl`.
        preset: names the files with the right answers.

    Returns:
        scores by benchmark, all from 0 to 1, as `score.json` holds them; and a line for everything that was not scored.

    Raises:
        UserError: nothing could be scored, or a file is not in its format.
    """
    score: dict[str, Any] = {"textvqa": None, "mmbench": None}
    notes = []
    for name, right_answers, source, function in (
        ("textvqa", preset.textvqa.annotations, WHERE_TEXTVQA_ANNOTATIONS, _score_textvqa),
        ("mmbench", preset.mmbench.questions, "the evaluation data, bash download.sh", _score_mmbench),
    ):
        answers = folder / name / "answers.jsonl"
        if not answers.is_file():
            notes.append(f"{name} not scored: {answers} is missing; run toolkit/eval/{name}.sh")
        elif not right_answers.is_file():
            notes.append(f"{name} not scored: {right_answers} is missing; get it from {source}")
        else:
            inputs = {path.name: sha256_of(path) for path in (answers, right_answers)}
            score[name] = {**function(answers, right_answers), "inputs": inputs}
    if not any(score.values()):
        raise UserError("; ".join(notes))
    return score, notes


def _score_textvqa(answers: Path, annotations: Path) -> dict[str, Any]:
    """Mean soft accuracy over all annotated questions; one without an answer counts 0."""
    wanted = textvqa.read_annotations(annotations)
    scores: dict[tuple[str, str], float] = {}
    for number, line in read_jsonl(answers):
        key = textvqa.annotation_key(line["question_id"], line["prompt"])
        if key not in wanted:
            raise UserError(f"{answers}:{number}: {annotations} knows no question {key[1]!r} about image {key[0]}")
        scores[key] = textvqa.soft_accuracy(line["text"], wanted[key])
    return {
        "accuracy": sum(scores.values()) / len(wanted),
        "questions": len(wanted),
        "unanswered": len(wanted) - len(scores),
    }


def _score_mmbench(answers: Path, questions: Path) -> dict[str, Any]:
    table = mmbench.read_table(questions)
    if not any(row.get("answer") for row in table):
        raise UserError(f"{questions}: no right answers in it; only the dev split can be scored locally")
    # As in the upload, a later line for the same question wins.
    found = {line["question_id"]: line["text"] for _, line in read_jsonl(answers)}
    overall, categories = mmbench.accuracy(table, found)
    return {
        **dataclasses.asdict(overall),
        "questions": len(table),
        "unanswered": sum(not found.get(int(row["index"])) for row in table),
        "categories": {name: dataclasses.asdict(share) for name, share in categories.items()},
    }
