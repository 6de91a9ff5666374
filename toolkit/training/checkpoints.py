"""Checkpoints of a stage: written under another name, renamed when whole, verified before an older one goes.

checkpoint-200/          weights, optimizer, scheduler, random states, losses not logged yet, trainer_state.json
    files.json           size and hash of each, written last; folders without it are not the kit's and stay
.unfinished_checkpoint/  what is being written; the next run removes it
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from toolkit.errors import UserError
from toolkit.files import read_json, sha256_of, write_json
from toolkit.training.plan import HASHED_BYTES

FILES = "files.json"
UNFINISHED = ".unfinished_checkpoint"
SAMPLE_BYTES = 1 << 20


def publish(written: Path, folder: Path, limit: int) -> None:
    """Make what was written a checkpoint of a stage, then drop the oldest beyond the limit.

    Args:
        written: the finished `checkpoint-N`, below the stage's UNFINISHED.
        folder: of the stage.
        limit: checkpoints kept.

    Raises:
        UserError: it cannot be read back as written.
    """
    target = folder / written.name
    write_json(written / FILES, {name: _content(written / name) for name in _names(written)})
    written.rename(target)
    if fault := fault_of(target):
        raise UserError(f"{target}: {fault} as soon as it was written; check the disk, then run the same command again")
    found = _checkpoints(folder)
    for step in sorted(found)[:-limit]:
        shutil.rmtree(found[step])


def last_checkpoint(folder: Path, say: Callable[[str], None]) -> Path | None:
    """The newest whole checkpoint; damaged ones are removed, each with a line, and so is an unfinished one.

    Raises:
        UserError: a folder that the kit did not make has a checkpoint's name.
    """
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
    found = _checkpoints(folder)
    for step in sorted(found, reverse=True):
        fault = fault_of(found[step])
        if not fault:
            return found[step]
        shutil.rmtree(found[step])
        older = [other for other in found if other < step]
        rest = f"the one of step {max(older)} is tried" if older else "the stage starts from the beginning"
        say(f"warning: {found[step]} was damaged ({fault}) and is removed; {rest}")
    return None


def remove_checkpoints(folder: Path) -> None:
    """Remove a finished stage's checkpoints: its weights and its record are all that is needed."""
    for path in _checkpoints(folder).values():
        shutil.rmtree(path)
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)


def fault_of(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint's files, or None."""
    try:
        expected = read_json(checkpoint / FILES)
    except UserError:
        expected = None
    if not isinstance(expected, dict) or not expected:
        return f"{FILES} is damaged"
    for name, content in expected.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if _content(path) != content:
            return f"{name} is not as it was written"
    return None


def _checkpoints(folder: Path) -> dict[int, Path]:
    """The kit's own checkpoints, by step."""
    found = {}
    for path in folder.glob("checkpoint-*"):
        if match := re.fullmatch(r"checkpoint-(\d+)", path.name):
            if not (path / FILES).is_file():
                raise UserError(f"{path}: no checkpoint of this kit ({FILES} is missing), but named as one; move it")
            found[int(match[1])] = path
    return found


def _names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _content(path: Path) -> str:
    """Size and SHA-256; of a file of many gigabytes, which would take a minute, of three parts."""
    size = path.stat().st_size
    if size <= HASHED_BYTES:
        return f"{size} {sha256_of(path)}"
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for start in (0, size // 2, size - SAMPLE_BYTES):
            file.seek(start)
            digest.update(file.read(SAMPLE_BYTES))
    return f"{size} {digest.hexdigest()}"
