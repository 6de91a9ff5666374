"""What became of every question: the answer, how it was read, and what it is worth.

Reads the same files by the same functions as `python -m toolkit score`; the means are that command's figures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from toolkit.eval import mmbench, textvqa
from toolkit.eval.answer_files import Answer, read_answers, whole_number
from toolkit.eval.letters import read_letter
from toolkit.eval.score import answer_files
from toolkit.presets import Preset


@dataclass(frozen=True)
class Given:
    """One answer of a model.

    Args:
        text: as generated; "" where there is none.
        read: what it was taken for, and how.
        wanted: the right answer; of a rotated question, that of this rotation.
        credit: 0 to 1, tolerant for MMBench.
    """

    text: str
    read: str
    wanted: str
    credit: float


@dataclass(frozen=True)
class Outcome:
    """One question that counts, with everything that was answered to it.

    Args:
        benchmark: textvqa or mmbench.
        question_id: of MMBench's question, or of TextVQA's image, about which there may be several questions.
        category: "" where the benchmark has none.
        question: what was asked, without instruction.
        options: of a multiple choice, as "A. chair"; of the unrotated question.
        image: its path, or the base64 text of its bytes; None where it is not known.
        given: one answer, or one for each rotation of an MMBench question.
        strict, tolerant: 0 to 1; equal for TextVQA. A rotated question is right only where each rotation is.
    """

    benchmark: str
    question_id: str
    category: str
    question: str
    options: tuple[str, ...]
    image: Path | str | None
    given: tuple[Given, ...]
    strict: float
    tolerant: float

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells it from all others."""
        return self.benchmark, self.question_id, self.question


def outcomes(folder: Path, preset: Preset) -> list[Outcome]:
    """Every question of the benchmarks that have been answered, in their own order.

    Args:
        folder: as `toolkit.eval.score.answer_files` takes it.
        preset: names questions, images and right answers.

    Raises:
        UserError: those of `score_answers`, for files in a wrong format.
    """
    found: list[Outcome] = []
    files = answer_files(folder)
    if "textvqa" in files and preset.textvqa.annotations.is_file():
        found += _textvqa(read_answers(files["textvqa"]), preset)
    if "mmbench" in files and preset.mmbench.questions.is_file():
        found += _mmbench(read_answers(files["mmbench"]), preset.mmbench.questions)
    return found


def _textvqa(answers: list[Answer], preset: Preset) -> Iterator[Outcome]:
    given = {textvqa.annotation_key(answer.question_id, answer.prompt or ""): answer.text for answer in answers}
    images: dict[str, Path] = {}
    if preset.textvqa.questions.is_file():
        asked = textvqa.read_questions(preset.textvqa.questions, preset.textvqa.images)
        images = {str(question.question_id): question.image for question in asked if isinstance(question.image, Path)}
    for key, right in textvqa.read_annotations(preset.textvqa.annotations).items():
        text = given.get(key, "")
        credit = textvqa.soft_accuracy(text, right)
        read = f"read as {textvqa.normalise(text)!r}" if text else "no answer"
        wanted = ", ".join(f"{answer} ({count})" for answer, count in Counter(right).most_common())
        yield Outcome(
            benchmark="textvqa",
            question_id=key[0],
            category="",
            question=key[1],
            options=(),
            image=images.get(key[0]),
            given=(Given(text, read, wanted, credit),),
            strict=credit,
            tolerant=credit,
        )


def _mmbench(answers: list[Answer], questions: Path) -> Iterator[Outcome]:
    texts = {whole_number(answer): answer.text for answer in answers}
    rotations: dict[int, list[dict[str, str]]] = {}
    for row in mmbench.read_table(questions):
        rotations.setdefault(int(row["index"]) % mmbench.CIRCULAR, []).append(row)
    for index, unordered in rotations.items():
        rows = sorted(unordered, key=lambda row: int(row["index"]))
        first = rows[0]
        if int(first["index"]) >= mmbench.CIRCULAR:  # rotations of a question that is not there do not count
            continue
        given = tuple(_choice(row, texts.get(int(row["index"]), "")) for row in rows)
        strict = all(row.get("answer") and texts.get(int(row["index"])) == row["answer"] for row in rows)
        yield Outcome(
            benchmark="mmbench",
            question_id=str(index),
            category=first.get("category", ""),
            question=" ".join(filter(None, (first.get("hint", ""), first["question"]))),
            options=tuple(f"{letter}. {text}" for letter, text in mmbench.offered(first).items()),
            image=first["image"],
            given=given,
            strict=float(strict),
            tolerant=float(all(answer.credit == 1 for answer in given)),
        )


def _choice(row: Mapping[str, str], text: str) -> Given:
    """One answer to one rotation of a multiple choice."""
    options, right = mmbench.offered(dict(row)), row.get("answer", "")
    reading = read_letter(text, options)
    read = f"read as {reading.letter} ({reading.how})" if reading.letter else f"not read ({reading.how})"
    wanted = f"{right}. {options[right]}" if right in options else right
    return Given(text, read, wanted, float(bool(right) and right in (text, reading.letter)))
