"""What our operators share on a batch of rows: how a row fails, and how notes reach the audit.

A batch is Data-Juicer's dict of columns. Two text columns travel with the rows of `process.py`, which turns them into
audit lines: FAILURE (why this row failed; empty for a good row) and NOTE (what an operator did to a row it kept). Under
Data-Juicer's own commands, which have no audit and would write them out, there are none; failed rows are removed. A
third one, MEASURES, is that of `measures.py`.
Data-set-wide operators (de-duplication, selection) keep `dropped_because` instead: position in their input -> reason.
Reasons are built in `reasons.py`.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

ROW = "__row__"  # column of process.py alone: which row of its ledger a row of the data set is
FAILURE = "__failure__"
NOTE = "__note__"
MEASURES = "__measures__"
ORIGINAL = "original_images"  # column: the images that a row had before `picture_painter_mapper`
MODEL_ROWS = 1000  # rows per call of operators with a model: Data-Juicer's default of 10 fills no forward pass
PART = 10_000  # rows in memory at once when a whole data set is read

Batch = dict[str, list[Any]]


def parts_of(dataset: Any, *columns: str) -> Iterator[Batch]:
    """Some columns of a Data-Juicer data set as Python lists, part by part; a missing one is left out."""
    return dataset.select_columns([name for name in columns if name in dataset.column_names]).iter(PART)


def count_rows(batch: Batch) -> int:
    """The number of rows of a batch."""
    return len(next(iter(batch.values())))


def add_texts(batch: Batch, column: str, texts: Sequence[str]) -> None:
    """Write one text per row to FAILURE or NOTE; an earlier operator's text stays where the new one is empty.

    Without an audit a row with a failure is removed from the batch, and notes are not kept.
    """
    if ROW in batch:
        before = batch.get(column) or [""] * len(texts)
        batch[column] = [new or old or "" for new, old in zip(texts, before, strict=True)]
    elif column == FAILURE:
        for key in list(batch.keys()):
            batch[key] = [value for value, failure in zip(batch[key], texts, strict=True) if not failure]


def row_seed(seed: int, row_key: str) -> int:
    """A row's own 63-bit seed, the same in every process (Python's own hash is not)."""
    return int.from_bytes(hashlib.sha256(f"{seed}\x1f{row_key}".encode()).digest()[:8], "big") >> 1
