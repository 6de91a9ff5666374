"""The files of a data set: JSON lines, JSON arrays, both also gzipped or as zstd, and Parquet; read row by row."""

import gzip
import io
import json
import re
import shlex
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from solution.runner.errors import UserError
from solution.runner.files import shown

Row = bytes | dict[str, Any] | Any  # a line of JSON, or a value that is parsed already
_ENDINGS = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".jsonl.zst", ".json.zst", ".parquet")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_BLOCK = 1 << 20
_SPACE = re.compile(r"\s*")
_NUMBER_LINES = r"""awk 'sub(/\{/, "{\"id\": " NR ", ")'"""
_NUMBER_ARRAY = (
    "import json, sys; rows = json.load(open(sys.argv[1])); "
    'new = [row | ({"id": n} if row.get("id") in (None, "") else {}) for n, row in enumerate(rows, 1)]; '
    'json.dump(new, open(sys.argv[2], "w"))'
)
_NUMBER_TABLE = (
    "import sys, pyarrow.parquet as p; rows = p.read_table(sys.argv[1]); "
    'p.write_table(rows.append_column("id", [[*range(1, len(rows) + 1)]]), sys.argv[2])'
)
# What a file is that is not read, by how it begins.
_FOREIGN = (
    (b"PK\x03\x04", "a zip archive: unpack it"),
    (b"BZh", "compressed by bzip2: unpack it with `bunzip2`"),
    (b"\xfd7zXZ", "compressed by xz: unpack it with `unxz`"),
    (b"7z\xbc\xaf", "a 7z archive: unpack it"),
    (b"\xff\xfe", "UTF-16 text: convert it with `iconv -f UTF-16 -t UTF-8`"),
    (b"\xfe\xff", "UTF-16 text: convert it with `iconv -f UTF-16 -t UTF-8`"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file: `git lfs pull` fetches it"),
    (b"<!doctype html", "an HTML page, such as a failed download leaves: fetch it again"),
    (b"<html", "an HTML page, such as a failed download leaves: fetch it again"),
    (b"<?xml", "an XML file"),
    (b"ARROW1", "an Arrow file: save it as Parquet or JSON lines"),
    (b"SQLite format 3", "an SQLite file"),
)


def files_in(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """The files of a folder that a data set may consist of, in the order of their names; ``suffixes`` chooses."""
    wanted = tuple(f".{suffix.lstrip('.')}" for suffix in suffixes) or _ENDINGS
    return sorted(
        file
        for file in folder.rglob("*")
        if file.is_file()
        and file.name.endswith(wanted)
        and file.name.endswith(_ENDINGS)
        and not file.name.startswith(".")
        and not file.name.endswith("run.json")  # records of the kit
    )


class Source(NamedTuple):
    """A row with its number in the data set, and its file and number there."""

    number: int
    row: Row
    file: Path
    line: int


@dataclass(frozen=True)
class DataSet:
    """The rows of one or more files, numbered through, or of a trial those that it takes.

    The image paths of several files start from ``root``, a folder that all of them share.
    """

    files: tuple[Path, ...]
    root: Path | None = None  # folder that image paths of several files start from in the result; None: as they are
    text_key: str = "text"
    image_key: str = "images"
    ratio: float = 1.0  # of the rows, evenly spread
    limit: int | None = None  # rows at most

    def __iter__(self) -> Iterator[Source]:
        """Every row that is taken; numbers go on from one file to the next."""
        taken = before = number = 0
        for file in self.files:
            before = number
            for line, row in rows_of(file):
                number = before + line
                if int(number * self.ratio) == int((number - 1) * self.ratio):
                    continue
                if taken == self.limit:
                    return
                taken += 1
                yield Source(number, row, file, line)

    @property
    def is_trial(self) -> bool:
        """Whether rows may be left out."""
        return self.ratio < 1 or self.limit is not None

    def prefix(self, file: Path) -> str:
        """What comes before the image paths of a file's rows in the result."""
        return "" if self.root in (None, file.parent) else f"{file.parent.relative_to(self.root).as_posix()}/"

    def place(self, source: Source) -> str:
        """`b.jsonl line 5: ` where there are several files."""
        return f"{source.file.name} line {source.line}: " if len(self.files) > 1 else ""

    def shown(self) -> str:
        """The files as a message names them."""
        return shown(self.files[0]) + (f" and {len(self.files) - 1} more" if len(self.files) > 1 else "")

    def renamed(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row with the contract's names of its text and images. Raises ValueError where it has those already."""
        for own, name in ((self.text_key, "text"), (self.image_key, "images")):
            if own != name and own in row:
                if name in row:
                    raise ValueError(f"has both '{own}' and '{name}': the result has one of them, as '{name}'")
                row = {name if key == own else key: value for key, value in row.items()}
        return row


def numbering(source: Source) -> str:
    """The command that gives numbers as ids to a file's rows that have none; empty where no line of shell does."""
    file, row = source.file, source.row
    with file.open("rb") as stream:
        begin = stream.read(4)
    is_line, is_table = isinstance(row, bytes), begin == b"PAR1"
    ending = "jsonl" if is_line else "parquet" if is_table else "json"
    new = file.with_name(f"{file.name.partition('.')[0]}.numbered.{ending}")
    old, new = (shlex.quote(shown(path)) for path in (file, new))
    if is_line and begin[:2] == b"\x1f\x8b":
        return f"zcat {old} | {_NUMBER_LINES} > {new}"
    if is_line and begin != b"\x28\xb5\x2f\xfd":  # zstd
        return f"{_NUMBER_LINES} {old} > {new}"
    if is_table and isinstance(row, dict) and "id" not in row:
        return f"python3 -c {shlex.quote(_NUMBER_TABLE)} {old} {new}"
    if begin.lstrip().startswith(b"["):
        return f"python3 -c {shlex.quote(_NUMBER_ARRAY)} {old} {new}"
    return ""


def rows_of(file: Path) -> Iterator[tuple[int, Row]]:
    """(number from 1, row) of a file: lines that are not blank, items of an array, rows of a table.

    Raises UserError for a file that cannot be read, with what it is.
    """
    try:
        with file.open("rb") as raw:
            begin = raw.read(1 << 12)
            _refuse_foreign(file, begin)
            if begin.startswith(b"PAR1"):
                yield from _table_rows(file)
                return
            raw.seek(0)
            with closing(_unpacked(raw, begin)) as stream:
                yield from _json_rows(file, io.BufferedReader(stream, _BLOCK))
    except (EOFError, zlib.error, gzip.BadGzipFile, pa.ArrowException) as error:
        raise UserError(f"data set {shown(file)} is damaged or cut off: {error}") from None
    except OSError as error:
        if error.errno is not None:
            raise UserError(f"data set {shown(file)} cannot be read: {error.strerror}") from None
        raise UserError(f"data set {shown(file)} is damaged or cut off: {error}") from None


def _refuse_foreign(file: Path, begin: bytes) -> None:
    """Raise UserError where a file is of a kind that is not read."""
    text = begin.lstrip().lower()
    for mark, what in _FOREIGN:
        if begin.startswith(mark) or (mark.isascii() and mark.startswith(b"<") and text.startswith(mark)):
            raise UserError(f"data set {shown(file)} is {what}")
    if begin[257:262] == b"ustar":
        raise UserError(f"data set {shown(file)} is a tar archive: unpack it")
    if file.name.endswith((".csv", ".tsv")):
        raise UserError(f"data set {shown(file)} is a table of texts: write it as JSON lines or Parquet")


def _unpacked(raw: IO[bytes], begin: bytes) -> Any:
    if begin.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=raw)
    if begin.startswith(b"\x28\xb5\x2f\xfd"):
        return pa.CompressedInputStream(raw, "zstd")
    return raw


def _json_rows(file: Path, stream: io.BufferedReader) -> Iterator[tuple[int, Row]]:
    begin = stream.peek(1 << 12)[: 1 << 12]
    if stream.peek(512)[257:262] == b"ustar":
        raise UserError(f"data set {shown(file)} is a compressed tar archive: unpack it")
    text = begin.removeprefix(_BYTE_ORDER_MARK).lstrip()
    if text.startswith(b"[") and text[1:].lstrip()[:1] in (b"{", b"]") and not _is_json(begin.split(b"\n")[0], file):
        yield from enumerate(_items(file, io.TextIOWrapper(stream, "utf-8-sig")), start=1)
        return
    for number, line in enumerate(stream, start=1):
        if line.removeprefix(_BYTE_ORDER_MARK).strip():
            yield number, line


def _is_json(line: bytes, file: Path) -> bool:
    """Whether the first line of JSON lines is a value of its own: a faulty row, not the start of an array."""
    if ".jsonl" not in file.name:
        return False
    try:
        json.loads(line.decode("utf-8-sig"))
    except ValueError:
        return False
    return True


def _items(file: Path, stream: io.TextIOWrapper) -> Iterator[Any]:
    """The items of a JSON array, one at a time. Raises UserError where it is no valid JSON."""
    decoder, number = json.JSONDecoder(), 0
    try:
        text = stream.read(_BLOCK)
        at = _after_space(text, 0) + 1  # after the bracket
        while True:
            at = _after_space(text, at)
            if text.startswith("]", at):
                return
            try:
                item, end = decoder.raw_decode(text, at)
                end = _after_space(text, end)
                if end == len(text):
                    raise ValueError("cut off")  # the item may go on in the next block
            except ValueError as error:
                more = stream.read(max(_BLOCK, len(text) - at))
                if not more:
                    raise UserError(
                        f"data set {shown(file)}, item {number + 1} of its array: not valid JSON ({str(error)[:200]})"
                    ) from None
                text, at = text[at:] + more, 0
                continue
            number += 1
            yield item
            if text[end] not in ",]":
                raise UserError(f"data set {shown(file)}, after item {number} of its array: expected , or ]")
            at = end + (text[end] == ",")
    except UnicodeDecodeError as error:
        raise UserError(
            f"data set {shown(file)}, after item {number} of its array: not UTF-8 ({error.reason})"
        ) from None
    except RecursionError:
        raise UserError(f"data set {shown(file)}, item {number + 1} of its array: nested too deeply") from None


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _table_rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    for batch in pq.ParquetFile(file).iter_batches(batch_size=1000):
        for row in batch.to_pylist():
            number += 1
            yield number, row
