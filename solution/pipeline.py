"""Runs Data-Juicer operators one at a time and tells the ledger what each did to every row.

Columns are taken whole, `dataset[name][:]`: to go through `dataset[name]` reads the table anew for every row.
"""

import math
import time
import uuid
from collections.abc import Callable
from typing import Any

from datasets import concatenate_datasets

from solution.audit import Ledger
from solution.errors import UserError
from solution.histogram import histogram
from solution.juicer import (
    OPERATORS,
    STATS,
    Deduplicator,
    Filter,
    Mapper,
    NestedDataset,
    Selector,
    load_ops,
    read_headers_only,
)
from solution.operators import register
from solution.operators.rows import FAILURE, NOTE
from solution.recipe import OWN_OPERATORS, Recipe
from solution.seed import ROW, WORK_TOKEN

_HOPELESS = 20  # an operator that raises for so many single rows and passes none is broken, not its rows


def registry(recipe: Recipe) -> dict[str, type]:
    """All operators by name: Data-Juicer's, ours, and those of the recipe's custom_operator_paths.

    Raises UserError where a file of operators cannot be loaded.
    """
    # Ours under this one name; Data-Juicer would import them under another.
    names = [name for name, _ in recipe.process]
    register(names)
    theirs = [path for path in recipe.operator_paths if path != OWN_OPERATORS]
    try:
        from data_juicer.config.config import load_custom_operators

        load_custom_operators(theirs)
    except (RuntimeError, ValueError, KeyError) as error:
        raise UserError(f"recipe {recipe.path}, key custom_operator_paths: {error}") from error
    if not OPERATORS.modules.keys() >= set(names):
        register()  # all, as the nearest name to an unknown one may be among them
    return OPERATORS.modules


def build_operators(process: list[dict[str, dict[str, Any]]], processes: int, work_dir: str) -> list[Any]:
    """Data-Juicer's operator objects. Raises UserError, in the operator's words, where it refuses its parameters."""
    # In this process unless more are asked for: Data-Juicer would start two for each operator, at seconds apiece.
    common = {
        "skip_op_error": False,  # else one bad row silently loses its whole batch; see _by_halves
        "auto_op_parallelism": False,
        "num_proc": processes if processes > 1 else None,
        "work_dir": work_dir,
    }
    operators = []
    for number, entry in enumerate(process, start=1):
        ((name, params),) = entry.items()
        try:
            operators += load_ops([{name: common | params}])
        except (ValueError, AssertionError, ImportError, OSError) as error:
            raise UserError(f"operator {number} ({name}): {one_line(error)}") from error
        read_headers_only(operators[-1])
    return operators


def run_operator(
    operator: Any, dataset: NestedDataset, ledger: Ledger, run: Callable[..., NestedDataset] | None = None
) -> NestedDataset:
    """Apply one operator; every row that goes, stays, changes or is made is booked in the ledger.

    ``run`` takes the place of a row-wise operator's own `run`, to have it elsewhere. Raises UserError where the
    operator cannot run at all, or fails a row under the policy stop.
    """
    run = run or operator.run
    started = time.monotonic()
    ledger.begin(operator._name, len(dataset))
    try:
        if isinstance(operator, Filter):
            result = _run_filter(operator, dataset, ledger, run)
        elif isinstance(operator, Mapper):
            result = _run_mapper(operator, dataset, ledger, run)
        elif isinstance(operator, Deduplicator | Selector):
            result = _run_on_whole(operator, dataset, ledger)
        else:
            raise UserError(f"operator {operator._name} is none of Mapper, Filter, Deduplicator, Selector")
    except ImportError as error:
        raise UserError(f"operator {operator._name}: {one_line(error)}") from error
    ledger.steps[-1].seconds = time.monotonic() - started
    return result


def _run_filter(
    operator: Filter, dataset: NestedDataset, ledger: Ledger, run: Callable[..., NestedDataset]
) -> NestedDataset:
    """Scores first, then the decision, so that the scores of dropped rows are known too."""
    # With old scores in sight, a filter of the same kind would skip its work, though the caption may have changed.
    old = dataset[STATS][:] if STATS in dataset.column_names else [{}] * len(dataset)
    bare = dataset.remove_columns(STATS) if STATS in dataset.column_names else dataset
    old_of = dict(zip(dataset[ROW][:], old, strict=True))
    scored = _by_halves(lambda part: run(part, reduce=False), bare, ledger)
    scored = _without_failed(scored, ledger)
    kept = scored.filter(operator.process, num_proc=operator.runtime_np(), batch_size=operator.batch_size)
    kept_rows = set(kept[ROW][:])
    rows, numbers = scored[ROW][:], [_numbers(stats) for stats in scored[STATS][:]]
    limits = _limits(operator)
    is_kept = [row in kept_rows for row in rows]
    for stat in dict.fromkeys(stat for scores in numbers for stat in scores):
        chart = histogram(stat, [scores.get(stat) for scores in numbers], is_kept, _limits_of(stat, limits))
        ledger.steps[-1].scores += [chart] if chart else []
    for row, scores in zip(rows, numbers, strict=True):
        score, threshold, reason = _verdict(scores, limits)
        if row in kept_rows:
            ledger.passed(row, score, threshold)
        else:
            ledger.drop(row, reason, score, threshold)
    if not kept_rows:
        return kept
    merged = [old_of[row] | new for row, new in zip(kept[ROW][:], kept[STATS][:], strict=True)]
    # Caching is off; to hash all scores for a cache's key would be for nothing.
    return kept.remove_columns(STATS).add_column(STATS, merged, new_fingerprint=uuid.uuid4().hex)


