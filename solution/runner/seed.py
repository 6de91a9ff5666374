"""Rows in and out: the seed's jsonl with its pictures, and the contract's processed_data.jsonl."""

import json
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
from datasets import Dataset

from solution.operators.common.captions import IMAGE_TOKENS, image_token_of
from solution.operators.common.images import ImageError, open_image
from solution.operators.common.rows import PART
from solution.runner.audit import Ledger, RowAudit
from solution.runner.data_juicer import NestedDataset
from solution.runner.errors import UserError
from solution.runner.files import replaced, shown

SYNTHETIC = "synthetic_images"
WORK_TOKEN = IMAGE_TOKENS[0]  # Data-Juicer's own; rows written with the other one get theirs back at the end
ROW = "__row__"  # the column that says which row of the ledger a row of the data set is


@dataclass(frozen=True)
class Folders:
    """Where pictures lie: synthetic ones beside the jsonl that names them, all others under the seed's image root."""

    images: Path  # the seed's image root
    dataset: Path  # the input jsonl's folder
    output: Path  # the folder of processed_data.jsonl

    def absolute(self, image: str) -> str:
        """The file of a relative image path of the input. Raises ValueError for an absolute path or one with `..`."""
        path = PurePosixPath(image)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"image path {image} must be relative and without ..")
        return str((self.dataset if path.parts[:1] == (SYNTHETIC,) else self.images) / path)

    def relative(self, image: str) -> str:
        """The contract's path of a picture; a synthetic one of the input is linked (or copied) into the output folder.

        Raises UserError for a picture outside the image root and the synthetic folder.
        """
        path = Path(image)
        for folder in (self.output, self.dataset):
            if path.is_relative_to(folder / SYNTHETIC):
                name = path.relative_to(folder)
                if folder != self.output:
                    _link(path, self.output / name)
                return name.as_posix()
        if path.is_relative_to(self.images):
            return path.relative_to(self.images).as_posix()
        raise UserError(
            f"image {image} lies neither under {self.images} nor in {self.output / SYNTHETIC}: write it there"
        )


def _link(source: Path, target: Path) -> None:
    """Give a file a second place, without a second copy where the disk allows it."""
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)


def read_rows(dataset: Path, folders: Folders, ledger: Ledger) -> Iterator[pa.Table]:
    """Read the seed and decode every picture; rows that are not fit to work on are failed in the ledger.

    Yields the good rows, part by part, as Data-Juicer sees them: absolute image paths, one image token for all, and
    their ROW. Raises UserError for a file without a good row, and for the first bad row where the policy is stop;
    ArrowInvalid or ArrowTypeError for a key with values of several types.
    """
    started = time.monotonic()
    ledger.begin("read_and_check_pictures", 0)
    known, lines = _Known(), _lines(dataset)
    has_rows = False
    while part := list(islice(lines, PART)):
        rows = _checked(part, folders, ledger, known)
        if rows:
            has_rows = True
            ledger.columns = list(dict.fromkeys([*ledger.columns, *(key for row in rows for key in row if key != ROW)]))
            columns = {key: [row.get(key) for row in rows] for key in (*ledger.columns, ROW)}
            yield Dataset.from_dict(columns).with_format("arrow")[:].replace_schema_metadata()
    if not ledger.steps[-1].rows_in:
        raise UserError(f"data set {shown(dataset)} has no rows")
    if not has_rows:
        first = ledger.failures()[0]
        raise UserError(
            f"data set {shown(dataset)} has no usable row; "
            f"the first one, {ledger.name_row(first['row'])}: {first['reason']}"
        )
    ledger.steps[-1].seconds = time.monotonic() - started


class _Known:
    """What the lines read so far said: the pictures of an id, the faults of a file. Kept on the disk."""

    def __init__(self) -> None:
        self._rows = sqlite3.connect("")  # a private file that goes when it is closed
        self._rows.execute("CREATE TABLE pictures (id TEXT PRIMARY KEY, images TEXT) WITHOUT ROWID")
        self._rows.execute("CREATE TABLE faults (file TEXT PRIMARY KEY, fault TEXT) WITHOUT ROWID")

    def images_of(self, name: str, images: list[str]) -> list[str]:
        """The original images of the id: those that its first row has."""
        self._rows.execute("INSERT OR IGNORE INTO pictures VALUES (?, ?)", (name, json.dumps(images)))
        return json.loads(self._rows.execute("SELECT images FROM pictures WHERE id = ?", (name,)).fetchone()[0])

    def fault_of(self, file: str) -> str:
        """Why a picture cannot be used, empty for a good one; each file is decoded once."""
        found = self._rows.execute("SELECT fault FROM faults WHERE file = ?", (file,)).fetchone()
        if found:
            return found[0]
        fault = ""
        try:
            open_image(file, is_checked_only=True)
        except ImageError as bad:
            fault = str(bad)
        self._rows.execute("INSERT INTO faults VALUES (?, ?)", (file, fault))
        return fault


