"""TextVQA's files and the corners of its soft accuracy that the goldens leave out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from toolkit.errors import UserError
from toolkit.eval.textvqa import (
    annotation_key,
    normalise,
    read_annotations,
    read_questions,
    soft_accuracy,
)


@pytest.mark.parametrize(
    ("answer", "plain"),
    [
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("twas", "'twas"),
        ("yalld've", "yalld've"),  # two apostrophes short: not in the official table
        ("y'alld've", "y'all'd've"),
        ("somebody'd", "somebodyd"),
        ("Im", "im"),
        ("shes", "shes"),
        ("a.b." + ".x" * 40, "ab" + "x" * 30 + ".x" * 10),  # only 32 full stops go
        ("3.14", "3.14"),
        ("re-use this -", "reuse this"),  # one hyphen touches a space, so every hyphen goes
        ("re-use", "re use"),
        ("tab\tand  spaces", "tab and spaces"),
    ],
)
def test_normalise(answer: str, plain: str) -> None:
    assert normalise(answer) == plain


def test_soft_accuracy_wants_ten_answers() -> None:
    with pytest.raises(ValueError, match="found 9"):
        soft_accuracy("bus", ["bus"] * 9)


def test_annotations_are_found_by_image_and_question(tmp_path: Path) -> None:
    entries = [
        {"question_id": n, "image_id": "pic", "question": text, "answers": [str(n)] * 10}
        for n, text in enumerate(["What is it?", "What colour?"])
    ]
    file = tmp_path / "annotations.json"
    file.write_text(json.dumps({"data": entries}))
    annotations = read_annotations(file)
    ocr = "Reference OCR token: WHAT, IS"
    assert annotations[annotation_key("pic", f"what colour?\n{ocr}\nAnswer the question.")] == ["1"] * 10
    assert annotations[annotation_key("pic", f"{ocr}\nwhat is it?\nAnswer the question.")] == ["0"] * 10


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "expected"),
        ({"data": []}, "expected"),
        ({"data": [{"image_id": "x"}]}, "entry 0 differs"),
        ({"data": [{"image_id": "x", "question": "y", "answers": ["z"]}]}, "has 1 answers, expected 10"),
        ({"data": [{"image_id": "x", "question": 3, "answers": ["z"] * 10}]}, "entry 0 has another question"),
        ({"data": [{"image_id": "x", "question": "y", "answers": [None] * 10}]}, "entry 0 has another question"),
        ({"data": [{"image_id": "x", "question": "y", "answers": "zzzzzzzzzz"}]}, "entry 0 has another question"),
    ],
)
def test_annotations_in_another_layout(tmp_path: Path, document: object, message: str) -> None:
    file = tmp_path / "annotations.json"
    file.write_text(json.dumps(document))
    with pytest.raises(UserError, match=message):
        read_annotations(file)


def test_question_without_a_field(tmp_path: Path) -> None:
    file = tmp_path / "questions.jsonl"
    file.write_text('{"question_id": 1, "image": "a.jpg", "text": "?"}\n{"question_id": 2, "text": "?"}\n')
    with pytest.raises(UserError, match=r"questions.jsonl:2: field 'image' is missing"):
        read_questions(file, tmp_path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question_id": 1, "image": "../secret.jpg", "text": "?"}, "bad_image_path"),
        ({"question_id": 1, "image": "/etc/passwd", "text": "?"}, "bad_image_path"),
        ({"question_id": 1, "image": "a.jpg", "text": 3}, "the question as text"),
        ({"question_id": None, "image": "a.jpg", "text": "?"}, "expected a question_id"),
    ],
)
def test_questions_that_are_none(tmp_path: Path, row: dict, message: str) -> None:
    file = tmp_path / "questions.jsonl"
    file.write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match=rf"questions.jsonl:1: .*{message}"):
        read_questions(file, tmp_path)
