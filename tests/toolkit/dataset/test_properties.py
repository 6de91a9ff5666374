"""Rows and samples of any content: a fault by name, or what is in order; conversions give back what went in."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.dataset.directions import LlavaToRows, RowsToLlava
from toolkit.dataset.fixes import FIXES
from toolkit.dataset.rows import IMAGE_TOKENS, MODEL_TOKENS, parse_row
from toolkit.errors import RowFault
from toolkit.files import parse_object

CHEAP = settings(max_examples=80, deadline=None, derandomize=True)
PIECES = st.sampled_from(
    [*IMAGE_TOKENS, *MODEL_TOKENS, "<|__dj__eoc|>", "\n", " ", "a dress", "裙子", "\0", "[[human]]:", "[[gpt]]:", "<b>"]
)
TEXTS = st.one_of(st.text(max_size=20), st.lists(PIECES, max_size=6).map("".join))
PATHS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["a.jpg", "./a//b.jpg", "../a", "/a", "C:/a", "http://a/b", "", ".", "\ud83d"]),
)
ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=5,
)
ROWS = st.fixed_dictionaries(
    {},
    optional={
        "id": st.one_of(TEXTS, ANYTHING),
        "text": st.one_of(TEXTS, ANYTHING),
        "images": st.one_of(st.lists(PATHS, max_size=2), ANYTHING),
        "further": ANYTHING,
    },
)


@CHEAP
@given(ROWS)
def test_any_object_is_a_row_or_has_a_fault_with_advice(line: dict) -> None:
    try:
        row = parse_row(line)
    except RowFault as fault:
        row, reason = None, fault.reason
    if row is None:
        assert reason in FIXES
        return
    assert row.id
    assert row.caption == row.caption.strip() != ""
    assert not any(token in row.caption for token in (*IMAGE_TOKENS, *MODEL_TOKENS, "<|__dj__eoc|>"))
    assert row.image is None or (row.image and not row.image.startswith(("/", "./")))


@CHEAP
@given(st.one_of(st.binary(max_size=60), ANYTHING.map(lambda value: json.dumps(value).encode())))
def test_any_line_is_an_object_of_unicode_text_or_a_fault(line: bytes) -> None:
    try:
        value = parse_object(line)
    except ValueError:
        return
    assert isinstance(value, dict)
    json.dumps(value, ensure_ascii=False).encode()  # no half characters


@CHEAP
@given(TEXTS, TEXTS, st.sampled_from(IMAGE_TOKENS), st.one_of(st.integers(), st.text(min_size=1, max_size=5)))
def test_a_caption_survives_both_conversions(question: str, caption: str, token: str, identifier: int | str) -> None:
    sample = {
        "id": identifier,
        "image": "a.jpg",
        "conversations": [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": caption}],
    }
    try:
        row = LlavaToRows(token, first_turn=False).convert(sample)
        back = RowsToLlava({}).convert(row)
    except RowFault:
        return
    assert back["image"] == "a.jpg"
    assert back["id"] == str(identifier)
    assert back["conversations"][1]["value"] == caption.strip()


@pytest.mark.parametrize("path", ["images/\ud83d.jpg", "\udc00"])
def test_half_a_character_in_a_path_is_named(path: str) -> None:
    with pytest.raises(RowFault, match=r"bad_image_path: .* holds half a character"):
        parse_row({"id": "1", "text": "<image>\na", "images": [path]})
