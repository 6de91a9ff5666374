"""toolkit/dataset/rows.py: tokens, captions, image roots, one row's fields."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolkit.dataset.rows import ImageRoots, Row, caption_of, id_of, image_token_of, is_synthetic, parse_row, read_rows
from toolkit.errors import RowFault, UserError

ROOTS = ImageRoots(seed=Path("/seed"), processed=Path("/processed"))


def reason_of(line) -> str:
    with pytest.raises(RowFault) as fault:
        parse_row(line)
    return fault.value.reason


@pytest.mark.parametrize("token", ["<image>", "<__dj__image>"])
def test_both_image_tokens_are_accepted(token):
    text = f"{token}\na pink dress <|__dj__eoc|>"
    assert image_token_of(text) == token
    assert caption_of(text) == "a pink dress"
    assert parse_row({"id": "1", "images": ["a.jpg"], "text": text}) == Row("1", "a.jpg", "a pink dress")


def test_a_mix_of_tokens_in_one_row_is_refused():
    assert reason_of({"id": "1", "images": ["a.jpg"], "text": "<image> a <__dj__image>"}) == "mixed_image_tokens"


@pytest.mark.parametrize(
    ("text", "caption"),
    [
        ("a dress\n<image> <|__dj__eoc|>", "a dress"),
        (" <image> a dress\n\n<|__dj__eoc|>\n", "a dress"),
        ("a dress", "a dress"),
    ],
)
def test_caption_is_what_stands_between_the_tokens(text, caption):
    assert caption_of(text) == caption


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"id": None}, "missing_id"),
        ({"id": ""}, "missing_id"),
        ({"id": True}, "bad_id"),
        ({"id": 1.5}, "bad_id"),
        ({"text": 3}, "bad_text"),
        ({"text": None}, "bad_text"),
        ({"images": "a.jpg"}, "bad_images"),
        ({"images": [3]}, "bad_images"),
        ({"images": ["a.jpg", "b.jpg"]}, "two_images"),
        ({"images": []}, "token_without_image"),
        ({"text": "a dress"}, "image_without_token"),
        ({"text": "<image>\n <|__dj__eoc|>"}, "empty_caption"),
        ({"text": "<image>\na <|__dj__eoc|> dress"}, "token_in_caption"),
        ({"text": "<image>\na dress <|__dj__eoc|><|__dj__eoc|>"}, "token_in_caption"),
        ({"text": "<image>\na <image> dress"}, "token_in_caption"),
        ({"text": "<image>\n[[human]]: who?\n[[gpt]]: she"}, "dialogue_in_caption"),
    ],
)
def test_each_broken_field_is_named(change, reason):
    assert reason_of({"id": "1", "images": ["a.jpg"], "text": "<image>\na dress"} | change) == reason


def test_a_row_without_a_key_is_named_too():
    assert reason_of({"text": "<image> a", "images": ["a.jpg"]}) == "missing_id"
    assert reason_of({"id": 1, "images": ["a.jpg"]}) == "bad_text"


def test_one_image_listed_twice_and_text_only_rows_are_valid():
    assert parse_row({"id": 7, "images": ["a.jpg", "a.jpg"], "text": "<image> a"}) == Row("7", "a.jpg", "a")
    assert parse_row({"id": "g", "images": [], "text": "a"}) == Row("g", None, "a")


def test_image_roots():
    assert ROOTS.resolve("images/0/a.jpg") == Path("/seed/images/0/a.jpg")
    assert ROOTS.resolve("synthetic_images/a.jpg") == Path("/processed/synthetic_images/a.jpg")
    assert ROOTS.resolve("./synthetic_images/a.jpg") == Path("/processed/synthetic_images/a.jpg")
    assert ROOTS.resolve("images/synthetic_images/a.jpg") == Path("/seed/images/synthetic_images/a.jpg")
    assert is_synthetic("synthetic_images/a.jpg")
    assert not is_synthetic("images/synthetic_images/a.jpg")


@pytest.mark.parametrize("path", ["/etc/a.jpg", "../a.jpg", "images/../../a.jpg", "", "C:/a.jpg", "\\\\host\\a.jpg"])
def test_paths_that_leave_their_root_are_refused(path):
    with pytest.raises(RowFault, match="bad_image_path"):
        ROOTS.resolve(path)


def test_read_rows_keeps_line_numbers_and_goes_on_after_a_broken_line(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_bytes(
        b'{"id": "1"}\n\n{"id": \n[1]\n\xff\xfe{}\n{"id": "6"}\n{"text": "half \\ud83d"}\n{"id": "\\ud83d\\ude00"}\n'
    )
    lines = dict(read_rows(file))
    assert list(lines) == [1, 3, 4, 5, 6, 7, 8]
    assert [id_of(line) for line in lines.values()] == ["1", "?", "?", "?", "6", "?", "\U0001f600"]
    assert all(reason_of(lines[number]) == "not_json" for number in (3, 4, 5, 7))


def test_read_rows_names_a_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"nothing\.jsonl: no such file"):
        list(read_rows(tmp_path / "nothing.jsonl"))


def test_a_link_out_of_the_folder_to_nothing_says_both(tmp_path: Path) -> None:
    (tmp_path / "seed").mkdir()
    (tmp_path / "seed" / "a.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(RowFault, match=r"gone\.png, which is missing, and outside "):
        ImageRoots(tmp_path / "seed", tmp_path).resolve("a.png")
