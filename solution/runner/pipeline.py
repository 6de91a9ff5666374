"""Runs Data-Juicer operators one at a time and tells the ledger what each did to every row.

Only columns of numbers are read whole; texts and scores are read part by part, so that memory stays flat.
"""

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Json, concatenate_datasets

from solution.entry import is_interrupt
from solution.operators import register
from solution.operators.common import reasons
from solution.operators.common.rows import FAILURE, NOTE, PART, parts_of
from solution.runner.audit import Ledger
from solution.runner.data_juicer import (
    OPERATORS,
    STATS,
    Deduplicator,
    Filter,
    Mapper,
    NestedDataset,
    Selector,
    load_operator,
    register_stock,
    seed_random,
)
from solution.runner.errors import UserError
from solution.runner.histogram import histogram
from solution.runner.produced import sent_to_the_run
from solution.runner.recipe import OWN_OPERATORS, Recipe
from solution.runner.seed import ROW, WORK_TOKEN
from solution.runner.tables import numbers_of, positions_of, rows_of_step, tables_of

_MAX_FAILURES = 20  # an operator that raises for this many single rows and passes none is broken, not its rows


def registry(recipe: Recipe) -> dict[str, type]:
    """All operators by name: Data-Juicer's, ours, and those of the recipe's custom_operator_paths."""
    names = [name for name, _ in recipe.process]
    try:
        register(names)
        register_stock(names)
    except ImportError as error:
        raise UserError(f"recipe {recipe.path}: an operator cannot be imported: {one_line(error)}") from error
    # Ours are registered already; Data-Juicer would import them under another module name.
    theirs = [path for path in recipe.operator_paths if path != OWN_OPERATORS]
    if theirs:
        from data_juicer.config.config import load_custom_operators

        try:
            load_custom_operators(theirs)
        except (RuntimeError, ValueError, KeyError) as error:
            raise UserError(f"recipe {recipe.path}, key custom_operator_paths: {error}") from error
    if not OPERATORS.modules.keys() >= set(names):
        # All, as the nearest name to an unknown one may be among them.
        register()
        register_stock()
    return OPERATORS.modules


def build_operators(process: list[dict[str, dict[str, Any]]], processes: int, work_dir: str) -> list[Any]:
    """Data-Juicer's operator objects. Raises UserError, in the operator's words, where it refuses its parameters."""
    # In this process unless more are asked for: Data-Juicer would start two per operator, at seconds each.
    common = {
        "skip_op_error": False,  # else one bad row silently loses its whole batch; see _isolate_failures
        "auto_op_parallelism": False,
        "num_proc": processes if processes > 1 else None,
        "work_dir": work_dir,
    }
    operators = []
    for number, entry in enumerate(process, start=1):
        ((name, params),) = entry.items()
        try:
            batches = {"batch_mode": True} if issubclass(OPERATORS.modules[name], Filter) else {}
            operators.append(load_operator(name, common | batches | sent_to_the_run(params, name)))
        except (ValueError, AssertionError, ImportError, OSError) as error:
            raise UserError(f"operator {number} ({name}): {one_line(error)}") from error
    return operators


def run_operator(
    operator: Any, dataset: NestedDataset, ledger: Ledger, run: Callable[..., NestedDataset] | None = None
) -> NestedDataset:
    """Apply one operator and record in the ledger each row that it drops, keeps, changes or creates.

    ``run`` replaces a row-wise operator's own `run`, for another executor. Raises UserError where the operator cannot
    run at all, or fails a row under the policy stop.
    """
    run = run or operator.run
    started = time.monotonic()
    ledger.begin(operator._name, len(dataset))
    seed_random(ledger.steps[-1].name)
    try:
        if isinstance(operator, Filter):
            result = _run_filter(operator, dataset, ledger, run)
        elif isinstance(operator, Mapper):
            result = _run_mapper(operator, dataset, ledger, run)
        elif isinstance(operator, Deduplicator | Selector):
            result = _run_on_whole(operator, dataset, ledger)
        else:
            raise UserError(f"operator {operator._name}: expected a Mapper, Filter, Deduplicator or Selector")
    except ImportError as error:
        raise UserError(f"operator {operator._name}: {one_line(error)}") from error
    ledger.steps[-1].seconds = time.monotonic() - started
    return result


def _run_filter(
    operator: Filter, dataset: NestedDataset, ledger: Ledger, run: Callable[..., NestedDataset]
) -> NestedDataset:
    """Scores first, then the decision, so that the scores of dropped rows are known too."""
    # With old scores there, a filter of the same kind would skip its work, though the caption may have changed.
    bare = dataset.remove_columns(STATS) if STATS in dataset.column_names else dataset
    bare = bare.add_column(STATS, ["{}"] * len(bare), feature=Json())  # Data-Juicer would do so row by row
    scored = _isolate_failures(lambda part: run(part, reduce=False), bare, ledger)
    scored = _without_failed(scored, ledger)
    options = {"num_proc": operator.runtime_np(), "batch_size": operator.batch_size, "desc": operator._name}
    kept = scored.filter(operator.process, **options)
    kept_rows = numbers_of(kept, ROW)
    is_kept = np.isin(numbers_of(scored, ROW), kept_rows)
    _record_scores(scored, is_kept, _thresholds(operator), ledger)
    return _with_earlier_scores(kept, kept_rows, dataset) if len(kept) else kept


