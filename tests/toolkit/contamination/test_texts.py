"""Captions that share words with the evaluation sets' texts."""

from __future__ import annotations

import pytest

from toolkit.contamination.texts import WantedTexts, words_of

WANTED = {
    "q1": "What is the brand of this camera?",
    "q2": "Which of the following sentences best describes the large red car in front of the old house?",
    "q3": "What is it?",
    "q4": "\u56fe\u7247\u4e2d\u6709\u51e0\u53ea\u732b\u5728\u6811\u4e0a",
}


@pytest.mark.parametrize(
    ("caption", "found"),
    [
        ("what is the BRAND of this camera - dakota", "q1"),
        ("the brand of this camera is dakota", None),  # not all of a short question
        ("best describes the large red car in front, they say", "q2"),
        ("describes the large red car in front", None),  # seven words in a row
        ("what is it?", None),
        ("\u4f60\u770b\u56fe\u7247\u4e2d\u6709\u51e0\u53ea\u732b\u5728\u6811\u4e0a\u5440", "q4"),
        ("", None),
    ],
)
def test_shared_words(caption: str, found: str | None) -> None:
    match = WantedTexts(WANTED).find(caption)
    assert (match[0] if match else None) == found
    if match:
        assert match[1].replace(" ", "") in "".join(words_of(caption))


def test_no_texts_are_never_shared() -> None:
    assert WantedTexts({}).find("a dog") is None
