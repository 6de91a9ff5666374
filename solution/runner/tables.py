"""Rows in an Arrow file: written part by part, read from the disk when they are needed."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from uuid import uuid4

import numpy as np
import pyarrow as pa
from datasets import Dataset
from datasets.fingerprint import get_temporary_cache_files_directory

from solution.operators.common.rows import PART
from solution.runner.data_juicer import NestedDataset
from solution.runner.files import replaced


def write_tables(path: Path, tables: Iterable[pa.Table]) -> None:
    """Write one or more tables as one Arrow stream, whole or not at all.

    Where a later table has further columns or wider types, all rows get them. Raises ArrowInvalid or ArrowTypeError
    for types that have nothing in common.
    """
    with replaced(path) as temporary:
        tables = iter(tables)
        first = next(tables)
        schema, writer = first.schema, pa.ipc.new_stream(str(temporary), first.schema)
        for table in chain([first], tables):
            table = _promoted(table, schema)
            if table.schema != schema:  # rare: a key that the first rows left out, or had as whole numbers only
                writer.close()
                narrow = temporary.rename(f"{temporary}.narrow")
                schema, writer = table.schema, pa.ipc.new_stream(str(temporary), table.schema)
                with pa.memory_map(str(narrow)) as file:
                    for batch in pa.ipc.open_stream(file):
                        writer.write_table(_promoted(pa.table(batch), schema))
                narrow.unlink()
            writer.write_table(table)
        writer.close()


def _promoted(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with the columns and types of both."""
    if table.schema == schema:
        return table
    return pa.concat_tables([schema.empty_table(), table], promote_options="permissive")


def open_rows(path: Path) -> NestedDataset:
    """A written file as a data set that stays on the disk."""
    return NestedDataset(Dataset.from_file(str(path)))


def rows_of_step(tables: Iterable[pa.Table]) -> NestedDataset:
    """One or more tables as a data set in a file that lasts until the step is saved."""
    file = Path(get_temporary_cache_files_directory()) / f"{uuid4().hex}.arrow"
    write_tables(file, tables)
    return open_rows(file)


def tables_of(dataset: NestedDataset) -> Iterator[pa.Table]:
    """All of a data set, part by part."""
    # A data set with some of a file's rows gives a chunk for every row: kilobytes each, and slow to read from a file.
    return (table.combine_chunks() for table in dataset.with_format("arrow").iter(PART))


def numbers_of(dataset: NestedDataset, column: str) -> np.ndarray:
    """A whole column of whole numbers: 8 bytes per row."""
    parts = [table[column].to_numpy() for table in tables_of(dataset.select_columns(column))]
    return np.concatenate([*parts, np.empty(0, np.int64)])


def positions_of(numbers: Sequence[int] | np.ndarray, among: np.ndarray) -> np.ndarray:
    """The first position of each number in ``among``, -1 for one that is not there: int64 [numbers]."""
    values, first = np.unique(among, return_index=True)
    found = np.searchsorted(values, numbers).clip(max=len(values) - 1)
    return np.where(values[found] == numbers, first[found], -1)