def _record_scores(scored: NestedDataset, is_kept: np.ndarray, thresholds: dict[str, float], ledger: Ledger) -> None:
    """Record each row's score and verdict in the ledger, and the distribution of every statistic in its step."""
    columns: dict[str, np.ndarray] = {}  # statistic -> one number per row
    start = 0
    for part in parts_of(scored, ROW, STATS):
        passed, dropped = [], []
        for position, (row, stats) in enumerate(zip(part[ROW], part[STATS], strict=True), start=start):
            scores = _numbers(stats)
            for stat, score in scores.items():
                if stat not in columns:
                    columns[stat] = np.full(len(scored), np.nan)
                columns[stat][position] = score
            score, threshold, reason = _verdict(scores, thresholds)
            if not is_kept[position]:
                dropped.append((row, reason, score, threshold))
            elif score is not None:
                passed.append((row, score, threshold))
        ledger.passed(passed)
        ledger.drop(dropped)
        start += len(part[ROW])
    charts = (histogram(stat, scores, is_kept, _thresholds_of(stat, thresholds)) for stat, scores in columns.items())
    ledger.steps[-1].scores += filter(None, charts)


def _with_earlier_scores(kept: NestedDataset, kept_rows: np.ndarray, dataset: NestedDataset) -> NestedDataset:
    """The rows of ``kept`` with the scores that they had in ``dataset`` in addition to their new ones."""
    positions = positions_of(kept_rows, numbers_of(dataset, ROW)) if STATS in dataset.column_names else None

    def tables() -> Iterator[pa.Table]:
        start = 0
        for table, part in zip(tables_of(kept.remove_columns(STATS)), parts_of(kept, STATS), strict=True):
            scores = part[STATS]
            if positions is not None:
                earlier = dataset[STATS][positions[start : start + len(scores)]]
                scores = [old | new for old, new in zip(earlier, scores, strict=True)]
            start += len(scores)
            yield table.replace_schema_metadata().append_column(STATS, pa.array(scores))

    # A typed column per score; Data-Juicer's stats are one JSON text per row, read and written at every step.
    return rows_of_step(tables())


def _run_mapper(
    operator: Mapper, dataset: NestedDataset, ledger: Ledger, run: Callable[..., NestedDataset]
) -> NestedDataset:
    """Rows may be changed, removed or multiplied; a text that lost its image token is a failed row."""
    result = _without_failed(_isolate_failures(run, dataset, ledger), ledger)
    result = _number_created(result, ledger)
    rows_before, rows = numbers_of(dataset, ROW), numbers_of(result, ROW)
    origins = positions_of(rows, rows_before)
    broken: list[int] = []
    is_changed = False
    start = 0
    for part in parts_of(result, ROW, "text", "images", NOTE):
        numbers, texts = part[ROW], part["text"]
        if NOTE in part:
            ledger.note([(row, note) for row, note in zip(numbers, part[NOTE], strict=True) if note])
        own = origins[start : start + len(numbers)]
        before = iter(dataset[operator.text_key][own[own >= 0]])
        changed = [
            (row, text)
            for row, text, origin in zip(numbers, texts, own, strict=True)
            if origin >= 0 and text != next(before)
        ]
        ledger.rewrite(changed)
        is_changed = is_changed or bool(changed)
        broken += [
            start + position
            for position, (text, images) in enumerate(zip(texts, part["images"], strict=True))
            if text.count(WORK_TOKEN) != len(images)
        ]
        start += len(numbers)
    _drop_missing(rows_before, rows, reasons.REMOVED, ledger)
    for position in broken:
        ledger.fail(int(rows[position]), reasons.TOKENS_CHANGED)
    result = _without(result.remove_columns(NOTE) if NOTE in result.column_names else result, broken)
    # Scores of the old captions must not rank or pass the new ones.
    stale = (is_changed or len(rows) > len(rows_before)) and STATS in result.column_names
    return result.remove_columns(STATS) if stale else result


def _run_on_whole(operator: Deduplicator | Selector, dataset: NestedDataset, ledger: Ledger) -> NestedDataset:
    """Operators that compare rows; ours say why they drop a row (`dropped_because`, by position)."""
    try:
        if isinstance(operator, Deduplicator) and operator.is_batched_op():  # its run() would hash rows one at a time
            options = {"num_proc": operator.runtime_np(), "batch_size": operator.batch_size, "desc": operator._name}
            result, _ = operator.process(dataset.map(operator.compute_hash, **options))
        else:
            result = operator.run(dataset)
    except ValueError as error:
        raise UserError(f"operator {operator._name}: {one_line(error)}") from error
    result = _number_created(_without_failed(result, ledger), ledger)
    default = reasons.REPEATS_ROW if isinstance(operator, Deduplicator) else reasons.NOT_SELECTED
    because = getattr(operator, "dropped_because", {})
    _drop_missing(numbers_of(dataset, ROW), numbers_of(result, ROW), default, ledger, because)
    return result


