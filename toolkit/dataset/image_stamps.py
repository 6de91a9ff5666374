"""Which images a run was made of, so that one that changes under its name is noticed."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

SAMPLE_BYTES = 16 << 10


def stamp_of(images: Mapping[str, Path]) -> dict[str, str]:
    """Two hashes over a run's images: `times`, quick, and `content`, which copies of the files share.

    Args:
        images: name in the rows -> file.
    """
    return {"times": _times(images), "content": _content(images)}


def is_same(images: Mapping[str, Path], stamp: Mapping[str, Any]) -> bool:
    """Whether the images are those of the stamp; only where sizes or times differ are the files read."""
    return _times(images) == stamp["times"] or _content(images) == stamp["content"]


def changed_since(images: Mapping[str, Path], moment: float) -> list[str]:
    """Names of the images that are missing or were written after a moment, in seconds since 1970."""
    return [name for name, path in images.items() if not path.is_file() or path.stat().st_mtime > moment]


def _times(images: Mapping[str, Path]) -> str:
    digest = hashlib.sha256()
    for name in sorted(images):
        try:
            status = os.stat(images[name])
        except OSError:
            digest.update(f"{name}\0missing\n".encode())
        else:
            digest.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _content(images: Mapping[str, Path]) -> str:
    names = sorted(images)
    digest = hashlib.sha256()
    # Threads suffice: reading releases the interpreter lock.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for name, checksum in zip(names, pool.map(_checksum, (images[name] for name in names)), strict=True):
            digest.update(f"{name}\0{checksum}\n".encode())
    return digest.hexdigest()


def _checksum(path: Path) -> str | None:
    """Size, and CRC-32 of a file's first and last bytes, as reading 90 GB again takes a while; None if unreadable."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - SAMPLE_BYTES))
            tail = file.read()
            file.seek(0)
            return f"{size} {zlib.crc32(file.read(SAMPLE_BYTES) + tail)}"
    except OSError:
        return None
