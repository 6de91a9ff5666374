"""Model scores kept on disk, so that no model scores the same pair twice.

One folder per model, its values in Parquet parts. They serve a changed threshold, an added filter or another recipe
with the same model, and a run that was killed in the middle of an operator. How an operator uses it:

    store = ScoreStore(score_folder(), f"clip cosine 1 {revision_of(model)} fp32", float)
    keys = [score_key(paths, caption) for ...]      # raises ImageError if an image cannot be read
    values = store.get(keys)                        # None where nothing is known
    store.add(missing_keys, new_values)             # kept on disk when the call returns

`values_per_row` does all of this for a batch of rows. Only values that do not depend on the batch, the process or the
restart belong here: the first one stays.
"""

import hashlib
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .faults import machine_fault
from .images import ImageError, stat_image
from .places import CHECKOUT
from .reasons import NO_IMAGE

_KEY = pa.binary(16)
_MOST_PARTS = 64  # this many small parts are merged into one
_MOST_RECENT = 32_768  # this many values stay in a dict before they are sorted in
_SAMPLE = 1 << 16  # bytes
_BLOCK = 256  # rows between two writes to the store: what a killed run computes again

V = TypeVar("V", float, str)


def score_folder() -> Path:
    """Where scores live: $SCORE_STORE (set by `process.py`: `scores` next to the audit), else `output/scores`.

    Without a checkout: in Data-Juicer's cache.
    """
    if given := os.environ.get("SCORE_STORE"):
        return Path(given)
    if CHECKOUT:
        return CHECKOUT / "output" / "scores"
    return Path(os.environ.get("DATA_JUICER_CACHE_HOME") or "~/.cache/data_juicer").expanduser() / "better_synth_scores"


