"""MMBench's table, upload and the two accuracies."""

from __future__ import annotations

from pathlib import Path

import openpyxl
import pytest

from toolkit.errors import UserError
from toolkit.eval.mmbench import accuracy, letter_of, options_of, questions_of, read_table, write_upload

COLUMNS = (
    "index",
    "question",
    "hint",
    "A",
    "B",
    "C",
    "D",
    "answer",
    "category",
    "image",
    "source",
    "l2-category",
    "comment",
)
OPTIONS = ["the bus", "the bird", "vitamin C", "a dog"]


def table(folder: Path, *rows: dict[str, str]) -> Path:
    """Write a TSV; cells that a row does not name are `x`, its image is valid base64."""
    file = folder / "mmbench.tsv"
    lines = ["\t".join(COLUMNS)]
    for row in rows:
        lines.append("\t".join({"image": "eA==", **row}.get(column, "x") for column in COLUMNS))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("C", "C"),
        (" c ", "C"),
        ("(B)", "B"),
        ("**D.**", "D"),
        ("A. the bus", "A"),
        ("A: because it is red", "A"),
        ("(b) the bird", "B"),
        ("b. the bird", "B"),
        ("The answer is C", "C"),
        ("the answer is C.", "C"),
        ("Answer: (B)", "B"),
        ("Option D is right", "D"),
        ("The Bus.", "A"),
        ("vitamin C", "C"),
        ("a dog", "D"),
        ("a bird", None),
        ("A or B", None),
        ("A. the bus B. the bird", None),
        ("E", None),
        ("", None),
        ("I think so", None),
    ],
)
def test_letter_of(answer: str, letter: str | None) -> None:
    assert letter_of(answer, OPTIONS) == letter


def test_a_letter_beyond_the_options_is_none() -> None:
    assert letter_of("D", OPTIONS[:2]) is None
    assert letter_of("same", ["same", "same"]) is None
    assert letter_of("B", ["B", "A"]) == "B"


def test_missing_cells_as_pandas_sees_them(tmp_path: Path) -> None:
    file = table(
        tmp_path, {"index": "0", "hint": "N/A", "A": "yes", "B": "null", "C": "no"}, {"index": "1", "hint": "NONE"}
    )
    first, second = read_table(file)
    assert options_of(first) == ["yes"]
    assert questions_of([first, second], "en")[0].prompt == "x\nA. yes"
    assert questions_of([first, second], "en")[1].prompt.startswith("x\nA. x")


def test_quoted_cells_may_hold_tabs_and_newlines(tmp_path: Path) -> None:
    file = table(tmp_path, {"index": "0", "question": '"two\nlines and a\ttab"', "A": 'say "no"'})
    (question,) = questions_of(read_table(file), "en")
    assert question.prompt.startswith('x\ntwo\nlines and a\ttab\nA. say "no"\n')


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"index": "one"}, "'one' must be a whole number"),
        ({"index": "0"}, "'0' must be a whole number that occurs once"),
    ],
)
def test_bad_index(tmp_path: Path, row: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_table(table(tmp_path, {"index": "0"}, row))


def test_no_table_at_all(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_table(tmp_path / "absent.tsv")
    (tmp_path / "other.tsv").write_text("a\tb\n1\t2\n")
    with pytest.raises(UserError, match="column 'index' is missing"):
        read_table(tmp_path / "other.tsv")
    broken = table(tmp_path, {"index": "0"}, {"index": "1", "question": "a tab\ttoo many"})
    with pytest.raises(UserError, match=r"mmbench.tsv:3: more cells"):
        read_table(broken)


def test_image_that_is_no_base64(tmp_path: Path) -> None:
    rows = read_table(table(tmp_path, {"index": "7", "image": "???"}))
    with pytest.raises(UserError, match="index 7 is not base64"):
        questions_of(rows, "en")


def test_accuracy_by_category(tmp_path: Path) -> None:
    rows = read_table(
        table(
            tmp_path,
            {"index": "0", "answer": "A", "category": "colour"},
            {"index": "1000000", "answer": "B", "category": "colour"},
            {"index": "1", "answer": "C", "category": "sign"},
            {"index": "2", "answer": "D", "category": "sign"},
        )
    )
    overall, categories = accuracy(rows, {0: "A", 1000000: "B.", 1: "C"})
    assert (overall.strict, overall.tolerant, overall.groups) == (pytest.approx(1 / 3), pytest.approx(2 / 3), 3)
    assert list(categories) == ["colour", "sign"]
    assert (categories["colour"].strict, categories["colour"].tolerant) == (0.0, 1.0)
    assert categories["sign"].strict == 0.5


def test_upload_is_text_and_the_same_every_time(tmp_path: Path) -> None:
    rows = read_table(table(tmp_path, {"index": "3"}))
    for name in ("one.xlsx", "two.xlsx"):
        write_upload(rows, {3: "=1+1\x07"}, tmp_path / name)
    assert (tmp_path / "one.xlsx").read_bytes() == (tmp_path / "two.xlsx").read_bytes()
    header, values = openpyxl.load_workbook(tmp_path / "one.xlsx").active.iter_rows()
    cells = dict(zip((cell.value for cell in header), values, strict=True))
    assert cells["index"].value == 3
    assert (cells["prediction"].value, cells["prediction"].data_type) == ("=1+1", "s")
