"""The fixed part's hash: what a run's logs begin with, so that a changed referee shows."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from toolkit.files import REPOSITORY

TOOLKIT = REPOSITORY / "toolkit"
# Code, scripts and presets are fixed; so are models and data, but those are known by their own hashes.
CODE_SUFFIXES = (".py", ".sh", ".yaml")
DATA_FOLDERS = ("training/model_zoo", "training/data", "eval/textvqa", "eval/mmbench", "eval/mini")
LOG_LINE = "fixed part sha256: "

BANNER_WIDTH = 76
EDITABLE_BEGINS = f"{' Editable Part Begins ':#^{BANNER_WIDTH}}"
EDITABLE_ENDS = f"{' Editable Part Ends ':#^{BANNER_WIDTH}}"


def fixed_part_sha256(toolkit: Path = TOOLKIT) -> str:
    """Hex SHA-256 over the code of `toolkit/`, the editable lines of its training scripts left out.

    The files are found by their kind and place, not by asking git: a downloaded archive and a checkout agree, and a
    file slipped in beside the tracked ones counts as a change.
    """
    digest = hashlib.sha256()
    for path in sorted(_code_files(toolkit)):
        content = path.read_bytes()
        if path.suffix == ".sh":
            content = without_editable_lines(content)
        name = path.relative_to(toolkit).as_posix().encode()
        digest.update(b"%d %s %d\n" % (len(name), name, len(content)) + content)
    return digest.hexdigest()


def without_editable_lines(script: bytes) -> bytes:
    """A script without the lines between its two banners; the banners stay."""
    kept, editable = [], False
    for line in script.splitlines(keepends=True):
        text = line.strip()
        if text == EDITABLE_ENDS.encode():
            editable = False
        if not editable:
            kept.append(line)
        if text == EDITABLE_BEGINS.encode():
            editable = True
    return b"".join(kept)


def _code_files(toolkit: Path) -> Iterator[Path]:
    left_out = {toolkit / folder for folder in DATA_FOLDERS}
    for folder, subfolders, names in os.walk(toolkit):
        here = Path(folder)
        subfolders[:] = [name for name in subfolders if here / name not in left_out and name != "__pycache__"]
        yield from (here / name for name in names if name.endswith(CODE_SUFFIXES))
