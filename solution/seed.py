"""Rows in and out: the seed's jsonl with its pictures, and the contract's processed_data.jsonl."""

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from solution.audit import Ledger, RowAudit
from solution.errors import UserError
from solution.files import replaced, shown
from solution.operators.captions import IMAGE_TOKENS, image_token_of
from solution.operators.pictures import PictureError, open_picture

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


def read_rows(dataset: Path, folders: Folders, ledger: Ledger) -> list[dict[str, Any]]:
    """Read the seed and decode every picture; rows that are not fit to work on are failed in the ledger.

    Returns the good rows as Data-Juicer sees them: absolute image paths, one image token for all, and their ROW.
    Raises UserError for an empty file, and for the first bad row where the policy is stop.
    """
    ledger.begin("read_and_check_pictures", 0)
    images_of: dict[str, Any] = {}
    readable: dict[str, str] = {}
    rows = []
    for number, line in _lines(dataset):
        ledger.steps[-1].rows_in += 1
        ledger.rows[number] = RowAudit("", number, None, "", "", "")
        try:
            row = _parsed(line)
            audit = ledger.rows[number]
            audit.id, audit.text_before, audit.text_after = row["id"], row["text"], row["text"]
            audit.image = " ".join(row["images"])
            audit.image_state = "synthetic" if audit.image.startswith(f"{SYNTHETIC}/") else "seed"
            _check_tokens(row)
            files = [folders.absolute(image) for image in row["images"]]
            originals = [image for image in row["images"] if not image.startswith(f"{SYNTHETIC}/")]
            if originals and images_of.setdefault(row["id"], originals) != originals:
                raise ValueError(f"id {row['id']} already stands for another image, {' '.join(images_of[row['id']])}")
            for file in files:
                if file not in readable:
                    readable[file] = _fault(file)
                if readable[file]:
                    raise ValueError(readable[file])
        except ValueError as error:
            ledger.fail(number, str(error))
            continue
        rows.append(row | {"text": row["text"].replace(IMAGE_TOKENS[1], WORK_TOKEN), "images": files, ROW: number})
    if not ledger.rows:
        raise UserError(f"data set {shown(dataset)} has no rows")
    ledger.columns = [key for key in dict.fromkeys(key for row in rows for key in row) if key != ROW]
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
    (row["id"] + row["text"]).encode()  # a half character written as an escape has no UTF-8 form
    if not row["images"] or not all(isinstance(image, str) for image in row["images"]):
        raise ValueError("key 'images' must list one or more image paths")
    return row


def _check_tokens(row: dict[str, Any]) -> None:
    """Raise ValueError unless the text has one kind of image token, one for each image."""
    token = image_token_of(row["text"])
    found = row["text"].count(token) if token else 0
    if found != len(row["images"]):
        raise ValueError(f"text has {found} image token(s) for {len(row['images'])} image(s)")


def _fault(file: str) -> str:
    """Why a picture cannot be used, empty for a good one."""
    try:
        open_picture(file, is_checked_only=True)
    except PictureError as bad:
        return str(bad)
    return ""


def write_rows(path: Path, rows: Iterable[dict[str, Any]], folders: Folders, ledger: Ledger) -> None:
    """Write processed_data.jsonl whole or not at all: seed keys and copy marks, relative paths, the seed's token."""
    keys = dict.fromkeys([*ledger.columns, "caption_index", "copy_index"])
    with replaced(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for row in rows:
            audit = ledger.rows[row[ROW]]
            images = [folders.relative(image) for image in row["images"]]
            audit.image = " ".join(images)
            audit.image_state = "synthetic" if audit.image.startswith(f"{SYNTHETIC}/") else "seed"
            token = image_token_of(audit.text_before) or WORK_TOKEN
            text = row["text"].replace(WORK_TOKEN, token)
            audit.text_after = text
            shown_row = {key: row[key] for key in keys if row.get(key) is not None} | {"text": text, "images": images}
            file.write(json.dumps(shown_row, ensure_ascii=False) + "\n")
