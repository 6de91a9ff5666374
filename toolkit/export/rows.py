"""The rows that are exported, each with its line and its image, checked before anything is written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from toolkit.dataset.images import inspect_images
from toolkit.dataset.rows import BYTE_ORDER_MARK, ImageRoots, Row, parse_row, with_relative_images
from toolkit.errors import RowFault, UserError, advised
from toolkit.files import opened, parse_object, require_file

IMAGES_AT_ONCE = 10_000  # what is known of more would fill the memory


@dataclass(frozen=True)
class Entry:
    """One row of a `processed_data.jsonl`.

    Args:
        line: as it stands in the file, without its line end; absolute image paths are relative to the image root.
        row: what it says.
        image: its file.
    """

    line: bytes
    row: Row
    image: Path | None

    @property
    def image_bytes(self) -> bytes:
        """The image's file, as it is."""
        return self.image.read_bytes() if self.image else b""


def read_entries(file: Path, roots: ImageRoots) -> Iterator[Entry]:
    """Every row of a file; blank lines are none.

    Raises:
        UserError: the file cannot be read; a row is faulty or its image missing.
    """
    require_file(file, "run a recipe first (python solution/process.py)")
    with opened(file) as lines:
        for number, line in enumerate(lines, 1):
            line = line.removeprefix(BYTE_ORDER_MARK).rstrip(b"\n")
            if not line.strip():
                continue
            try:
                values = parse_object(line)
                written = json.dumps(values.get("images"))
                row = parse_row(with_relative_images(values, roots))
                if json.dumps(values.get("images")) != written:  # else nobody could read them elsewhere
                    line = json.dumps(values, ensure_ascii=False).encode()
                image = roots.resolve(row.image) if row.image else None
                if image and not image.is_file():
                    raise RowFault("missing_image", f"{image}: no such file")
            except ValueError as error:
                raise UserError(f"{file}:{number}: {error}; {_advice(file, roots)}") from None
            yield Entry(line, row, image)


def require_readable(file: Path, roots: ImageRoots, each_row: bool) -> tuple[int, dict[str, Path], int]:
    """Look at every row, and at every image once.

    Args:
        file: rows.
        roots: of their images.
        each_row: an image is written with every row that shows it, not once.

    Returns:
        how many rows there are; each image: name in the rows -> file; the bytes of rows and images.

    Raises:
        UserError: those of `read_entries`; an image cannot be decoded; there is no row.
    """
    rows = size = 0
    images: dict[str, Path] = {}
    for entry in read_entries(file, roots):
        rows += 1
        size += len(entry.line)
        if entry.image:
            size += entry.image.stat().st_size if each_row or str(entry.row.image) not in images else 0
            images[str(entry.row.image)] = entry.image
    if not rows:
        raise UserError(f"{file}: no row to export")
    waiting = iter(images.values())
    while some := list(islice(waiting, IMAGES_AT_ONCE)):
        for path, found in inspect_images(some, roots.seed).items():
            if isinstance(found, RowFault):
                raise UserError(f"{path}: {found}; {_advice(file, roots)}")
    return rows, images, size


def _advice(file: Path, roots: ImageRoots) -> str:
    return f"`{advised('check', file, '--images', roots.seed)}` names all faults"
