"""Runs Data-Juicer operators one at a time and tells the ledger what each did to every row.

Only columns of numbers are read whole; texts and scores are read part by part, so that memory stays flat.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import repeat
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Json

from solution.entry import is_interrupt
from solution.operators import NAMES, register
from solution.operators.common import reasons
from solution.operators.common.faults import SetupFault, machine_fault
from solution.operators.common.rows import NOTE, PART, ROW, parts_of
from solution.runner.audit import Ledger
from solution.runner.data_juicer import (
    OPERATORS,
    STATS,
    Deduplicator,
    Filter,
    Mapper,
    NestedDataset,
    Selector,
    SpecialTokens,
    load_operator,
    register_stock,
    seed_random,
)
from solution.runner.errors import UserError, one_line
from solution.runner.failures import guard, isolate, logged_errors, whole, without, without_failed
from solution.runner.histogram import histogram
from solution.runner.images.produced import sent_to_the_run
from solution.runner.recipe import OWN_OPERATORS, Recipe
from solution.runner.tables import numbers_of, positions_of, rows_of_step, tables_of


def registry(recipe: Recipe) -> dict[str, type]:
    """All operators by name: Data-Juicer's, ours, and those of the recipe's custom_operator_paths."""
    names = [name for name, _ in recipe.process]
    try:
        register(names)
        register_stock(names)
    except Exception as error:  # its file may raise anything, a SyntaxError too
        raise UserError(f"recipe {recipe.path}: an operator cannot be imported: {one_line(error)}") from error
    # Ours are registered already; Data-Juicer would import them under another module name.
    theirs = [path for path in recipe.operator_paths if path != OWN_OPERATORS]
    if theirs:
        from data_juicer.config.config import load_custom_operators

        try:
            load_custom_operators(theirs)
        except Exception as error:  # as above
            raise UserError(f"recipe {recipe.path}, key custom_operator_paths: {one_line(error)}") from error
    if not OPERATORS.modules.keys() >= set(names):
        # All, as the nearest name to an unknown one may be among them.
        for name in NAMES:
            with suppress(Exception):  # a fault in the file of an operator that the recipe does not name
                register([name])
        register_stock()
    return OPERATORS.modules


def build_operators(process: list[dict[str, dict[str, Any]]], processes: int, work_dir: str) -> list[Any]:
    """Data-Juicer's operator objects. Raises UserError, in the operator's words, where it refuses its parameters."""
    # In this process unless more are asked for: Data-Juicer would start two per operator, at seconds each.
    common = {
        "auto_op_parallelism": False,
        "num_proc": processes if processes > 1 else None,
        "work_dir": work_dir,
    }
    # Whatever the recipe says: else one bad row silently loses its whole batch; see `failures.isolate`.
    fixed = {"skip_op_error": False}
    operators = []
    for number, entry in enumerate(process, start=1):
        ((name, params),) = entry.items()
        try:
            batches = {"batch_mode": True} if issubclass(OPERATORS.modules[name], Filter) else {}
            operator = load_operator(name, common | batches | sent_to_the_run(params, name) | fixed)
        except (Exception, SystemExit) as error:  # a constructor raises anything
            raise UserError(f"operator {number} ({name}) cannot be set up: {one_line(error)}") from error
        guard(operator)
        operators.append(operator)
    return operators


Runs = Callable[..., NestedDataset]  # a row-wise operator's own `run`, or what another executor has for it


def run_operator(
    operator: Any,
    dataset: NestedDataset,
    ledger: Ledger,
    run: Runs | None = None,
    apply: Callable[[Any, NestedDataset, Ledger, Runs], NestedDataset] | None = None,
) -> NestedDataset:
    """Apply one operator and record in the ledger each row that it drops, keeps, changes or creates.

    ``run`` replaces a row-wise operator's own `run`, for another executor; ``apply`` replaces `apply_operator`. Raises
    UserError where the operator cannot run at all, or fails a row under the policy stop.
    """
    name, started = operator._name, time.monotonic()
    ledger.begin(name, len(dataset))
    seed_random(ledger.steps[-1].name)
    try:
        with logged_errors() as errors:
            result = (apply or apply_operator)(operator, dataset, ledger, run or operator.run)
            _report_errors(errors(), dataset, result, ledger)
    except ImportError as error:
        raise UserError(f"operator {name}: {one_line(error)}") from error
    except SetupFault as fault:
        raise UserError(
            f"operator {name} cannot work: {fault}; the steps before it are saved, the same command resumes with it"
        ) from fault
    ledger.steps[-1].seconds = time.monotonic() - started
    return result


def apply_operator(operator: Any, dataset: NestedDataset, ledger: Ledger, run: Runs) -> NestedDataset:
    """What an operator makes of the rows, by its kind. Raises UserError for one of another kind."""
    if isinstance(operator, Filter):
        return _run_filter(operator, dataset, ledger, run)
    if isinstance(operator, Mapper):
        return _run_mapper(operator, dataset, ledger, run)
    if isinstance(operator, Deduplicator | Selector):
        return _run_on_whole(operator, dataset, ledger)
    raise UserError(f"operator {operator._name}: expected a Mapper, Filter, Deduplicator or Selector")


def _report_errors(errors: list[str], before: NestedDataset, after: NestedDataset, ledger: Ledger) -> None:
    """Note in the step what the operator logged. Raises UserError where it logged an error a row and did nothing."""
    step = ledger.steps[-1]
    if not errors:
        return
    did_nothing = len(before) == len(after) and not (step.rewritten or step.created or step.failed or step.scores)
    if did_nothing and len(errors) >= len(before):
        raise UserError(f"operator {step.name} only logs an error for every row: {errors[0]}")
    step.remark = f"logged {len(errors):,} errors, the first: {errors[0]}"


def _run_filter(operator: Filter, dataset: NestedDataset, ledger: Ledger, run: Runs) -> NestedDataset:
    """Scores first, then the decision, so that the scores of dropped rows are known too."""
    scored, kept, is_kept = judged(operator, dataset, ledger, run)
    _record_scores(scored, is_kept, thresholds_of(operator), ledger)
    return with_earlier_scores(kept, dataset) if len(kept) else kept


def judged(
    operator: Filter, dataset: NestedDataset, ledger: Ledger, run: Runs
) -> tuple[NestedDataset, NestedDataset, np.ndarray]:
    """(rows with a score, those of them that the filter keeps, for each of the former whether it is kept)."""
    # With old scores there, a filter of the same kind would skip its work, though the caption may have changed.
    bare = dataset.remove_columns(STATS) if STATS in dataset.column_names else dataset
    bare = bare.add_column(STATS, ["{}"] * len(bare), feature=Json())  # Data-Juicer would do so row by row
    scored = without_failed(isolate(lambda part: run(part, reduce=False), bare, ledger), ledger)
    options = {"num_proc": operator.runtime_np(), "batch_size": operator.batch_size, "desc": operator._name}
    kept = isolate(lambda part: part.filter(operator.process, **options), scored, ledger, _undecided)
    failed = np.isin(numbers_of(scored, ROW), ledger.failed_now())
    scored = without(scored, np.flatnonzero(failed).tolist())
    return scored, kept, np.isin(numbers_of(scored, ROW), numbers_of(kept, ROW))


def _undecided(row: dict[str, Any], error: str) -> str:
    """Why a filter cannot decide on a row: a statistic that is no number is null in its column, which says little."""
    missing = [
        stat for stat, value in row[STATS].items() if value is None or (isinstance(value, list) and None in value)
    ]
    return f"{missing[0]} is not a number" if missing else error


def statistics_of(scored: NestedDataset) -> dict[str, np.ndarray]:
    """Statistic -> one number per row, NaN where a row has none."""
    columns: dict[str, np.ndarray] = {}
    start = 0
    for part in parts_of(scored, STATS):
        for position, stats in enumerate(part[STATS], start=start):
            for stat, score in _numbers(stats).items():
                if stat not in columns:
                    columns[stat] = np.full(len(scored), np.nan)
                columns[stat][position] = score
        start += len(part[STATS])
    return columns


def _record_scores(scored: NestedDataset, is_kept: np.ndarray, thresholds: dict[str, float], ledger: Ledger) -> None:
    """Record each row's score and verdict in the ledger, and the distribution of every statistic in its step."""
    columns, rows = statistics_of(scored), numbers_of(scored, ROW)
    limits = {stat: limits_of(stat, thresholds) for stat in columns}
    lower = next((value for key, value in thresholds.items() if key.startswith("min_")), None)
    for start in range(0, len(rows), PART):
        passed, dropped = [], []
        part = slice(start, start + PART)
        values = zip(*(column[part].tolist() for column in columns.values()), strict=True) if columns else repeat(())
        for row, kept, numbers in zip(rows[part].tolist(), is_kept[part].tolist(), values, strict=False):
            scores = {stat: score for stat, score in zip(columns, numbers, strict=True) if not math.isnan(score)}
            score, threshold, reason = _verdict(scores, limits, lower)
            if not kept:
                dropped.append((row, reason, score, threshold))
            elif score is not None:
                passed.append((row, score, threshold))
        ledger.passed(passed)
        ledger.drop(dropped)
    charts = (histogram(stat, scores, is_kept, limits[stat]) for stat, scores in columns.items())
    ledger.steps[-1].scores += filter(None, charts)


