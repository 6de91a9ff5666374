"""Files of answers: the kit's own `answers.jsonl`, and the tables of VLMEvalKit (xlsx, JSON, TSV, CSV)."""

from __future__ import annotations

import csv
import math
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.errors import UserError
from toolkit.eval.mmbench import WHOLE_NUMBER
from toolkit.eval.questions import BLIND_MARK
from toolkit.files import read_json, read_jsonl, require_file

ANSWERS = "answers.jsonl"
SUFFIXES = (".jsonl", ".xlsx", ".json", ".tsv", ".csv")
# What the kit and VLMEvalKit call one thing.
ID_KEYS = ("question_id", "index")
TEXT_KEYS = ("text", "prediction")


@dataclass(frozen=True)
class Answer:
    """One answer as a file has it.

    Args:
        place: file and line, for messages.
        question_id: as given.
        prompt: the question; None where the file has none.
        text: "" where the file says null.
        blind: given without the image.
    """

    place: str
    question_id: str | int
    prompt: str | None
    text: str
    blind: bool = False


def find_answer_file(folder: Path) -> Path | None:
    """The answers in a folder, the kit's own before those of others; None where there are none.

    Raises:
        UserError: the folder holds several files of others.
    """
    if (folder / ANSWERS).is_file():
        return folder / ANSWERS
    found = [folder / f"answers{suffix}" for suffix in SUFFIXES if (folder / f"answers{suffix}").is_file()]
    if len(found) > 1:
        raise UserError(f"{folder}: {' and '.join(path.name for path in found)} exist; leave one")
    return found[0] if found else None


def read_answers(path: Path) -> list[Answer]:
    """Every answer of a file, in its order.

    Args:
        path: jsonl with `question_id, prompt, text`; or a table or JSON list with VLMEvalKit's `index, prediction`.

    Raises:
        UserError: no such file, no answers in it, another format, or a line without id or whose answer is no text.
    """
    require_file(path)
    readers = {".jsonl": read_jsonl, ".json": _json_rows, ".xlsx": _xlsx_rows, ".tsv": _table_rows, ".csv": _table_rows}
    if path.suffix.lower() not in readers:
        raise UserError(f"{path}: expected answers as {', '.join(SUFFIXES)}")
    answers = [_answer(f"{path}:{number}", row) for number, row in readers[path.suffix.lower()](path)]
    if not answers:
        raise UserError(f"{path}: no answers in it; answer the benchmark again")
    return answers


def _answer(place: str, row: dict[str, Any]) -> Answer:
    identifier, text = _value(place, row, ID_KEYS), _value(place, row, TEXT_KEYS)
    if isinstance(identifier, float) and identifier.is_integer():  # as tables keep whole numbers
        identifier = int(identifier)
    if type(identifier) not in (str, int) or identifier == "":
        raise UserError(f"{place}: the question's id is {identifier!r}, expected a number or text")
    if text is None or (isinstance(text, float) and math.isnan(text)):
        text = ""
    if not isinstance(text, str):
        raise UserError(f"{place}: the answer is {text!r:.60}, expected text")
    prompt = row.get("prompt")
    blind = row.get("metadata") == BLIND_MARK
    return Answer(place, identifier, prompt if isinstance(prompt, str) else None, text, blind)


def _value(place: str, row: dict[str, Any], keys: tuple[str, str]) -> Any:
    for key in keys:
        if key in row:
            return row[key]
    raise UserError(f"{place}: neither {keys[0]!r} nor {keys[1]!r} in it; expected what `eval` or VLMEvalKit writes")


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    document = read_json(path)
    if isinstance(document, dict) and not isinstance(document.get("data"), list):  # index -> prediction
        document = [{"index": index, "prediction": text} for index, text in document.items()]
    rows = document["data"] if isinstance(document, dict) else document
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: expected a list of objects with 'index' and 'prediction'")
    yield from enumerate(rows, 1)


def _table_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    csv.field_size_limit(1 << 30)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", restval="")
            for row in reader:
                yield reader.line_num, row
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a table in UTF-8 ({error})") from None


def _xlsx_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    import openpyxl

    try:
        rows = openpyxl.load_workbook(path, read_only=True, data_only=True).worksheets[0].iter_rows(values_only=True)
        header = [str(cell) for cell in next(rows, ())]
        for number, cells in enumerate(rows, 2):
            row = dict(zip(header, cells, strict=False))
            if any(cell is not None for cell in cells):
                # A cell of digits is a number to a spreadsheet; the answer was text.
                yield (
                    number,
                    {
                        key: str(cell) if key in TEXT_KEYS and type(cell) in (int, float) else cell
                        for key, cell in row.items()
                    },
                )
    except (zipfile.BadZipFile, KeyError, ValueError, OSError, SyntaxError, EOFError, IndexError) as error:
        raise UserError(f"{path}: not an xlsx workbook, or a damaged one ({error})") from None


def whole_number(answer: Answer) -> int:
    """An answer's id as MMBench's index.

    Raises:
        UserError: it is none.
    """
    text = str(answer.question_id)
    if not re.fullmatch(WHOLE_NUMBER, text):
        raise UserError(f"{answer.place}: the question's id is {text!r}, expected a whole number; MMBench answers?")
    return int(text)
