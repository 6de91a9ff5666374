"""MMBench's table, upload and the two accuracies."""

from __future__ import annotations

from pathlib import Path

import openpyxl
import pytest

from toolkit.errors import UserError
from toolkit.eval.mmbench import accuracy, offered, options_of, questions_of, read_table, write_upload

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


def table(folder: Path, *rows: dict[str, str]) -> Path:
    """Write a TSV; cells that a row does not name are `x`, its image is valid base64."""
    file = folder / "mmbench.tsv"
    lines = ["\t".join(COLUMNS)]
    for row in rows:
        lines.append("\t".join({"image": "eA==", **row}.get(column, "x") for column in COLUMNS))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


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


def test_tolerant_is_never_below_strict(tmp_path: Path) -> None:
    """Also where the right answer is no option: a hole, or the text None that counts as one."""
    rows = read_table(
        table(
            tmp_path,
            {"index": "0", "A": "yes", "B": "None", "C": "no", "D": "", "answer": "B"},
            {"index": "1", "A": "B", "B": "A", "answer": "A"},
        )
    )
    overall, _ = accuracy(rows, {0: "B", 1: "A"})
    assert (overall.strict, overall.tolerant) == (1.0, 1.0)


def test_options_after_a_hole_are_read_but_not_shown(tmp_path: Path) -> None:
    (row,) = read_table(table(tmp_path, {"index": "0", "A": "yes", "B": "", "C": "no", "D": "", "answer": "C"}))
    assert options_of(row) == ["yes"]
    assert offered(row) == {"A": "yes", "C": "no"}
    assert accuracy([row], {0: "The answer is C."})[0].tolerant == 1.0


def test_a_fifth_option_is_shown_and_scored(tmp_path: Path) -> None:
    file = tmp_path / "five.tsv"
    file.write_text("index\tquestion\tA\tB\tC\tD\tE\tanswer\timage\n0\twhat?\ta\tb\tc\td\ta horse\tE\teA==\n")
    rows = read_table(file)
    (question,) = questions_of(rows, "en")
    assert question.prompt.endswith("D. d\nE. a horse")
    overall, _ = accuracy(rows, {0: "(E) a horse"})
    assert (overall.strict, overall.tolerant) == (0.0, 1.0)


def test_an_image_by_another_rows_index(tmp_path: Path) -> None:
    first, second = read_table(table(tmp_path, {"index": "1", "image": "7"}, {"index": "7"}))
    assert first["image"] == second["image"] == "eA=="
    for rows in ([{"index": "1", "image": "9"}], [{"index": "1", "image": "2"}, {"index": "2", "image": "1"}]):
        with pytest.raises(UserError, match=r"index 1 shows the image of index \d, which has none"):
            read_table(table(tmp_path, *rows))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("\t".join(COLUMNS) + "\n", "no questions in it"),
        ("", "column 'index' is missing"),
        (b"index\tquestion\xff\n", "not a TSV in UTF-8"),
        ("\t".join(COLUMNS) + "\n" + "\t".join("²" if name == "index" else "x" for name in COLUMNS), "'²' must be"),
    ],
)
def test_tables_that_are_none(tmp_path: Path, content: str | bytes, message: str) -> None:
    (tmp_path / "bad.tsv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        read_table(tmp_path / "bad.tsv")
