"""What becomes of the rows where an operator fails: only those at fault fail, and a fault of the set-up ends the run.

An operator may raise anything, from any of its methods and in any process, and may return anything.
"""

import functools
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import concatenate_datasets
from loguru import logger
from multiprocess.pool import Pool

from solution.entry import is_interrupt
from solution.operators.common.faults import SetupFault, machine_fault
from solution.operators.common.rows import FAILURE, ROW, parts_of
from solution.runner.audit import Ledger
from solution.runner.data_juicer import NestedDataset
from solution.runner.errors import RowFault, UserError, one_line
from solution.runner.seed import CORE
from solution.runner.tables import rows_of_step, tables_of

_METHODS = ("process", "compute_stats", "compute_hash")  # of an operator, called with rows
_MAX_FAILURES = 20  # an operator that raises for this many single rows and passes none is broken, not its rows
_EXPECTED = {"id": "text", "text": "text", "images": "a list of paths"}


def guard(operator: Any) -> None:
    """Have a row-wise operator raise nothing but RowFault, SetupFault, UserError and ImportError.

    Exceptions of other classes may not survive the way out of a worker process: the pool then waits for ever.
    """
    for name in _METHODS:
        method = getattr(operator, name, None)
        if method is not None:
            setattr(operator, name, _guarded(method))


def _guarded(method: Callable[..., Any]) -> Callable[..., Any]:
    # Data-Juicer looks for the operator below the wrappers. With its __module__, this one's globals would be pickled.
    @functools.wraps(method, assigned=("__name__", "__qualname__", "__doc__"))
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            result = method(*args, **kwargs)
            return list(result) if isinstance(result, map) else result  # a batch's decisions are computed when read
        except (RowFault, SetupFault, UserError, ImportError):
            raise
        except BaseException as error:  # sys.exit and a panic of compiled code are no Exception
            if is_interrupt(error):
                raise
            if fault := machine_fault(error):
                raise SetupFault(fault) from None
            raise RowFault(one_line(error)) from None

    return call


def end_with_a_lost_worker() -> None:
    """End the process in one line where a pool's worker dies, as when the system kills it: its rows would never come.

    Nor could the pool be closed: a worker that waits for rows holds the lock of their queue, and keeps it when killed.
    """
    join_exited = Pool._join_exited_workers

    def join(workers: list[Any]) -> bool:
        if is_interrupt(None):  # Ctrl-C has the pool end its workers
            return join_exited(workers)
        for status in filter(None, (worker.exitcode for worker in workers)):
            how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
            print(
                f"error: a worker process {how}, as where memory is short; the same command resumes after the last "
                "finished operator; a smaller np takes less memory",
                file=sys.stderr,
                flush=True,
            )
            os._exit(1)  # from a thread of the pool's
        return join_exited(workers)

    Pool._join_exited_workers = staticmethod(join)  # ty: ignore[invalid-assignment]


def isolate(
    run: Callable[[NestedDataset], NestedDataset],
    dataset: NestedDataset,
    ledger: Ledger,
    reason: Callable[[dict[str, Any], str], str] = lambda _, text: text,
) -> NestedDataset:
    """Run a row-wise operator; where it raises, halve the rows until the bad ones are alone, and fail only those.

    ``reason`` makes the audit's reason from a failed row and the error's text. Raises SetupFault, ImportError and
    UserError where ``run`` does, and UserError where every row tried fails.
    """
    parts: list[NestedDataset] = []
    failed: list[str] = []
    waiting = [dataset] if len(dataset) else []
    while waiting:
        part = waiting.pop()
        try:
            parts.append(_well_formed(run(part), ledger))
        except (ImportError, UserError, SetupFault):
            raise
        except Exception as error:  # what datasets and Arrow make of the operator's results too
            if is_interrupt(error):
                raise
            if fault := machine_fault(error):
                raise SetupFault(fault) from error
            if len(part) > 1:
                middle = len(part) // 2
                waiting += [part.select(range(middle, len(part))), part.select(range(middle))]
                continue
            failed.append(reason(part[0], one_line(error)))
            ledger.fail(part[0][ROW], failed[-1])
            if not parts and len(failed) in (_MAX_FAILURES, len(dataset)):
                commonest, last = max(failed, key=failed.count), ledger.name_row(part[0][ROW])
                raise UserError(
                    f"operator {ledger.steps[-1].name} fails for every row: {commonest} "
                    f"({failed.count(commonest):,} of the first {len(failed):,} rows, the last {last})"
                ) from error
    if len(parts) <= 1:
        return parts[0] if parts else dataset
    try:
        return NestedDataset(concatenate_datasets(parts))
    except ValueError:  # a key that some parts have in another type
        return _joined(parts, ledger)


