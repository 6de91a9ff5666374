"""Rows of `processed_data.jsonl` become LLaVA-format samples, each caption with a question in front of it, and back.

{"id": "002375592", "image": "images/00237/002375592.jpg",
 "conversations": [{"from": "human", "value": "<image>\\nWhat is this?"}, {"from": "gpt", "value": "a pink dress"}]}
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.dataset.arrays import read_array
from toolkit.dataset.rows import END_OF_CHUNK, IMAGE_TOKENS, Row, normal_image_path, parse_row
from toolkit.errors import RowFault, UserError

# Marks in a LLaVA-format question where the image goes.
IMAGE_MARK = "<image>"

# Who speaks, by what data sets call it; a system prompt in front is no turn.
ROLES = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt"}
SYSTEM = "system"

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
    """What `stage_1.json` knows of one id: the id in its own type, the first question, who answers it with which
    caption, and the image's path."""

    id: str | int
    question: dict[str, Any]
    answer_role: str
    caption: str
    image: str | None


def load_originals(path: Path) -> dict[str, Original]:
    """Read the LLaVA-format original of the seed, keyed by its ids as text.

    Of a conversation of several turns the first question counts: it is the one the caption answers.

    Raises:
        UserError: the file is missing or no list of LLaVA samples; names the first entry that is none.
    """
    originals: dict[str, Original] = {}
    # The seed has a handful of different questions and 400,000 rows: equal ones share one object.
    shared: dict[str, dict[str, Any]] = {}
    for number, sample in read_array(path):
        try:
            question, answer = sample["conversations"][:2]
            value, role, identifier = question["value"], answer["from"], sample["id"]
            caption = answer["value"].strip()
        except (TypeError, KeyError, ValueError, AttributeError):
            raise UserError(f"{path}: sample {number} has no id, or no question and answer") from None
        if question == {"from": "human", "value": value}:
            question = shared.setdefault(value, question)
        originals[str(identifier)] = Original(identifier, question, role, caption, sample.get("image"))
    return originals


def caption_question(identifier: str | int) -> str:
    """The question about an image whose row has no original: `<image>`, a newline, one of the eleven prompts.

    The choice is stable: SHA-256 of the id's text in UTF-8, its first eight bytes as a big-endian number, modulo 11.
    """
    digest = hashlib.sha256(str(identifier).encode()).digest()
    return f"{IMAGE_MARK}\n{CAPTION_PROMPTS[int.from_bytes(digest[:8], 'big') % len(CAPTION_PROMPTS)]}"


def to_llava(row: Row, original: Original | None) -> dict[str, Any]:
    """The training sample of a row.

    Args:
        row: a valid row.
        original: the sample of `stage_1.json` with the row's id; its question comes back unchanged, and its id.

    Raises:
        RowFault: `no_question` (a row without image and original), `question_without_image_place`,
            `question_without_image` (the original's question and the row disagree on whether there is an image).
    """
    if original:
        identifier, question, role = original.id, dict(original.question), original.answer_role
    else:
        identifier, question, role = row.id, {"from": "human", "value": caption_question(row.id)}, "gpt"
        if row.image is None:
            raise RowFault("no_question", f"id {row.id!r} has no original question, and no image to ask about")
    if row.image and IMAGE_MARK not in question["value"]:
        raise RowFault("question_without_image_place", f"no {IMAGE_MARK} in {question['value'][:60]!r} for {row.image}")
    if not row.image and IMAGE_MARK in question["value"]:
        raise RowFault("question_without_image", f"{question['value'][:60]!r} asks about an image, the row has none")
    sample = {"id": identifier, "conversations": [question, {"from": role, "value": row.caption}]}
    if row.image:
        sample["image"] = row.image
    return sample


def to_row(sample: dict[str, Any], token: str, first_turn: bool) -> dict[str, Any]:
    """The row of a LLaVA-format sample: its answer as caption; its question is left to `stage_1.json`.

    Args:
        sample: as read.
        token: image token to write, one of `toolkit.dataset.rows.IMAGE_TOKENS`.
        first_turn: whether of several turns the first is taken, which the caption then answers.

    Raises:
        RowFault: those of `parse_row`; `bad_conversation`, `unknown_role`, `several_turns`, `bad_image`,
            `several_images`, `bad_image_path`, `question_without_image_place`, `question_without_image`,
            `image_in_answer`.
    """
    turns = turns_of(sample)
    if len(turns) > 2 and not first_turn:
        raise RowFault("several_turns", f"{len(turns) // 2} questions with answers; --turns first takes the first")
    question, answer = turns[:2]
    image = _image_of(sample.get("image", sample.get("images")))
    if image and question.count(IMAGE_MARK) != 1:
        raise RowFault("question_without_image_place", f"expected one {IMAGE_MARK} in {question[:60]!r}, for {image}")
    if not image and IMAGE_MARK in question:
        raise RowFault("question_without_image", f"{question[:60]!r} asks about an image, the sample has none")
    if any(mark in answer for mark in IMAGE_TOKENS):
        raise RowFault("image_in_answer", f"an image token in the answer {answer[:60]!r}")
    row = {"id": sample.get("id"), "text": f"{token}\n" * bool(image) + f"{answer.strip()} {END_OF_CHUNK}"}
    row["images"] = [image] if image else []
    row["id"] = parse_row(row).id  # what cannot come back as a caption is no row
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:  # half a character, which an array's entry may hold as an escape
        raise RowFault("not_json", f"not Unicode text ({error.reason})") from None
    return row


def turns_of(sample: dict[str, Any]) -> list[str]:
    """Questions and answers in turn; under `conversations` as {from, value} or under `messages` as {role, content}.

    Raises:
        RowFault: `bad_conversation`, `unknown_role`.
    """
    conversation = sample.get("conversations", sample.get("messages"))
    try:
        turns = [
            (turn["role"], turn["content"]) if "role" in turn else (turn["from"], turn["value"])
            for turn in conversation
        ]
    except (TypeError, KeyError):
        raise RowFault(
            "bad_conversation", "expected 'conversations', a list of {from, value}, or 'messages' of {role, content}"
        ) from None
    turns = turns[has_system_prompt(sample) :]
    if not all(isinstance(text, str) for turn in turns for text in turn) or len(turns) < 2:
        raise RowFault("bad_conversation", f"expected a question and an answer, found {turns!r:.80}")
    for index, (role, _) in enumerate(turns):
        if ROLES.get(role) != ("human", "gpt")[index % 2]:
            raise RowFault("unknown_role", f"expected human (user) and gpt (assistant) in turn, found {role!r}")
    return [text for _, text in turns]


def has_system_prompt(sample: dict[str, Any]) -> bool:
    """Whether the conversation begins with a turn of the system's."""
    (first, *_) = sample.get("conversations", sample.get("messages")) or [{}]
    return first.get("role", first.get("from")) == SYSTEM


def _image_of(images: Any) -> str:
    """The image of a sample, which data sets write as a path or as a list of paths; empty for a text-only one."""
    paths = [] if images is None else [images] if isinstance(images, str) else images
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise RowFault("bad_image", f"expected a path under 'image', found {images!r:.80}")
    paths = list(dict.fromkeys(map(normal_image_path, paths)))
    if len(paths) > 1:
        raise RowFault("several_images", f"expected one image, found {', '.join(paths)[:80]}")
    return paths[0] if paths else ""