def with_earlier_scores(kept: NestedDataset, dataset: NestedDataset) -> NestedDataset:
    """The rows of ``kept`` with the scores that they had in ``dataset`` in addition to their new ones."""
    positions = positions_of(numbers_of(kept, ROW), numbers_of(dataset, ROW)) if STATS in dataset.column_names else None

    def tables(chosen: Callable[[dict[str, Any]], dict[str, Any]]) -> Iterator[pa.Table]:
        start = 0
        for table, part in zip(tables_of(kept.remove_columns(STATS)), parts_of(kept, STATS), strict=True):
            scores = part[STATS]
            if positions is not None:
                earlier = dataset[STATS][positions[start : start + len(scores)]]
                scores = [old | new for old, new in zip(earlier, scores, strict=True)]
            start += len(scores)
            yield table.replace_schema_metadata().append_column(STATS, pa.array(map(chosen, scores)))

    # A typed column per score; Data-Juicer's stats are one JSON text per row, read and written at every step.
    try:
        return rows_of_step(tables(dict))
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):  # a statistic of several types
        return rows_of_step(tables(_numbers))


def _run_mapper(operator: Mapper, dataset: NestedDataset, ledger: Ledger, run: Runs) -> NestedDataset:
    """Rows may be changed, removed or multiplied; a text that lost its image token is a failed row."""
    result = _number_created(without_failed(isolate(run, dataset, ledger), ledger), ledger)
    for part in parts_of(result, ROW, NOTE):
        if NOTE in part:
            ledger.note([(row, note) for row, note in zip(part[ROW], part[NOTE], strict=True) if note])
    rows_before, rows = numbers_of(dataset, ROW), numbers_of(result, ROW)
    _drop_missing(rows_before, rows, reasons.REMOVED, ledger)
    return _with_texts_recorded(result.remove_columns(NOTE) if NOTE in result.column_names else result, dataset, ledger)


