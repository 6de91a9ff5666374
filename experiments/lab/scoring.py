"""Answers to both benchmarks as scores and as one line per question, by the functions of `python -m toolkit score`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.eval import mmbench, textvqa
from toolkit.eval.questions import Question, collapse_warning
from toolkit.files import display_path
from toolkit.mini.questions import SIGN_QUESTIONS
from toolkit.presets import Preset

if TYPE_CHECKING:
    import pandas

BENCHMARKS = ("textvqa", "mmbench")
MOST_SHOWN = 5  # of the ten annotators' answers


@dataclass(frozen=True)
class Evaluation:
    """What a cell's answers are worth.

    Args:
        scores: accuracies from 0 to 1 by benchmark: `all`, and by category.
        answers, questions: see `cells.py`.
        warnings: benchmarks whose answers are nearly all one string.
    """

    scores: dict[str, dict[str, float]]
    answers: pandas.DataFrame
    questions: pandas.DataFrame
    warnings: list[str]


def asked_of(preset: Preset, benchmark: str) -> list[Question]:
    """A benchmark's questions in the order of its file.

    Raises:
        UserError: a file is missing or not in its format.
    """
    if benchmark == "textvqa":
        return textvqa.read_questions(preset.textvqa.questions, preset.textvqa.images)
    return mmbench.questions_of(mmbench.read_table(preset.mmbench.questions), "en")


def evaluate(preset: Preset, texts: Mapping[str, list[str]], by_kind: bool) -> Evaluation:
    """Score both benchmarks.

    Args:
        preset: names the files with questions and right answers.
        texts: by benchmark, the answers in the order of `asked_of`.
        by_kind: tell TextVQA's questions about a sign's word from those about a thing, as the mini world has them.
    """
    import pandas

    text_scores, text_lines = _textvqa(preset, texts["textvqa"], by_kind)
    choice_scores, choice_lines = _mmbench(preset, texts["mmbench"])
    table = pandas.DataFrame([*text_lines, *choice_lines])
    warnings = [
        f"{name}: {warning}" for name, given in texts.items() if (warning := collapse_warning(given)) is not None
    ]
    return Evaluation(
        {"textvqa": text_scores, "mmbench": choice_scores},
        table[["benchmark", "question", "answer", "correct", "strict"]],
        table[["benchmark", "question", "category", "image", "text", "wanted"]],
        warnings,
    )


def _textvqa(preset: Preset, texts: list[str], by_kind: bool) -> tuple[dict[str, float], list[dict[str, Any]]]:
    wanted = textvqa.read_annotations(preset.textvqa.annotations)
    kinds: dict[str, list[float]] = {"all": [], "text": [], "object": []} if by_kind else {"all": []}
    lines = []
    for number, (question, text) in enumerate(zip(asked_of(preset, "textvqa"), texts, strict=True)):
        key = textvqa.annotation_key(question.question_id, question.prompt)
        accuracy = textvqa.soft_accuracy(text, wanted[key])
        kind = ("text" if key[1] in SIGN_QUESTIONS else "object") if by_kind else ""
        for name in filter(None, ("all", kind)):
            kinds[name].append(accuracy)
        given = dict.fromkeys(sorted(wanted[key], key=wanted[key].count, reverse=True))
        lines.append({
            "benchmark": "textvqa", "question": number, "answer": text, "correct": accuracy, "strict": accuracy,
            "category": kind, "image": display_path(Path(str(question.image))), "text": key[1],
            "wanted": ", ".join(list(given)[:MOST_SHOWN]),
        })  # fmt: skip
    return {kind: sum(values) / max(1, len(values)) for kind, values in kinds.items()}, lines


def _mmbench(preset: Preset, texts: list[str]) -> tuple[dict[str, float], list[dict[str, Any]]]:
    table = mmbench.read_table(preset.mmbench.questions)
    found = {int(row["index"]): text for row, text in zip(table, texts, strict=True)}
    overall, categories = mmbench.accuracy(table, found)
    groups = defaultdict(list)
    for row in table:
        groups[int(row["index"]) % mmbench.CIRCULAR].append(row)
    lines = []
    for row in table:
        if (index := int(row["index"])) >= mmbench.CIRCULAR:
            continue
        group = groups[index]
        right, _ = mmbench.accuracy(group, found)
        options = "\n".join(f"{letter}. {text}" for letter, text in mmbench.offered(row).items())
        lines.append({
            "benchmark": "mmbench", "question": index, "answer": " | ".join(found[int(row["index"])] for row in group),
            "correct": right.tolerant, "strict": right.strict, "category": row.get("category", ""),
            "image": f"{display_path(preset.mmbench.questions)}#{index}", "text": f"{row['question']}\n{options}",
            "wanted": " | ".join(row.get("answer", "") for row in group),
        })  # fmt: skip
    return {"all": overall.tolerant} | {name: share.tolerant for name, share in categories.items()}, lines
