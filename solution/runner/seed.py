"""Rows in and out: the seed's jsonl with its images, and the contract's processed_data.jsonl.

`toolkit/dataset/rows.py` reads the same rows on its own; `tests/contract/` holds the two together, case by case.
"""

import json
import math
import os
import re
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, reduce
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from solution.operators.common.captions import IMAGE_TOKENS, image_token_of, split_text
from solution.operators.common.measures import Measure
from solution.operators.common.rows import MEASURES, PART, ROW
from solution.runner.audit import Ledger, RowAudit
from solution.runner.configuration.dataset_files import DataSet, Source, numbering
from solution.runner.configuration.keys import clipped, short
from solution.runner.data_juicer import STATS, NestedDataset, SpecialTokens
from solution.runner.errors import UserError
from solution.runner.files import linked, replaced, shown
from solution.runner.images.seed import SeedImages

SYNTHETIC = "synthetic_images"
EXTRA = "__extra__"  # the column with a row's keys besides CORE, as JSON: they come out as they went in
CORE = {"id": pa.string(), "text": pa.string(), "images": pa.list_(pa.string())}
_MOST_NESTED = 16  # levels of lists and objects in a column that operators see
_DRIVE_OR_SCHEME = re.compile(r"[A-Za-z]:|\w[\w+.-]*:/")


@dataclass(frozen=True)
class Folders:
    """Where images lie: synthetic ones next to the jsonl that names them, all others under the seed's image root.

    Those that a run makes are in `synthetic_images` of the unfinished run, until the result is written.
    """

    images: Path  # the seed's image root
    dataset: Path  # the input jsonl's folder
    output: Path  # the folder of processed_data.jsonl
    unfinished: Path  # the folder of the checkpoint

    @cached_property
    def _synthetic(self) -> list[tuple[Path, str]]:
        """The folders that may have synthetic images, each with how the path of one begins."""
        folders = (self.output, self.unfinished, self.dataset)
        return [(folder, os.path.join(folder, SYNTHETIC, "")) for folder in folders]

    def absolute(self, image: str) -> str:
        """The file of an image path of the input. Raises ValueError where a link leads out of the image root."""
        root = str(self.dataset if _is_synthetic(image) else self.images)
        file = os.path.join(root, image)
        folder, name = os.path.split(file)
        real = os.path.join(_real_folder(folder), name)
        if os.path.islink(real):
            real = os.path.realpath(real)
        if not real.startswith(os.path.join(_real_folder(root), "")):
            where = "outside" if os.path.exists(real) else "which is missing, and outside"
            raise ValueError(f"image {file} is a link to {real}, {where} {root}")
        return file

    def inside(self, image: str) -> str:
        """An image path of the input: of an absolute one in these folders, as Data-Juicer writes it, what is below.

        A path elsewhere stays as it is.
        """
        if os.path.isabs(image):
            path = os.path.normpath(image)
            for folder, part in ((self.dataset, SYNTHETIC), (self.images, "")):
                for start in (os.path.abspath(folder), _real_folder(str(folder))):
                    if path.startswith(os.path.join(start, part, "")):
                        return os.path.relpath(path, start)
        return image

    def relative(self, image: str) -> str:
        """The contract's path of an image; a synthetic one is linked (or copied) into the output folder.

        Raises UserError for an image outside the image root and the synthetic folder.
        """
        path = str(Path(image))
        for folder, start in self._synthetic:
            if path.startswith(start):
                name = path[len(start) - len(f"{SYNTHETIC}/") :]
                if folder != self.output:
                    linked(Path(path), self.output / name)
                return name
        start = os.path.join(self.images, "")
        if path.startswith(start):
            return path[len(start) :]
        raise UserError(
            f"image {image} lies neither under {self.images} nor in {self.output / SYNTHETIC}: write it there"
        )


@lru_cache(maxsize=4096)
def _real_folder(folder: str) -> str:
    """A folder without symbolic links; many files share it."""
    return os.path.realpath(folder)


def first_token(data: DataSet) -> str:
    """The image token of the first row that has one."""
    for source in data:
        row = source.row if isinstance(source.row, bytes) else str(source.row).encode(errors="replace")
        for token in IMAGE_TOKENS:
            if token.encode() in row:
                return token
    return IMAGE_TOKENS[0]