def revision_of(model: str) -> str:
    """A name for a model's content: a hash over its folder's file names, sizes and samples of the content.

    Up to 16 samples of 64 kB per file: quick for gigabytes, the same for a copy, another after finetuning. A model that
    is not a folder is named by the text itself (a hub name, with its revision if the user wrote one).
    """
    folder = Path(model)
    if not folder.is_dir():
        return model
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder)} {size}\n".encode())
        with path.open("rb") as file:
            for start in sorted({max(0, (size - _SAMPLE) * part // 15) for part in range(16)}):
                file.seek(start)
                digest.update(file.read(_SAMPLE))
    return digest.hexdigest()


def score_key(images: Sequence[str], *texts: str) -> bytes:
    """16 bytes that name a row's images, by content, and texts. Raises ImageError for an unreadable file."""
    digest = hashlib.blake2b(digest_size=16)
    for image in images:
        digest.update(image_digest(image))
    for text in texts:
        digest.update(hashlib.blake2b(text.encode(), digest_size=16).digest())
    return digest.digest()


def image_digest(path: str) -> bytes:
    """16 bytes that name an image's file content. Raises ImageError for an unreadable file."""
    try:
        state = stat_image(path)
        return _digest(path, state.st_size, state.st_mtime_ns)
    except OSError as error:
        if machine_fault(error):
            raise
        raise ImageError(f"image {path} cannot be read ({error})") from error


@lru_cache(maxsize=8192)
def _digest(path: str, size: int, changed: int) -> bytes:
    """The file's hash; size and modification time tell a new file of the same name apart."""
    with open(path, "rb") as file:
        return hashlib.blake2b(file.read(), digest_size=16).digest()


class ScoreStore(Generic[V]):
    """Key (16 bytes) -> number or text, for one model; several processes may read and add at once.

    Every `add` writes a part of its own and renames it, so a killed process loses at most the current call. Many
    small parts are merged into one as they pile up. In memory a number takes 24 bytes, however many parts there are.
    """

    def __init__(self, folder: Path, model_key: str, kind: type[V]) -> None:
        """``model_key`` names model, revision, preprocessing and precision; ``kind`` is float or str."""
        self._arguments = (folder, model_key, kind)
        self._folder = folder / hashlib.sha256(model_key.encode()).hexdigest()[:24]
        self._model_key = model_key
        self._type = pa.float64() if kind is float else pa.string()
        self._keys: np.ndarray | None = None  # sorted, S16; None until first used
        self._values: pa.Array = pa.array([], self._type)  # in the order of the keys
        self._recent: dict[bytes, V] = {}
        self._own_parts: list[Path] = []

    def __reduce__(self) -> tuple:
        """Another process reads the folder itself instead of being sent this one's values."""
        return ScoreStore, self._arguments

    def is_empty(self) -> bool:
        """Whether nothing is on disk."""
        return not any(self._folder.glob("part-*.parquet"))

    def get(self, keys: Sequence[bytes]) -> list[V | None]:
        """The value of each key, None for an unknown one. Raises ValueError for a damaged part."""
        known = self._known_keys()
        found: list[V | None] = [None] * len(keys)
        if len(known) and keys:
            wanted = np.array(keys, dtype="S16")
            indices = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
            hits = np.flatnonzero(known[indices] == wanted)
            for hit, value in zip(hits.tolist(), self._values.take(pa.array(indices[hits])).to_pylist(), strict=True):
                found[hit] = value
        return [self._recent.get(key, value) for key, value in zip(keys, found, strict=True)]

    def add(self, keys: Sequence[bytes], values: Sequence[V]) -> None:
        """Keep new values, on disk and for `get`. Raises ValueError for a damaged part."""
        if not keys:
            return
        known = self._known_keys()
        self._own_parts.append(self._write(pa.array(keys, _KEY), pa.array(values, self._type)))
        self._recent.update(zip(keys, values, strict=True))
        if len(self._own_parts) >= _MOST_PARTS:
            self._merge(self._own_parts)
            self._own_parts = []
        if len(self._recent) >= _MOST_RECENT:
            recent = pa.table({"key": pa.array(list(self._recent), _KEY), "value": list(self._recent.values())})
            sorted_keys = pa.FixedSizeBinaryArray.from_buffers(_KEY, len(known), [None, pa.py_buffer(known)])
            older = pa.table([sorted_keys, self._values], schema=self._schema())
            self._sort_in(pa.concat_tables([older, recent.cast(self._schema())]))
            self._recent = {}

    def _schema(self) -> pa.Schema:
        return pa.schema({"key": _KEY, "value": self._type})

    def _sort_in(self, table: pa.Table) -> np.ndarray:
        """Take the table's rows as what is known; of one key the first row counts. Returns the sorted keys, S16."""
        keys = np.frombuffer(b"".join(table["key"].to_pylist()), dtype="S16")
        self._keys, first = np.unique(keys, return_index=True)
        self._values = pa.concat_arrays(table["value"].take(pa.array(first)).chunks or [pa.array([], self._type)])
        return self._keys

    def _known_keys(self) -> np.ndarray:
        """The sorted keys, S16; the first call reads all parts, and merges them where they are many."""
        if self._keys is not None:
            return self._keys
        while True:
            parts = sorted(self._folder.glob("part-*.parquet"))
            try:
                tables = [self._read(part) for part in parts]
                break
            except FileNotFoundError:  # another process has just merged it: look again
                continue
        keys = self._sort_in(pa.concat_tables([self._schema().empty_table(), *tables]))
        if len(parts) > _MOST_PARTS:
            self._merge(parts)
        return keys

    def _read(self, part: Path) -> pa.Table:
        try:
            return pq.read_table(part, schema=self._schema())
        except (pa.ArrowInvalid, KeyError) as error:
            raise ValueError(f"score file {part} is damaged ({error}); remove it and run again") from error

    def _merge(self, parts: Iterable[Path]) -> None:
        """Write the parts as one, then remove them; killed between the two, rows occur twice, which does no harm."""
        try:
            table = pa.concat_tables([self._read(part) for part in parts])
        except FileNotFoundError:  # another process merges them at this moment
            return
        self._write(table["key"], table["value"])
        for part in parts:
            part.unlink(missing_ok=True)

    def _write(self, keys: pa.Array | pa.ChunkedArray, values: pa.Array | pa.ChunkedArray) -> Path:
        """One more part: whole or absent. `model.txt` says in words whose scores the folder holds."""
        name = uuid.uuid4().hex
        part, temporary = self._folder / f"part-{name}.parquet", self._folder / f".{name}.tmp"
        if not self._folder.is_dir():
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / "model.txt").write_text(f"{self._model_key}\n")
        pq.write_table(pa.table([keys, values], schema=self._schema()), temporary, compression="none")
        temporary.replace(part)
        return part


def values_per_row(
    store: ScoreStore[V],
    images: Sequence[Sequence[str] | None],
    texts: Sequence[Sequence[str]],
    compute: Callable[[list[int], list[str]], Iterator[dict[int, V]]],
) -> tuple[list[V | None], list[str]]:
    """(values, failures), one of each per row: a failed row has no value (None), any other an empty failure.

    ``images`` holds each row's paths, ``texts`` the texts that the value depends on besides the images. For the rows
    that the store does not know, ``compute(rows, failures)`` yields blocks of row -> value; each is on disk before the
    next one is computed. It leaves out a row whose image cannot be decoded, and writes the reason to ``failures``.
    """
    failures = [""] * len(images)
    keys: dict[int, bytes] = {}
    for row, (paths, own_texts) in enumerate(zip(images, texts, strict=True)):
        try:
            if not paths:
                raise ImageError(NO_IMAGE)
            keys[row] = score_key(paths, *own_texts)
        except ImageError as error:
            failures[row] = str(error)
    values = dict(zip(keys, store.get(list(keys.values())), strict=True))
    unknown = [row for row, value in values.items() if value is None]
    if unknown:
        for block in compute(unknown, failures):
            store.add([keys[row] for row in block], list(block.values()))
            values.update(block)
    return [values.get(row) for row in range(len(images))], failures


def blocks_of(rows: list[int]) -> Iterator[list[int]]:
    """The rows in blocks that are worth a write to the store each."""
    for start in range(0, len(rows), _BLOCK):
        yield rows[start : start + _BLOCK]
