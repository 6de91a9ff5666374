"""Rows of `processed_data.jsonl` become LLaVA-format samples: each caption gets a question in front of it.

{"id": "002375592", "image": "images/00237/002375592.jpg",
 "conversations": [{"from": "human", "value": "<image>\\nWhat is this?"}, {"from": "gpt", "value": "a pink dress"}]}
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.errors import RowFault, UserError
from toolkit.files import read_json
from toolkit.rows import Row

# Where LLaVA-format questions say the picture goes.
IMAGE_PLACE = "<image>"

# LLaVA's prompts for a brief caption, in the order `caption_question` counts them.
CAPTION_PROMPTS = (
    "Describe the image concisely.",
    "Provide a brief description of the given image.",
    "Give a brief description of the image.",
    "What is this?",
    "What is in the photo?",
    "Summarize the visual content of the image.",
    "Share a concise interpretation of the image provided.",
    "Present a compact description of the photo's key features.",
    "Render a clear and concise summary of the photo.",
    "Give a short and clear explanation of the subsequent image.",
    "Write a terse but informative summary of the picture.",
)


@dataclass(frozen=True, slots=True)
class Original:
    """What `stage_1.json` knows of one id: the id in its own type, the first question, who answers it."""

    id: str | int
    question: dict[str, Any]
    answer_role: str


def load_originals(path: Path) -> dict[str, Original]:
    """Read the LLaVA-format original of the seed, keyed by its ids as text.

    Of a conversation of several turns the first question counts: it is the one the caption answers.

    Raises:
        UserError: the file is missing or no list of LLaVA samples; names the first entry that is none.
    """
    samples = read_json(path)
    if not isinstance(samples, list):
        raise UserError(f"{path}: expected a list of LLaVA-format samples, found {type(samples).__name__}")
    originals: dict[str, Original] = {}
    # The seed has a handful of different questions and 400,000 rows: equal ones share one object.
    shared: dict[str, dict[str, Any]] = {}
    for number, sample in enumerate(samples):
        try:
            question, answer = sample["conversations"][:2]
            value, role, identifier = question["value"], answer["from"], sample["id"]
        except (TypeError, KeyError, ValueError):
            raise UserError(f"{path}: sample {number} has no id, or no question and answer") from None
        if question == {"from": "human", "value": value}:
            question = shared.setdefault(value, question)
        originals[str(identifier)] = Original(identifier, question, role)
    return originals


def caption_question(identifier: str | int) -> str:
    """The question of a picture whose row has no original: `<image>`, a newline, one of the eleven prompts.

    The choice is stable: SHA-256 of the id's text in UTF-8, its first eight bytes as a big-endian number, modulo 11.
    """
    digest = hashlib.sha256(str(identifier).encode()).digest()
    return f"{IMAGE_PLACE}\n{CAPTION_PROMPTS[int.from_bytes(digest[:8], 'big') % len(CAPTION_PROMPTS)]}"


def to_llava(row: Row, original: Original | None) -> dict[str, Any]:
    """The training sample of a row.

    Args:
        row: a sound row.
        original: the sample of `stage_1.json` with the row's id; its question comes back as it stands, and its id.

    Raises:
        RowFault: `no_question` (a row without picture and original), `question_without_image_place`,
            `question_without_image` (the original's question and the row disagree on whether there is a picture).
    """
    if original:
        identifier, question, role = original.id, dict(original.question), original.answer_role
    else:
        identifier, question, role = row.id, {"from": "human", "value": caption_question(row.id)}, "gpt"
        if row.image is None:
            raise RowFault("no_question", f"id {row.id!r} has no original question, and no picture to ask about")
    if row.image and IMAGE_PLACE not in question["value"]:
        raise RowFault("question_without_image_place", f"{question['value'][:60]!r} has no place for {row.image}")
    if not row.image and IMAGE_PLACE in question["value"]:
        raise RowFault("question_without_image", f"{question['value'][:60]!r} asks about a picture, the row has none")
    sample = {"id": identifier, "conversations": [question, {"from": role, "value": row.caption}]}
    if row.image:
        sample["image"] = row.image
    return sample
