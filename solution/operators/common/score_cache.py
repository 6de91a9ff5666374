"""The one way in which operators read and fill a score store: what is known is looked up, the rest is computed."""

from collections.abc import Callable, Iterator, Sequence

from .images import ImageError
from .score_store import ScoreStore, score_key

_BLOCK = 256  # rows between two writes to the store: what a killed run computes again

Value = float | str
Compute = Callable[[list[int], list[str]], Iterator[dict[int, Value]]]


def values_per_row(
    store: ScoreStore,
    images: Sequence[Sequence[str] | None],
    texts: Sequence[Sequence[str]],
    compute: Compute,
) -> tuple[list[Value | None], list[str]]:
    """(values, failures), one of each per row: a failed row has no value (None), any other an empty failure.

    ``images`` holds each row's paths, ``texts`` whatever texts the value depends on beside the images. For the rows
    that the store does not know, ``compute(rows, failures)`` yields blocks of row -> value; each is on disk before the
    next one is computed. It leaves out a row whose image cannot be decoded, and writes the reason to ``failures``.
    """
    failures = [""] * len(images)
    keys: dict[int, bytes] = {}
    for row, (paths, own_texts) in enumerate(zip(images, texts, strict=True)):
        try:
            if not paths:
                raise ImageError("the row has no image")
            keys[row] = score_key(paths, *own_texts)
        except ImageError as error:
            failures[row] = str(error)
    values = dict(zip(keys, store.get(list(keys.values())), strict=True))
    unknown = [row for row, value in values.items() if value is None]
    if unknown:
        for block in compute(unknown, failures):
            store.add([keys[row] for row in block], list(block.values()))
            values |= block
    return [values.get(row) for row in range(len(images))], failures


def blocks_of(rows: list[int]) -> Iterator[list[int]]:
    """The rows in blocks that are worth a write to the store each."""
    for start in range(0, len(rows), _BLOCK):
        yield rows[start : start + _BLOCK]