def _drop_missing(
    before: np.ndarray, after: np.ndarray, default: str, ledger: Ledger, because: dict[int, str] | None = None
) -> None:
    """Record the rows that an operator dropped; ``because`` maps positions in ``before`` to reasons."""
    gone = ~np.isin(before, after) & ~np.isin(before, ledger.failed_now())
    ledger.drop(
        (int(before[position]), (because or {}).get(position, default), None, None)
        for position in np.flatnonzero(gone).tolist()
    )


def _isolate_failures(
    run: Callable[[NestedDataset], NestedDataset], dataset: NestedDataset, ledger: Ledger
) -> NestedDataset:
    """Run a row-wise operator; where it raises, halve the rows until the bad ones are alone, and fail only those.

    Raises UserError where a package is missing, where every single row tried fails, and where ``run`` itself does.
    """
    parts: list[NestedDataset] = []
    failed = 0
    waiting = [dataset]
    while waiting:
        part = waiting.pop()
        try:
            parts.append(run(part))
        except (ImportError, UserError):
            raise
        except Exception as error:  # operators raise anything; the row is named with the reason
            if is_interrupt(error):
                raise
            if len(part) > 1:
                middle = len(part) // 2
                waiting += [part.select(range(middle, len(part))), part.select(range(middle))]
                continue
            failed += 1
            ledger.fail(part[0][ROW], one_line(error))
            if failed >= _MAX_FAILURES and not parts:
                raise UserError(f"operator {ledger.steps[-1].name} fails for every row: {one_line(error)}") from error
    if len(parts) == 1:
        return parts[0]
    return NestedDataset(concatenate_datasets(parts)) if parts else dataset.select([])


def _without_failed(dataset: NestedDataset, ledger: Ledger) -> NestedDataset:
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
    return _without(dataset.remove_columns(FAILURE), bad)


def _without(dataset: NestedDataset, positions: list[int]) -> NestedDataset:
    """The data set without some rows."""
    return dataset.select(np.delete(np.arange(len(dataset)), positions)) if positions else dataset


def _number_created(dataset: NestedDataset, ledger: Ledger) -> NestedDataset:
    """Give every further appearance of a row its own number: the operator created it from that row."""
    rows = numbers_of(dataset, ROW)
    further = np.flatnonzero(positions_of(rows, rows) != np.arange(len(rows)))
    if not len(further):
        return dataset
    rows = rows.copy()
    for start in range(0, len(further), PART):
        positions = further[start : start + PART]
        rows[positions] = ledger.create(rows[positions].tolist(), dataset["text"][positions])
    return dataset.remove_columns(ROW).add_column(ROW, rows)


def _thresholds(operator: Filter) -> dict[str, float]:
    """The operator's thresholds by name; Data-Juicer's filters call them min_x and max_x."""
    return {
        key: value
        for key, value in vars(operator).items()
        if key.startswith(("min_", "max_")) and isinstance(value, int | float) and not isinstance(value, bool)
    }


def _thresholds_of(stat: str, thresholds: dict[str, float]) -> dict[str, float]:
    """The thresholds min_x and max_x of a statistic: where there are several x, those that its name contains."""
    several = len({key[4:] for key in thresholds}) > 1
    return {key: value for key, value in thresholds.items() if not several or key[4:] in stat}


def _verdict(scores: dict[str, float], thresholds: dict[str, float]) -> tuple[float | None, float | None, str]:
    """(score, threshold, reason) of a row: the threshold it breaks, else its first score with the lower one."""
    for stat, score in scores.items():
        for key, threshold in _thresholds_of(stat, thresholds).items():
            if score < threshold if key.startswith("min_") else score > threshold:
                side = "below" if key.startswith("min_") else "above"
                return score, threshold, reasons.outside_threshold(stat, side, f"{key} {threshold:g}", score)
    threshold = next((value for key, value in thresholds.items() if key.startswith("min_")), None)
    return next(iter(scores.values()), None), threshold, reasons.OUTSIDE_THRESHOLDS


def _numbers(stats: dict[str, Any]) -> dict[str, float]:
    """The statistics that are a number, or a list of numbers (then their mean)."""
    numbers = {}
    for key, value in stats.items():
        if isinstance(value, list) and value and all(isinstance(item, int | float) for item in value):
            numbers[key] = math.fsum(value) / len(value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            numbers[key] = float(value)
    return numbers


def one_line(error: BaseException) -> str:
    """The first line of an exception's text, with its type where the text alone says little."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return (
        first
        if isinstance(error, ValueError | ImportError) and first
        else f"{type(error).__name__}: {first}".rstrip(": ")
    )