def _checked(lines: Sequence[tuple[int, str]], folders: Folders, ledger: Ledger, known: _Known) -> list[dict[str, Any]]:
    """The good rows among numbered lines; all are booked, the others as failed."""
    rows, audits, faults = [], [], []
    for number, line in lines:
        audits.append(audit := RowAudit("", number, None, "", "", ""))
        try:
            row = _parsed(line)
            audit.id, audit.text_before, audit.text_after = row["id"], row["text"], row["text"]
            audit.image = " ".join(row["images"])
            audit.image_state = _state_of(audit.image)
            _check_tokens(row)
            files = [folders.absolute(image) for image in row["images"]]
            originals = [image for image in row["images"] if not image.startswith(f"{SYNTHETIC}/")]
            if originals and (others := known.images_of(row["id"], originals)) != originals:
                raise ValueError(f"id {row['id']} already stands for another image, {' '.join(others)}")
            if fault := next(filter(None, map(known.fault_of, files)), ""):
                raise ValueError(fault)
        except ValueError as error:
            faults.append((number, str(error)))
            if ledger.on_error == "stop":
                break
            continue
        rows.append(row | {"text": row["text"].replace(IMAGE_TOKENS[1], WORK_TOKEN), "images": files, ROW: number})
    ledger.steps[-1].rows_in += len(audits)
    ledger.add(audits)
    for number, fault in faults:
        ledger.fail(number, fault)
    return rows


def _lines(dataset: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, with their numbers from 1."""
    # Bytes that are no UTF-8 become lone surrogates, which json refuses to pass on: such a line fails, not the file.
    with dataset.open(encoding="utf-8", errors="surrogateescape") as file:
        yield from ((number, line) for number, line in enumerate(file, start=1) if line.strip())


def _parsed(line: str) -> dict[str, Any]:
    """One row of the contract. Raises ValueError saying what is wrong with the line."""
    try:
        row = json.loads(line)
        line.encode()
    except (json.JSONDecodeError, UnicodeEncodeError) as error:
        raise ValueError(f"not valid JSON in UTF-8 ({error})") from None
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    for key, kind in (("id", str), ("text", str), ("images", list)):
        if not isinstance(row.get(key), kind):
            raise ValueError(f"key '{key}' is missing or not a {'list of paths' if kind is list else 'string'}")
    json.dumps(row, ensure_ascii=False).encode()  # half a character written as an escape has no UTF-8 form
    if not row["images"] or not all(isinstance(image, str) for image in row["images"]):
        raise ValueError("key 'images' must list one or more image paths")
    return row


def _check_tokens(row: dict[str, Any]) -> None:
    """Raise ValueError unless the text has one kind of image token, one for each image."""
    token = image_token_of(row["text"])
    found = row["text"].count(token) if token else 0
    if found != len(row["images"]):
        raise ValueError(f"text has {found} image token(s) for {len(row['images'])} image(s)")


def write_rows(path: Path, dataset: NestedDataset, folders: Folders, ledger: Ledger) -> None:
    """Write processed_data.jsonl whole or not at all: seed keys and copy marks, relative paths, the seed's token."""
    keys = dict.fromkeys([*ledger.columns, "caption_index", "copy_index"])
    with replaced(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for part in dataset.iter(PART):
            results = []
            for place, number in enumerate(part[ROW]):
                images = [folders.relative(image) for image in part["images"][place]]
                token = image_token_of(ledger.find(number).text_before) or WORK_TOKEN
                text = part["text"][place].replace(WORK_TOKEN, token)
                image = " ".join(images)
                results.append((number, text, image, _state_of(image)))
                row = {key: part[key][place] for key in keys if key in part and part[key][place] is not None}
                file.write(json.dumps(row | {"text": text, "images": images}, ensure_ascii=False) + "\n")
            ledger.result(results)


def _state_of(image: str) -> str:
    """A row's image_state in the audit, by the paths of its images."""
    return "synthetic" if image.startswith(f"{SYNTHETIC}/") else "seed"
