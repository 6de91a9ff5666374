"""Files that are either whole or absent, and the hashes that name their content."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from solution.processes import unfinished

ROOT = Path(__file__).resolve().parents[2]  # the repository: relative paths in a recipe start here


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A temporary name next to ``path`` to write to; it replaces ``path`` only when the block ends without an error."""
    with unfinished(path) as temporary:
        yield temporary
        temporary.replace(path)


def linked(source: Path, target: Path) -> None:
    """Give a file a second path, without a second copy where the disk allows it; a ``target`` that exists stays."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        with replaced(target) as temporary:
            shutil.copyfile(source, temporary)


def sha256_of(path: Path) -> str:
    """The file's sha256, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def stamp_of(folder: Path) -> str:
    """A hash over a model folder's file names, sizes and change times: quick for gigabytes, new after any download."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        state = file.stat()
        digest.update(f"{file.relative_to(folder)} {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def shown(path: Path) -> str:
    """The path as a user would type it: relative to the repository where it lies in it."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