def _with_texts_recorded(result: NestedDataset, dataset: NestedDataset, ledger: Ledger) -> NestedDataset:
    """The rows of ``result`` whose text still has its image token; the others fail, and the ledger gets all new texts.

    Scores of the old captions must not rank or pass the new ones: they go.
    """
    rows = numbers_of(result, ROW)
    origins = positions_of(rows, numbers_of(dataset, ROW))
    is_changed = bool((origins < 0).any())
    broken: list[int] = []
    start = 0
    for part in parts_of(result, ROW, "text", "images"):
        own = origins[start : start + len(part[ROW])]
        before = iter(dataset["text"][own[own >= 0]])
        changed = [
            (row, text)
            for row, text, origin in zip(part[ROW], part["text"], own, strict=True)
            if origin >= 0 and text != next(before)
        ]
        ledger.rewrite(changed)
        is_changed = is_changed or bool(changed)
        broken += [
            start + position
            for position, (text, images) in enumerate(zip(part["text"], part["images"], strict=True))
            if text.count(SpecialTokens.image) != len(images)
        ]
        start += len(own)
    for position in broken:
        ledger.fail(int(rows[position]), reasons.TOKENS_CHANGED)
    result = without(result, broken)
    return result.remove_columns(STATS) if is_changed and STATS in result.column_names else result


