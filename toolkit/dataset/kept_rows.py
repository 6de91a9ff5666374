"""What a run keeps of the rows it is trained on, beside its training file: other recipes may overwrite their folder.

| file, for `pretrain_data.json` | content |
|---|---|
| `pretrain_data.rows.jsonl` | `processed_data.jsonl`, byte for byte |
| `pretrain_data.images.sha256` | its synthetic images, as `sha256sum` lists them |
| `pretrain_data.run.json` | `prepare`'s record, with the hashes of both |
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from toolkit.dataset.rows import Line, is_synthetic, normal_image_path
from toolkit.errors import RowFault
from toolkit.files import sha256_of

ROWS_SUFFIX, IMAGES_SUFFIX, RECORD_SUFFIX = ".rows.jsonl", ".images.sha256", ".run.json"


def synthetic_images(lines: Iterable[Line]) -> list[str]:
    """Relative paths of the synthetic images that lines name, sorted; faulty lines name none."""
    found = set()
    for line in lines:
        images = None if isinstance(line, RowFault) else line.get("images")
        for image in images if isinstance(images, list) else []:
            try:
                name = normal_image_path(image)
            except (RowFault, AttributeError, TypeError):
                continue
            if is_synthetic(name):
                found.add(name)
    return sorted(found)


def image_hashes(lines: Iterable[Line], folder: Path) -> str:
    """`sha256  path` for each synthetic image that is there, a line each.

    Args:
        lines: of `processed_data.jsonl`.
        folder: that holds `synthetic_images/`.
    """
    names = [name for name in synthetic_images(lines) if (folder / name).is_file()]
    return "".join(f"{sha256_of(folder / name)}  {name}\n" for name in names)


def parse_image_hashes(text: str) -> dict[str, str]:
    """SHA-256 by path, of what `image_hashes` wrote."""
    return {name: sha256 for sha256, _, name in (line.partition("  ") for line in text.splitlines())}
