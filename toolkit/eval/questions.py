"""One evaluation question, and the line its answer becomes."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BLIND = "blind"  # folder of answers given without images
BLIND_MARK = {"no_image": True}  # their lines' metadata, so that they are known wherever they are copied
COLLAPSED = 0.9  # share of one string among the answers
FEWEST_ANSWERS = 10  # that are no coincidence


@dataclass(frozen=True)
class Question:
    """A question about one image.

    Args:
        question_id: as the benchmark gives it; TextVQA's is the image's, so several questions may share it.
        image: path of the image, or its encoded bytes. Equal values are one image.
        prompt: the question as the answer line stores it.
        instruction: what the model reads after the prompt, without being stored ("" for TextVQA).
        columns: the benchmark's own fields of the answer line, placed by `answer_line`.
    """

    question_id: str | int
    image: Path | bytes
    prompt: str
    instruction: str = ""
    columns: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def text(self) -> str:
        """What the model reads after the image."""
        return self.prompt + self.instruction


def answer_line(
    question: Question, answer: str, model_id: str, metadata: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The jsonl object of one answer, with the reference's fields in its order.

    `answer_id` is random in the reference; here it is derived from the line, so that equal runs give equal files.
    """
    identity = "\0".join((model_id, str(question.question_id), question.prompt, answer))
    columns = dict(question.columns)
    round_id = {"round_id": columns.pop("round_id")} if "round_id" in columns else {}
    return {
        "question_id": question.question_id,
        **round_id,
        "prompt": question.prompt,
        "text": answer,
        **columns,
        "answer_id": hashlib.sha256(identity.encode()).hexdigest()[:22],
        "model_id": model_id,
        "metadata": metadata or {},
    }


def collapse_warning(answers: Sequence[str]) -> str | None:
    """A warning where nearly all answers of a benchmark are one string, which a failed training gives."""
    if len(answers) < FEWEST_ANSWERS:
        return None
    text, count = Counter(answers).most_common(1)[0]
    if count < COLLAPSED * len(answers):
        return None
    share = "all" if count == len(answers) else f"{count} of"
    return f"{share} {len(answers)} answers are {text!r:.60}; has the training collapsed?"
