"""Image values from the file that `python -m toolkit judge` makes of a seed, by id, caption and image content."""

import hashlib
import json
import shlex
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .images import ImageError
from .loader import model_folder
from .reasons import no_image_value
from .score_store import image_digest

_METADATA = b"judge"
_COLUMNS = ["id", "caption", "image", "value", "fault"]


class ImageValues:
    """Values by row, in one file or in one for each of several seeds.

    A file is read when the first row is looked up, in every process that looks one up; in memory a row takes 24 bytes.
    Raises ValueError for a file that is missing or none of a judge's.
    """

    def __init__(self, files: Sequence[str]) -> None:
        self.files = [_File(file) for file in files]
        if not files:
            raise ValueError("values: expected at least one file of `python -m toolkit judge`")

    def of(self, identifier: str, caption: str, images: Sequence[str] | None) -> tuple[float, float]:
        """(value, share of its file's judged rows with a lower one). Raises ImageError where there is none: why not."""
        if not images or len(images) != 1:
            raise ImageError(no_image_value(f"the row has {len(images or ())} images, expected one"))
        words = hashlib.blake2b(caption.encode(), digest_size=16).digest()
        key = _key(identifier, words, image_digest(images[0]))
        if found := next(filter(None, (file.value(key) for file in self.files)), None):
            return found
        faults = filter(None, (file.faults.get((identifier, words)) for file in self.files))
        raise ImageError(no_image_value(next(faults, self.files[0].absent())))


class _File:
    """One file."""

    def __init__(self, file: str) -> None:
        self.file = model_folder(file)
        self.about = about_values(Path(self.file))

    def __reduce__(self) -> tuple:
        """Another process reads the file itself."""
        return _File, (self.file,)

    def value(self, key: bytes) -> tuple[float, float] | None:
        """(value, share of the judged rows with a lower one) of a row; None where it is not in the file."""
        keys, values, ranked = self._judged
        position = int(np.searchsorted(keys, key))
        if position == len(keys) or keys[position] != key:
            return None
        value = float(values[position])
        return value, int(np.searchsorted(ranked, value)) / len(ranked)

    def absent(self) -> str:
        """What helps where a row is not in the file."""
        seed = self.about["seed"]["path"]
        command = shlex.join(["python", "-m", "toolkit", "judge", "ROWS.jsonl", "--preset", str(self.about["preset"])])
        return (
            f"{self.file} (made of {seed}) lacks this id with this caption and image; operators that change them "
            f"belong after image_value_filter; for other rows than {seed}, judge those: "
            f"`{command} --out {shlex.quote(str(self.file))} --overwrite`"
        )

    @cached_property
    def _table(self) -> pa.Table:
        return pq.read_table(self.file, columns=_COLUMNS)

    @cached_property
    def _judged(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sorted keys (S16) with their values, and the values in order."""
        table = self._table.filter(pc.is_valid(self._table["value"]))
        columns = (table[name].to_pylist() for name in ("id", "caption", "image"))
        keys, first = np.unique(np.array([_key(*row) for row in zip(*columns, strict=True)], "S16"), return_index=True)
        values = table["value"].to_numpy()
        return keys, values[first], np.sort(values)

    @cached_property
    def faults(self) -> dict[tuple[str, bytes], str]:
        """Why a row has no value, by id and caption."""
        table = self._table.filter(pc.is_null(self._table["value"]))
        return {(row["id"], row["caption"]): row["fault"] for row in table.to_pylist()}


def about_values(file: Path) -> dict[str, Any]:
    """What the file says of itself: `seed` and `model` (path and id), `preset`, counts.

    Raises:
        ValueError: it is missing, or no file of `python -m toolkit judge`.
    """
    command = f"python -m toolkit judge SEED.jsonl --preset P --out {shlex.quote(str(file))}"
    if not file.is_file():
        raise ValueError(f"{file} is missing; `{command}` makes it")
    try:
        about = json.loads((pq.read_schema(file).metadata or {}).get(_METADATA, b"null"))
    except (pa.ArrowInvalid, ValueError):
        about = None
    if not isinstance(about, dict) or about.get("version") != 1:
        raise ValueError(f"{file} is no file of `python -m toolkit judge`; `{command} --overwrite` makes it")
    return about


def _key(identifier: str, caption: bytes, image: bytes) -> bytes:
    """16 bytes that name a row; none ends with a zero byte, which numpy would not see."""
    digest = hashlib.blake2b(identifier.encode(), digest_size=15)
    digest.update(caption)
    digest.update(image)
    return digest.digest() + b"\1"
