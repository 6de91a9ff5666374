"""MMBench: multiple choice about images, one TSV in, a jsonl of answers and the xlsx for upload out.

A question may come back with its options rotated, under an index 1,000,000 higher; such rows form one circular group,
which is right only as a whole.
"""

from __future__ import annotations

import base64
import binascii
import csv
import io
import itertools
import re
import zipfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from toolkit.errors import UserError
from toolkit.eval.letters import read_letter
from toolkit.eval.questions import Question
from toolkit.files import require_file
from toolkit.processes import unfinished

# The original offers A to D; VLMEvalKit's tables of other benchmarks have more columns.
LETTERS = "ABCDEFGHI"
CIRCULAR = 1_000_000
# "cn" is for the Chinese translation of the benchmark.
INSTRUCTIONS = {
    "en": "\nAnswer with the option's letter from the given choices directly.",
    "cn": "\n请直接回答选项字母。",
}
REQUIRED_COLUMNS = ("index", "question", *"ABCD", "image")
WHOLE_NUMBER = "[0-9]{1,18}"
# The upload leaves these out and wants `prediction` as the seventh column; all must exist.
COLUMNS_NOT_UPLOADED = ("hint", "category", "source", "image", "comment", "l2-category")
PREDICTION_INDEX = 6
# What pandas, which the reference reads the table with, takes for an empty cell.
EMPTY_CELLS = frozenset({
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN",
    "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
})  # fmt: skip
ZIP_DATE = (1980, 1, 1, 0, 0, 0)


def read_table(path: Path) -> list[dict[str, str]]:
    """Read an MMBench TSV whole; a missing cell is an empty text.

    Raises:
        UserError: the file is missing or no TSV in UTF-8, lacks a column or any row, an index is no whole number or
            occurs twice, or an image stands for that of a row which has none.
    """
    require_file(path)
    csv.field_size_limit(1 << 30)  # images are far longer than csv's default of 128 KiB
    try:
        rows = _read_rows(path)
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a TSV in UTF-8 ({error})") from None
    if not rows:
        raise UserError(f"{path}: no questions in it, only a header line")
    # VLMEvalKit saves space by the index of another row in the place of its image.
    borrowed = {index: int(row["image"]) for index, row in rows.items() if re.fullmatch(WHOLE_NUMBER, row["image"])}
    for index, lender in borrowed.items():
        if lender in borrowed or lender not in rows:
            raise UserError(f"{path}: index {index} shows the image of index {lender}, which has none")
        rows[index]["image"] = rows[lender]["image"]
    return list(rows.values())


