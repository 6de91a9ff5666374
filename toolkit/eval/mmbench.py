"""MMBench: multiple choice about images, one TSV in, a jsonl of answers and the xlsx for upload out.

A question may come back with its options rotated, under an index 1,000,000 higher; such rows form one circular group,
which is right only as a whole.
"""

from __future__ import annotations

import base64
import binascii
import csv
import io
import re
import zipfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from toolkit.errors import UserError
from toolkit.eval.questions import Question
from toolkit.processes import unfinished

LETTERS = "ABCD"
CIRCULAR = 1_000_000
# "cn" is for the Chinese translation of the benchmark.
INSTRUCTIONS = {
    "en": "\nAnswer with the option's letter from the given choices directly.",
    "cn": "\n请直接回答选项字母。",
}
REQUIRED_COLUMNS = ("index", "question", *LETTERS, "image")
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
        UserError: the file is missing, lacks a column, or an index is no whole number or occurs twice.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    csv.field_size_limit(1 << 30)  # images are far longer than csv's default of 128 KiB
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t", restval="")
        missing = [column for column in REQUIRED_COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise UserError(f"{path}: column {missing[0]!r} is missing; expected an MMBench TSV with a header line")
        rows, images = {}, {}
        for cells in reader:
            if None in cells:  # where DictReader puts what the header has no name for
                raise UserError(f"{path}:{reader.line_num}: more cells than the header has columns")
            row = {column: "" if cell in EMPTY_CELLS else cell for column, cell in cells.items()}
            # The rotations of a question repeat its image; together they hold one copy.
            row["image"] = images.setdefault(row["image"], row["image"])
            if not row["index"].isdigit() or row["index"] in rows:
                raise UserError(f"{path}: index {row['index']!r} must be a whole number that occurs once")
            rows[row["index"]] = row
    return list(rows.values())


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
    """The options a row offers: those before the first missing one. The text "None" counts as missing, too."""
    options = []
    for letter in LETTERS:
        if _is_missing(row[letter]):
            break
        options.append(row[letter])
    return options


def _is_missing(cell: str) -> bool:
    return not cell or cell.lower() in ("nan", "none")


def upload_columns(table: list[dict[str, str]]) -> list[str]:
    """Columns of the xlsx for upload, in order.

    Raises:
        UserError: the table lacks a column that the upload format leaves out by name.
    """
    columns = list(table[0]) if table else []
    for column in COLUMNS_NOT_UPLOADED:
        if column not in columns:
            raise UserError(f"MMBench table: column {column!r} is missing; the upload format leaves it out by name")
    columns = [column for column in columns if column not in COLUMNS_NOT_UPLOADED]
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


def letter_of(answer: str, options: list[str]) -> str | None:
    """The option an answer means, for the tolerant accuracy; None where it is not plain.

    Understood are a lone letter ("c", "(C)", "**C.**"), the whole text of exactly one option, a letter that starts the
    answer with a mark after it ("C. the sign", "(c) the sign") and a letter after the word answer, option or choice
    ("The answer is C"). Two different letters mean none.

    Args:
        answer: the model's text.
        options: texts of the offered options, from A on.
    """
    offered = LETTERS[: len(options)]
    lone = re.fullmatch(r"[\W_]*([A-Za-z])[\W_]*", answer)
    if lone:
        return lone[1].upper() if lone[1].upper() in offered else None
    same_text = [letter for letter, option in zip(offered, options, strict=True) if _plain(option) == _plain(answer)]
    if same_text:
        return same_text[0] if len(same_text) == 1 else None
    found = set(re.findall(r"(?:^|[\s(\[*])([A-D])[.):\]*]", answer))
    found |= {letter.upper() for letter in re.findall(r"^[\W_]*([A-Za-z])[.):\]]", answer)}
    found |= set(re.findall(r"(?i:answer|option|choice)(?:\s+is)?[\s:]*[(\[\"'*]*([A-D])\b", answer))
    return found.pop() if len(found) == 1 and found <= set(offered) else None


def _plain(text: str) -> str:
    """A text without case, surrounding punctuation and doubled spaces."""
    return " ".join(text.lower().split()).strip(" .,;:!?\"'()[]*")


@dataclass(frozen=True)
class Accuracy:
    """Share of right circular groups, 0 to 1.

    Args:
        strict: the answer is the letter and nothing else, as the original counts.
        tolerant: `letter_of` the answer is the letter.
        groups: how many circular groups there are.
    """

    strict: float
    tolerant: float
    groups: int


def accuracy(table: list[dict[str, str]], answers: Mapping[str | int, str]) -> tuple[Accuracy, dict[str, Accuracy]]:
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


def _is_right(row: dict[str, str], answers: Mapping[str | int, str], tolerant: bool) -> bool:
    text = answers.get(int(row["index"]), "")
    found = letter_of(text, options_of(row)) if tolerant else text
    return bool(row["answer"]) and found == row["answer"]


def _share(outcomes: list[tuple[bool, bool]]) -> Accuracy:
    groups = len(outcomes)
    return Accuracy(
        strict=sum(strict for strict, _ in outcomes) / max(groups, 1),
        tolerant=sum(tolerant for _, tolerant in outcomes) / max(groups, 1),
        groups=groups,
    )