def read_rows(
    data: DataSet, folders: Folders, ledger: Ledger, measures: Mapping[str, Measure] | None = None
) -> Iterator[pa.Table]:
    """Read the seed and decode every image; rows that cannot be used are failed in the ledger.

    Yields the valid rows, part by part, as Data-Juicer sees them: absolute image paths, its image token (as set at the
    time) in all texts, the further keys that can be columns, and their ROW; with ``measures``, those of the images too.
    Raises UserError for a file without a valid row, and for the first bad row where the policy is stop.
    """
    started = time.monotonic()
    ledger.begin("read_and_check_images", 0)
    columns = CORE | _further_columns(data) | {ROW: pa.int64()} | ({MEASURES: pa.string()} if measures else {})
    sources = iter(data)
    has_rows = False
    with SeedImages(measures or {}) as images:
        while part := list(islice(sources, PART)):
            rows = _checked(part, data, folders, ledger, images)
            if rows:
                has_rows = True
                yield pa.table({key: _column([row.get(key) for row in rows], kind) for key, kind in columns.items()})
    if not ledger.steps[-1].rows_in:
        raise UserError(f"data set {data.shown()} has no rows")
    if not has_rows:
        first = ledger.failures()[0]
        raise UserError(
            f"data set {data.shown()} has no usable row; "
            f"the first one, {ledger.name_row(first['row'])}: {first['reason']}"
        )
    ledger.steps[-1].seconds = time.monotonic() - started


def _further_columns(data: DataSet) -> dict[str, pa.DataType]:
    """The columns besides CORE: EXTRA, and each key whose values have one type all through the file.

    Operators can read those by name. A key with values of several types, or named like a column of Data-Juicer's or
    ours, travels in EXTRA alone. Empty for a file without further keys.
    """
    types: dict[str, pa.DataType | None] = {}
    for source in data:
        try:
            row = _object(source, data)
        except ValueError:  # `_checked` says so
            continue
        for key in row.keys() - CORE:
            kind = types.get(key, pa.null())
            if kind is not None:
                try:
                    types[key] = _common(kind, _type_of(row[key], _MOST_NESTED))
                except ValueError:
                    types[key] = None
    counts = ("caption_index", "copy_index")  # operators write them, as whole numbers
    columns = {
        key: kind
        for key, kind in types.items()
        if kind not in (None, pa.null())
        and "struct<>" not in str(kind)  # an object that is always empty
        and not _is_reserved(key)
        and (key not in counts or kind == pa.int64())
    }
    return columns | ({EXTRA: pa.string()} if types else {})


def _is_reserved(key: str) -> bool:
    """Whether a column of this name is Data-Juicer's or ours."""
    return key.startswith("__")


def _type_of(value: Any, levels: int) -> pa.DataType:
    """The Arrow type of a JSON value. Raises ValueError where it has none."""
    if value is None:
        return pa.null()
    if isinstance(value, list | dict) and not levels:
        raise ValueError("nested too deeply")
    if isinstance(value, list):
        return pa.list_(reduce(_common, (_type_of(item, levels - 1) for item in value), pa.null()))
    if isinstance(value, dict):
        return pa.struct({key: _type_of(item, levels - 1) for key, item in value.items()})
    if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**63:
        raise ValueError("beyond 64 bits")
    return {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}[type(value)]