def _read_rows(path: Path) -> dict[int, dict[str, str]]:
    rows: dict[int, dict[str, str]] = {}
    images: dict[str, str] = {}
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t", restval="")
        missing = [column for column in REQUIRED_COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise UserError(f"{path}: column {missing[0]!r} is missing; expected an MMBench TSV with a header line")
        for cells in reader:
            if None in cells:  # where DictReader puts what the header has no name for
                raise UserError(f"{path}:{reader.line_num}: more cells than the header has columns")
            row = {column: "" if cell in EMPTY_CELLS else cell for column, cell in cells.items()}
            # The rotations of a question repeat its image; together they hold one copy.
            row["image"] = images.setdefault(row["image"], row["image"])
            if not re.fullmatch(WHOLE_NUMBER, row["index"]) or int(row["index"]) in rows:
                raise UserError(f"{path}: index {row['index']!r} must be a whole number that occurs once")
            rows[int(row["index"])] = row
    return rows


def questions_of(table: list[dict[str, str]], language: Literal["en", "cn"]) -> list[Question]:
    """The questions in the table's order, their images decoded from base64 but not opened.

    Args:
        table: rows of `read_table`.
        language: which of `INSTRUCTIONS` ends the prompt.

    Raises:
        UserError: an image is not base64.
    """
    questions, images = [], {}
    for row in table:
        options = options_of(row)
        lines = [row["question"], *(f"{letter}. {text}" for letter, text in zip(LETTERS, options, strict=False))]
        if not _is_missing(row.get("hint", "")):
            lines.insert(0, row["hint"])
        if row["image"] not in images:
            try:
                images[row["image"]] = base64.b64decode(row["image"], validate=True)
            except binascii.Error as error:
                raise UserError(f"MMBench: the image of index {row['index']} is not base64 ({error})") from None
        questions.append(
            Question(
                question_id=int(row["index"]),
                image=images[row["image"]],
                prompt="\n".join(lines),
                instruction=INSTRUCTIONS[language],
                columns={"round_id": 0, "options": options, "option_char": list(LETTERS[: len(options)])},
            )
        )
    return questions


def options_of(row: dict[str, str]) -> list[str]:
    """The options that a prompt shows: those before the first missing one. The text "None" counts as missing, too."""
    return [row[letter] for letter in itertools.takewhile(lambda letter: not _is_missing(row.get(letter, "")), LETTERS)]


def offered(row: dict[str, str]) -> dict[str, str]:
    """All options of a row by letter, also those after a hole, which other kits show."""
    return {letter: row[letter] for letter in LETTERS if not _is_missing(row.get(letter, ""))}


def _is_missing(cell: str) -> bool:
    return not cell or cell.lower() in ("nan", "none")


def columns_missing_for_upload(table: list[dict[str, str]]) -> list[str]:
    """Columns that the upload format leaves out by name, and that the table lacks."""
    return [column for column in COLUMNS_NOT_UPLOADED if table and column not in table[0]]


def upload_columns(table: list[dict[str, str]]) -> list[str]:
    """Columns of the xlsx for upload, in order.

    Raises:
        UserError: the table lacks a column that the upload format leaves out by name.
    """
    if missing := columns_missing_for_upload(table):
        raise UserError(f"MMBench table: column {missing[0]!r} is missing; the upload format leaves it out by name")
    columns = [column for column in (table[0] if table else ()) if column not in COLUMNS_NOT_UPLOADED]
    columns.insert(PREDICTION_INDEX, "prediction")
    return columns


def write_upload(table: list[dict[str, str]], answers: dict[int, str], path: Path) -> None:
    """Write the xlsx that the benchmark's server takes; equal answers give equal bytes.

    Args:
        table: rows of `read_table`.
        answers: index -> answer; absent ones stay empty.
        path: of the xlsx.

    Raises:
        UserError: see `upload_columns`.
    """
    import openpyxl
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

    columns = upload_columns(table)
    workbook = openpyxl.Workbook()
    sheet = workbook.active
    sheet.title = "Sheet1"
    sheet.append(columns)
    for number, row in enumerate(table, 2):
        index = int(row["index"])
        for position, column in enumerate(columns, 1):
            value = answers.get(index, "") if column == "prediction" else row[column]
            cell = sheet.cell(number, position)
            if column == "index":
                cell.value = index
            elif value:
                cell.value = ILLEGAL_CHARACTERS_RE.sub("", value)
                cell.data_type = "s"  # an answer such as "=1+1" is no formula
    plain = io.BytesIO()
    workbook.save(plain)
    _write_without_times(plain, path)


def _write_without_times(workbook: io.BytesIO, path: Path) -> None:
    """Copy an xlsx, which is a zip, with every time of writing replaced by a fixed one."""
    with unfinished(path) as temporary:
        with zipfile.ZipFile(workbook) as source, zipfile.ZipFile(temporary, "w") as copy:
            for name in source.namelist():
                content = source.read(name)
                if name == "docProps/core.xml":
                    content = re.sub(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", b"1980-01-01T00:00:00Z", content)
                copy.writestr(zipfile.ZipInfo(name, ZIP_DATE), content, zipfile.ZIP_DEFLATED)
        temporary.replace(path)


@dataclass(frozen=True)
class Accuracy:
    """Share of right circular groups, 0 to 1.

    Args:
        strict: the answer is the letter and nothing else, as the original counts.
        tolerant: the answer is or means the letter, by `toolkit.eval.letters`; never below strict.
        groups: how many circular groups there are.
    """

    strict: float
    tolerant: float
    groups: int


def accuracy(table: list[dict[str, str]], answers: Mapping[int, str]) -> tuple[Accuracy, dict[str, Accuracy]]:
    """Score answers against the table's `answer` column.

    Args:
        table: rows of `read_table`; those with an index below 1,000,000 name the groups that count.
        answers: index -> the model's text; a missing or empty one is wrong.

    Returns:
        accuracy over all groups, and by `category` in alphabetical order.
    """
    rows_of_group = defaultdict(list)
    for row in table:
        rows_of_group[int(row["index"]) % CIRCULAR].append(row)
    outcomes = defaultdict(list)
    for row in table:
        if int(row["index"]) < CIRCULAR:
            group = rows_of_group[int(row["index"])]
            strict = all(_is_right(member, answers, tolerant=False) for member in group)
            tolerant = all(_is_right(member, answers, tolerant=True) for member in group)
            outcomes[row.get("category", "")].append((strict, tolerant))
    everything = [outcome for category in outcomes.values() for outcome in category]
    return _share(everything), {category: _share(outcomes[category]) for category in sorted(outcomes)}


def _is_right(row: dict[str, str], answers: Mapping[int, str], tolerant: bool) -> bool:
    text, right = answers.get(int(row["index"]), ""), row.get("answer", "")
    if text == right or not tolerant:
        return bool(right) and text == right
    return bool(right) and read_letter(text, offered(row)).letter == right


def _share(outcomes: list[tuple[bool, bool]]) -> Accuracy:
    groups = len(outcomes)
    return Accuracy(
        strict=sum(strict for strict, _ in outcomes) / max(groups, 1),
        tolerant=sum(tolerant for _, tolerant in outcomes) / max(groups, 1),
        groups=groups,
    )