def _run_on_whole(operator: Deduplicator | Selector, dataset: NestedDataset, ledger: Ledger) -> NestedDataset:
    """Operators that compare rows; ours say why they drop a row (`dropped_because`, by position)."""
    dataset, result = chosen(operator, dataset, ledger)
    before = numbers_of(dataset, ROW)
    result = _number_created(without_failed(whole(result, ledger), ledger), ledger)
    default = reasons.REPEATS_ROW if isinstance(operator, Deduplicator) else reasons.NOT_SELECTED
    _drop_missing(before, numbers_of(result, ROW), default, ledger, getattr(operator, "dropped_because", {}))
    return _with_texts_recorded(result, dataset, ledger)


def chosen(
    operator: Deduplicator | Selector, dataset: NestedDataset, ledger: Ledger
) -> tuple[NestedDataset, NestedDataset]:
    """(the rows that could be compared, what the operator returns of them)."""
    try:
        if type(operator).run is not Deduplicator.run:
            return dataset, operator.run(dataset)
        # It would hash rows one at a time.
        options = {"num_proc": operator.runtime_np(), "batch_size": operator.batch_size, "desc": operator._name}
        prepared = super(Deduplicator, operator).run(dataset)
        dataset = isolate(lambda part: part.map(operator.compute_hash, **options), prepared, ledger)
        return dataset, operator.process(dataset)[0]
    except (ImportError, UserError, SetupFault):
        raise
    except (Exception, SystemExit) as error:  # no single row can be told to be at fault
        if is_interrupt(error):
            raise
        if fault := machine_fault(error):
            raise SetupFault(fault) from error
        raise UserError(f"operator {operator._name}: {one_line(error)}") from error


def _drop_missing(
    before: np.ndarray, after: np.ndarray, default: str, ledger: Ledger, because: dict[int, str] | None = None
) -> None:
    """Record the rows that an operator dropped; ``because`` maps positions in ``before`` to reasons."""
    gone = ~np.isin(before, after) & ~np.isin(before, ledger.failed_now())
    ledger.drop(
        (int(before[position]), (because or {}).get(position, default), None, None)
        for position in np.flatnonzero(gone).tolist()
    )


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


def thresholds_of(operator: Filter) -> dict[str, float]:
    """The operator's thresholds by name; Data-Juicer's filters call them min_x and max_x."""
    return {
        key: value
        for key, value in vars(operator).items()
        if key.startswith(("min_", "max_")) and isinstance(value, int | float) and not isinstance(value, bool)
    }


def limits_of(stat: str, thresholds: dict[str, float]) -> dict[str, float]:
    """The thresholds min_x and max_x of a statistic: where there are several x, those that its name contains."""
    several = len({key[4:] for key in thresholds}) > 1
    return {key: value for key, value in thresholds.items() if not several or key[4:] in stat}


def _verdict(
    scores: dict[str, float], limits: dict[str, dict[str, float]], lower: float | None
) -> tuple[float | None, float | None, str]:
    """(score, threshold, reason) of a row: the threshold it breaks, else its first score with the ``lower`` one."""
    for stat, score in scores.items():
        for key, threshold in limits[stat].items():
            if score < threshold if key.startswith("min_") else score > threshold:
                side = "below" if key.startswith("min_") else "above"
                return score, threshold, reasons.outside_threshold(stat, side, f"{key} {threshold:g}", score)
    return next(iter(scores.values()), None), lower, reasons.OUTSIDE_THRESHOLDS


def _numbers(stats: dict[str, Any]) -> dict[str, float]:
    """The statistics that are a number, or a list of numbers (then their mean)."""
    numbers = {}
    for key, value in stats.items():
        if isinstance(value, list) and value and all(isinstance(item, int | float) for item in value):
            numbers[key] = math.fsum(value) / len(value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            numbers[key] = float(value)
    return numbers