def _common(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """The type that holds the values of both. Raises ValueError where there is none."""
    if one == other or other == pa.null():
        return one
    if one == pa.null():
        return other
    if {one, other} == {pa.int64(), pa.float64()}:
        return pa.float64()
    if pa.types.is_list(one) and pa.types.is_list(other):
        return pa.list_(_common(one.value_type, other.value_type))
    if pa.types.is_struct(one) and pa.types.is_struct(other):
        fields = {field.name: field.type for field in one}
        for field in other:
            fields[field.name] = _common(fields.get(field.name, pa.null()), field.type)
        return pa.struct(fields)
    raise ValueError(f"{one} and {other}")


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
    """A column; without values where a whole number is too large for a column of fractions."""
    try:
        return pa.array(values, kind)
    except pa.ArrowInvalid:
        return pa.nulls(len(values), kind)


@dataclass
class _Entry:
    """A row of the file as far as it can be judged without its images."""

    source: Source
    audit: RowAudit
    row: dict[str, Any]
    files: list[str]  # its images
    fault: str  # why it cannot be used, empty for a good one


def _entry(source: Source, data: DataSet, folders: Folders, images: SeedImages) -> _Entry:
    entry = _Entry(source, RowAudit("", source.number, None, "", "", ""), {}, [], "")
    try:
        entry.row = row = _parsed(source, data, folders)
        entry.audit.id, entry.audit.text_before, entry.audit.text_after = row["id"], row["text"], row["text"]
        entry.audit.image = " ".join(row["images"])
        entry.audit.image_state = _state_of(entry.audit.image)
        _check_tokens(row)
        files = [folders.absolute(image) for image in row["images"]]
        originals = [image for image in row["images"] if not _is_synthetic(image)]
        if originals and (others := images.images_of(row["id"], originals)) != originals:
            raise ValueError(f"id {row['id']} already stands for another image, {' '.join(others)}")
        entry.files = files
    except ValueError as error:
        entry.fault = str(error)
    return entry


def _checked(
    sources: Sequence[Source], data: DataSet, folders: Folders, ledger: Ledger, images: SeedImages
) -> list[dict[str, Any]]:
    """The valid rows among those of the files; the ledger gets all of them, the others as failed."""
    rows, audits, faults = [], [], []
    entries = (_entry(source, data, folders, images) for source in sources)
    for entry, looks in images.looked_at((entry, entry.files) for entry in entries):
        row, number = entry.row, entry.source.number
        audits.append(entry.audit)
        if fault := entry.fault or next((look.fault for look in looks if look.fault), ""):
            faults.append((number, f"{data.place(entry.source)}{clipped(fault, 500)}"))
            if ledger.on_error == "stop":
                break
            continue
        ledger.columns += [key for key in row if key not in ledger.columns]
        extra = {key: value for key, value in row.items() if key not in CORE}
        text = row["text"].replace(image_token_of(row["text"]) or SpecialTokens.image, SpecialTokens.image)
        columns = {"text": text, "images": entry.files, ROW: number, EXTRA: _json(extra) if extra else ""}
        columns[MEASURES] = "".join(look.measures for look in looks)  # a row has one image at most
        rows.append(row | columns)
    ledger.steps[-1].rows_in += len(audits)
    ledger.add(audits)
    for number, fault in faults:
        ledger.fail(number, fault)
    return rows


def _object(source: Source, data: DataSet) -> dict[str, Any]:
    """A row's JSON object, with the contract's names of text and images. Raises ValueError saying what is wrong."""
    row = source.row
    try:
        if not isinstance(row, bytes):
            _json(row).encode()  # a table's bytes and dates have no JSON form, half a character no UTF-8
        elif b"\\u" in row:
            row = json.loads(row.decode("utf-8-sig"))
            _json(row).encode()
        else:
            row = json.loads(row.decode("utf-8-sig"))
    except RecursionError:
        raise ValueError("not valid JSON in UTF-8 (nested too deeply)") from None
    except TypeError as error:
        raise ValueError(f"not valid JSON in UTF-8 ({error})") from None
    except ValueError as error:  # JSON, Unicode, or a number of more than 4,300 digits
        what = "a number of more than 4,300 digits" if "digits" in str(error) else error
        raise ValueError(f"not valid JSON in UTF-8 ({what})") from None
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    return data.renamed(row)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _parsed(source: Source, data: DataSet, folders: Folders) -> dict[str, Any]:
    """One row of the contract: its id as text, each image once. Raises ValueError saying what is wrong with it."""
    row = _object(source, data)
    identifier, images = row.get("id"), row.get("images")
    if identifier in (None, "") or type(identifier) not in (str, int):
        command = numbering(source) if identifier in (None, "") else ""
        advice = f"; where rows have none, `{command}` numbers them" if command else ""
        raise ValueError(f"key 'id' is missing or neither text nor a whole number{advice}")
    if not isinstance(row.get("text"), str):
        advice = ""
        if isinstance(row.get("conversations") or row.get("messages"), list):
            file = shlex.quote(shown(source.file))
            advice = f"; `python -m toolkit convert llava-to-dj {file} --out SEED.jsonl` makes a seed of LLaVA's format"
        raise ValueError(f"key 'text' is missing or not a string{advice}")
    if images is None:  # as tools write a text-only row among others
        images = []
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise ValueError("key 'images' is not a list of image paths")
    start = data.prefix(source.file)
    images = [folders.inside(image) for image in images]
    images = list(dict.fromkeys(start + _normal(image) for image in images))
    if len(images) > 1:
        raise ValueError(f"{len(images)} different images in a row, {' '.join(images)}: write a row for each")
    return row | {"id": str(identifier), "images": images}


def _normal(image: str) -> str:
    """An image path in its normal form. Raises ValueError for one that is not the relative path of a file."""
    path = PurePosixPath(image)
    outside = image.startswith(("/", "\\")) or ".." in path.parts or _DRIVE_OR_SCHEME.match(image)
    if not path.parts or outside or "\0" in image:
        raise ValueError(f"image path {short(image)} must be relative and without ..")
    return path.as_posix()


def _check_tokens(row: dict[str, Any]) -> None:
    """Raise ValueError unless the text is one caption with one kind of image token, one for each image."""
    token = image_token_of(row["text"])
    found = row["text"].count(token) if token else 0
    if found != len(row["images"]):
        raise ValueError(f"text has {found} image token(s) for {len(row['images'])} image(s)")
    split_text(row["text"])


def write_rows(path: Path, dataset: NestedDataset, folders: Folders, ledger: Ledger, with_stats: bool = False) -> None:
    """Write processed_data.jsonl whole or not at all: seed keys and copy marks, relative paths, the seed's token.

    ``with_stats`` adds the scores of the filters, under Data-Juicer's key.
    """
    keys = dict.fromkeys([*ledger.columns, "caption_index", "copy_index"])
    order = {key: index for index, key in enumerate(keys)}
    with replaced(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for part in dataset.iter(PART):
            results = []
            columns = [key for key in keys if key in part and key not in CORE and not _is_reserved(key)]
            extras = part.get(EXTRA) or [""] * len(part[ROW])
            for index, number in enumerate(part[ROW]):
                images = [folders.relative(image) for image in part["images"][index]]
                token = image_token_of(ledger.find(number).text_before) or SpecialTokens.image
                text = part["text"][index].replace(SpecialTokens.image, token)
                image = " ".join(images)
                results.append((number, text, image, _state_of(image)))
                row = {"id": part["id"][index], "text": text, "images": images}
                further = json.loads(extras[index]) if extras[index] else {}
                for key in columns:
                    value = part[key][index]
                    if value is not None and not _is_same(further.get(key), value):  # written by an operator
                        further[key] = value
                row |= further
                row = {key: row[key] for key in sorted(row, key=order.__getitem__)}
                if with_stats and STATS in part:
                    row[STATS] = {stat: score for stat, score in part[STATS][index].items() if score is not None}
                file.write(_json(row) + "\n")
            ledger.result(results)


def _is_same(value: Any, seen: Any) -> bool:
    """Whether a column's value is the row's own as the column's type showed it: fractions for whole numbers, None for
    what an object lacks."""
    if isinstance(value, dict) and isinstance(seen, dict):
        return all(_is_same(value.get(key), seen.get(key)) for key in value.keys() | seen.keys())
    if isinstance(value, list) and isinstance(seen, list):
        return len(value) == len(seen) and all(map(_is_same, value, seen))
    if isinstance(value, float) and isinstance(seen, float) and math.isnan(value):
        return math.isnan(seen)
    return value == seen


def _is_synthetic(image: str) -> bool:
    return image.startswith(f"{SYNTHETIC}/")


def _state_of(image: str) -> str:
    """A row's image_state in the audit, by the paths of its images."""
    return "synthetic" if _is_synthetic(image) else "seed"