def _joined(parts: list[NestedDataset], ledger: Ledger) -> NestedDataset:
    """The rows of all parts in one file, their columns widened to types that hold all values."""
    try:
        return rows_of_step(table.replace_schema_metadata() for part in parts for table in tables_of(part))
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise UserError(
            f"operator {ledger.steps[-1].name} writes values of several types under one key: {one_line(error)}"
        ) from error


def _well_formed(dataset: NestedDataset, ledger: Ledger) -> NestedDataset:
    """The rows whose id, text and images are what every next step expects; the others fail.

    Raises UserError where the operator took one of these columns away.
    """
    for column, kind in CORE.items():
        if column not in dataset.column_names:
            raise UserError(f"operator {ledger.steps[-1].name} removed the key '{column}' from its rows")
        if dataset.data.schema.field(column).type == kind and not _has_nulls(dataset.data.column(column)):
            continue
        values = dataset[column][:]
        bad = [position for position, value in enumerate(values) if not _is(value, kind)]
        for position in bad:
            text = f"the operator returned {column}: {values[position]!r:.60}, expected {_EXPECTED[column]}"
            ledger.fail(dataset[position][ROW], text)
        dataset = without(dataset, bad)
        if dataset.data.schema.field(column).type != kind:
            good = pa.array([value for value in values if _is(value, kind)], kind)
            dataset = NestedDataset(dataset.remove_columns(column).add_column(column, good))
    return dataset


def _has_nulls(column: pa.ChunkedArray) -> bool:
    """Whether a value, or an item of a list, is missing."""
    return bool(column.null_count or (pa.types.is_list(column.type) and pc.list_flatten(column).null_count))


def _is(value: Any, kind: pa.DataType) -> bool:
    if pa.types.is_list(kind):
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    return isinstance(value, str)


def whole(result: Any, ledger: Ledger) -> NestedDataset:
    """What an operator on all rows returned, its rows well formed. Raises UserError where it is no data set."""
    from datasets import Dataset

    if not isinstance(result, Dataset):
        raise UserError(f"operator {ledger.steps[-1].name} returned {type(result).__name__}, expected a data set")
    return _well_formed(NestedDataset(result), ledger)


def without_failed(dataset: NestedDataset, ledger: Ledger) -> NestedDataset:
    """The rows without those that an operator of ours marked as failed, and without the mark itself."""
    if FAILURE not in dataset.column_names:
        return dataset
    bad: list[int] = []
    start = 0
    for part in parts_of(dataset, ROW, FAILURE):
        for position, (row, failure) in enumerate(zip(part[ROW], part[FAILURE], strict=True), start=start):
            if failure:
                ledger.fail(row, failure)
                bad.append(position)
        start += len(part[ROW])
    return without(dataset.remove_columns(FAILURE), bad)


def without(dataset: NestedDataset, positions: list[int]) -> NestedDataset:
    """The data set without some rows."""
    return dataset.select(np.delete(np.arange(len(dataset)), positions)) if positions else dataset


@contextmanager
def logged_errors() -> Iterator[Callable[[], list[str]]]:
    """A function that returns the errors which operators log inside the block, one line each; forked workers' too."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "errors.log"
        handler = _LineHandler(file, level=logging.ERROR)
        logging.getLogger().addHandler(handler)
        sink = logger.add(handler, level="ERROR", format="{message}")
        try:
            yield lambda: list(filter(None, file.read_text(encoding="utf-8", errors="replace").splitlines()))
        finally:
            logger.remove(sink)
            logging.getLogger().removeHandler(handler)
            handler.close()


class _LineHandler(logging.FileHandler):
    """One line a message."""

    def __init__(self, file: Path, level: int) -> None:
        super().__init__(file, encoding="utf-8", errors="backslashreplace")
        self.setLevel(level)

    def format(self, record: logging.LogRecord) -> str:
        return " ".join(record.getMessage().split())