def _run_mapper(
    operator: Mapper, dataset: NestedDataset, ledger: Ledger, run: Callable[..., NestedDataset]
) -> NestedDataset:
    """Rows may change, go, and multiply; a text that lost its image token is a failed row."""
    before = dict(zip(dataset[ROW][:], dataset[operator.text_key][:], strict=True))
    result = _without_failed(_by_halves(run, dataset, ledger), ledger)
    result = _book_created(result, ledger)
    after = dict(zip(result[ROW][:], result["text"][:], strict=True))
    if NOTE in result.column_names:
        for row, note in zip(result[ROW][:], result[NOTE][:], strict=True):
            if note:
                ledger.note(row, note)
        result = result.remove_columns(NOTE)
    changed = [row for row, text in after.items() if row in before and text != before[row]]
    for row in changed:
        ledger.rewrite(row, after[row])
    for row in before.keys() - after.keys():
        if ledger.rows[row].state == "kept":
            ledger.drop(row, "removed by the operator")
    broken = [
        position
        for position, (text, images) in enumerate(zip(result["text"][:], result["images"][:], strict=True))
        if text.count(WORK_TOKEN) != len(images)
    ]
    for position in broken:
        ledger.fail(result[position][ROW], "the operator changed the number of image tokens")
    result = _without(result, broken)
    # Scores of the old captions must not rank or pass the new ones.
    stale = (changed or len(after) > len(before)) and STATS in result.column_names
    return result.remove_columns(STATS) if stale else result


def _run_on_whole(operator: Deduplicator | Selector, dataset: NestedDataset, ledger: Ledger) -> NestedDataset:
    """Operators that compare rows; ours say why a row goes (`dropped_because`, by position)."""
    rows = dataset[ROW][:]
    try:
        if isinstance(operator, Deduplicator) and operator.is_batched_op():  # its run() would hash rows one at a time
            options = {"num_proc": operator.runtime_np(), "batch_size": operator.batch_size}
            result, _ = operator.process(dataset.map(operator.compute_hash, **options))
        else:
            result = operator.run(dataset)
    except ValueError as error:
        raise UserError(f"operator {operator._name}: {one_line(error)}") from error
    result = _book_created(_without_failed(result, ledger), ledger)
    left = set(result[ROW][:])
    reasons = getattr(operator, "dropped_because", {})
    for position, row in enumerate(rows):
        if row not in left and ledger.rows[row].state == "kept":
            default = "repeats another row" if isinstance(operator, Deduplicator) else "not selected"
            ledger.drop(row, reasons.get(position, default))
    return result


def _by_halves(run: Callable[[NestedDataset], NestedDataset], dataset: NestedDataset, ledger: Ledger) -> NestedDataset:
    """Run a row-wise operator; where it raises, halve the rows until the bad ones stand alone, and fail those only.

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
            if len(part) > 1:
                middle = len(part) // 2
                waiting += [part.select(range(middle, len(part))), part.select(range(middle))]
                continue
            failed += 1
            ledger.fail(part[0][ROW], one_line(error))
            if failed >= _HOPELESS and not parts:
                raise UserError(f"operator {ledger.steps[-1].name} fails for every row: {one_line(error)}") from error
    if len(parts) == 1:
        return parts[0]
    return NestedDataset(concatenate_datasets(parts)) if parts else dataset.select([])


def _without_failed(dataset: NestedDataset, ledger: Ledger) -> NestedDataset:
    """The rows without those that an operator of ours marked as failed; the mark itself goes too."""
    if FAILURE not in dataset.column_names:
        return dataset
    failures = dataset[FAILURE][:]
    bad = [position for position, failure in enumerate(failures) if failure]
    rows = dataset[ROW][:]
    for position in bad:
        ledger.fail(rows[position], failures[position])
    return _without(dataset.remove_columns(FAILURE), bad)


def _without(dataset: NestedDataset, positions: list[int]) -> NestedDataset:
    """The data set without some rows."""
    gone = set(positions)
    return dataset.select([place for place in range(len(dataset)) if place not in gone]) if gone else dataset


def _book_created(dataset: NestedDataset, ledger: Ledger) -> NestedDataset:
    """Give every further appearance of a row its own number: the operator made it out of that row."""
    seen: set[int] = set()
    numbers = []
    for row, text in zip(dataset[ROW][:], dataset["text"][:], strict=True):
        numbers.append(ledger.create(row, text) if row in seen else row)
        seen.add(row)
    if len(seen) == len(numbers):
        return dataset
    return dataset.remove_columns(ROW).add_column(ROW, numbers)


def _limits(operator: Filter) -> dict[str, float]:
    """The operator's limits by name; Data-Juicer's filters call them min_x and max_x."""
    return {
        key: value
        for key, value in vars(operator).items()
        if key.startswith(("min_", "max_")) and isinstance(value, int | float) and not isinstance(value, bool)
    }


def _limits_of(stat: str, limits: dict[str, float]) -> dict[str, float]:
    """The limits min_x and max_x that a statistic is held against: x stands in its name where there are several x."""
    several = len({key[4:] for key in limits}) > 1
    return {key: limit for key, limit in limits.items() if not several or key[4:] in stat}


def _verdict(scores: dict[str, float], limits: dict[str, float]) -> tuple[float | None, float | None, str]:
    """(score, threshold, reason) of a row: the limit it breaks, else its first score with the lower limit."""
    for stat, score in scores.items():
        for key, limit in _limits_of(stat, limits).items():
            if score < limit if key.startswith("min_") else score > limit:
                side = "below" if key.startswith("min_") else "above"
                return score, limit, f"{stat} {side} {key} {limit:g}: {score:.6g}"
    threshold = next((limit for key, limit in limits.items() if key.startswith("min_")), None)
    return next(iter(scores.values()), None), threshold, "outside the operator's limits"


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
