"""Reading and writing of files: nothing is half written, and every input can be named by its hash."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import importlib.metadata
import json
import re
import shutil
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from toolkit.errors import UserError
from toolkit.processes import is_device, unfinished

REPOSITORY = Path(__file__).resolve().parent.parent
# An escape that may be half of an emoji, as text cut at a byte count has it: it can be neither written nor tokenised.
_HALF_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")
GZIP = b"\x1f\x8b"
RECORDED_PACKAGES = ("torch", "transformers", "deepspeed", "py-data-juicer", "tokenizers", "numpy", "pillow")


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def display_path(path: Path) -> str:
    """A path as records keep it: relative to the workspace where it lies inside."""
    path = path.resolve()
    return str(path.relative_to(REPOSITORY)) if path.is_relative_to(REPOSITORY) else str(path)


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[TextIO]:
    """Open a UTF-8 text file that appears under `path` only when the block ends without an error."""
    with unfinished(path) as temporary:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            yield file
        temporary.replace(path)


def copy_file(source: Path, target: Path) -> None:
    """Copy a file's bytes; they appear under `target` when they are whole."""
    with unfinished(target) as temporary:
        shutil.copyfile(source, temporary)
        temporary.replace(target)


def write_json(path: Path, value: Any) -> None:
    """Write one JSON document atomically, indented, non-ASCII kept as it is."""
    with atomic_write(path) as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")


def write_jsonl(path: Path, rows: Iterable[dict]) -> None:
    """Write one JSON object per line, atomically."""
    with atomic_write(path) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def require_file(path: Path, advice: str = "") -> None:
    """Refuse what is no file before it is opened: opening a named pipe may wait for ever.

    Raises:
        UserError: nothing is there, with `advice` on how to get it; or it is a folder, pipe, socket or device.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file" + f"; {advice}" * bool(advice))
    if not path.is_file():
        raise UserError(f"{path}: no regular file; write the content of a pipe or an archive to a file first")


def require_output(path: Path, *inputs: Path) -> None:
    """Refuse a path that a command cannot or must not write its result to, before it works for it.

    Args:
        path: of a file.
        inputs: what the command reads.

    Raises:
        UserError: it is a folder, a device or a pipe, lies in a file, or is one of the inputs.
    """
    if path.is_dir():
        raise UserError(f"{path}: a folder; name the file to write")
    if is_device(path):
        raise UserError(f"{path}: a device or a pipe; name a file to write")
    if not next(folder for folder in path.absolute().parents if folder.exists()).is_dir():
        raise UserError(f"{path}: lies in a file, not in a folder")
    for file in inputs:
        if file.exists() and path.exists() and file.samefile(path):
            raise UserError(f"{path}: is read; choose another file to write")


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO | gzip.GzipFile]:
    """The bytes of a file; of a gzip file, known by its first bytes, what it holds.

    Raises:
        UserError: the gzip file is damaged or cut short.
    """
    with path.open("rb") as file:
        packed = file.read(len(GZIP)) == GZIP
        file.seek(0)
        if not packed:
            yield file
            return
        try:
            with gzip.GzipFile(fileobj=file) as content:
                yield content
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise UserError(f"{path}: a damaged gzip file ({error})") from None


def read_json(path: Path) -> Any:
    """Read a JSON document.

    Raises:
        UserError: those of `require_file`; the file is not JSON, or holds half a character.
    """
    require_file(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        value = json.loads(text)
        if _HALF_CHARACTER.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{path}: not Unicode text ({error.reason}: {error.object[error.start]!a})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a JSON document ({error})") from None
    return value


def read_jsonl(path: Path) -> Iterator[tuple[int, dict]]:
    """Yield (line number from 1, object) for every line that is not blank.

    Raises:
        UserError: those of `require_file`; a line is not a JSON object; names the line.
    """
    require_file(path)
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = parse_object(line)
            except ValueError as error:
                raise UserError(f"{path}:{number}: {error}") from None
            yield number, row


def parse_object(line: bytes) -> dict:
    """The JSON object a line holds; a byte order mark in front is left out.

    Raises:
        ValueError: the line is not JSON, no Unicode, or not an object; the text says which.
    """
    try:
        # Decoded here: json would guess the encoding of bytes, and let encoded halves of a character pass.
        value = json.loads(line.decode("utf-8-sig"))
        if b"\\u" in line:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"not Unicode text ({error.reason})") from None
    except RecursionError:
        raise ValueError("not JSON (nested too deeply)") from None
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError, or a number of more than 4,300 digits
        raise ValueError(f"not JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, found {type(value).__name__}")
    return value


def package_versions() -> dict[str, str]:
    """Versions of the packages that decide a run's numbers, for its record; absent packages are left out."""
    versions = {}
    for name in RECORDED_PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions
