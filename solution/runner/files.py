"""Files that are either whole or absent, and the hashes that name their content."""

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
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
    return stamp_of_files(folder, (path.relative_to(folder) for path in folder.rglob("*") if path.is_file()))


def stamp_of_files(folder: Path, names: Iterable[str | Path]) -> str:
    """The same over files of a folder, by their paths in it; a file that is missing counts as such."""
    digest = hashlib.sha256()
    for name in sorted(map(str, names), key=lambda name: name.split("/")):  # as a Path is, at a tenth of the time
        try:
            state = os.stat(os.path.join(folder, name))
        except OSError:
            digest.update(f"{name}\n".encode(errors="surrogateescape"))
        else:
            digest.update(f"{name} {state.st_size} {state.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def shown(path: Path) -> str:
    """The path as a user would type it: relative to the repository where it lies in it."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
