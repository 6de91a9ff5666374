"""A run that scores every row and drops none: what `process.py analyze` shows before thresholds are chosen.

Filters say what they would do and are not obeyed. Mappers are applied, as the filters after them see what they write.
Deduplicators are asked about the rows that the recipe's own thresholds leave in front of them, as in a run. Selectors
choose among whatever rows reach them and are left out. A row without an image is scored by what needs none, and counts
as dropped where a run would fail it. The scores come from the operators themselves and lie in the
score store, so that a later run asks no model again.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Json, concatenate_datasets

from solution.operators.common.captions import caption_of
from solution.operators.common.reasons import NO_IMAGE
from solution.operators.common.rows import PART, ROW
from solution.runner.audit import Ledger, Step, aligned
from solution.runner.configuration.parameters import accepted
from solution.runner.data_juicer import OPERATORS, STATS, Deduplicator, Filter, NestedDataset, Selector
from solution.runner.errors import UserError
from solution.runner.failures import whole, without, without_failed
from solution.runner.files import replaced, shown, stamp_of_files
from solution.runner.histogram import ENDLESS, histogram
from solution.runner.pipeline import (
    Runs,
    apply_operator,
    chosen,
    judged,
    limits_of,
    registry,
    run_operator,
    statistics_of,
    thresholds_of,
    with_earlier_scores,
)
from solution.runner.run import Run
from solution.runner.seed import SYNTHETIC, Folders
from solution.runner.tables import numbers_of, positions_of, tables_of
from solution.terminal import visible

_COLUMN = (
    "__analysis__"  # begins the columns that travel with the rows: scores of an operator, and whether it keeps them
)
STATES = {"kept": "scored", "dropped": "removed", "failed": "failed"}  # the ledger's -> the analysis's
IDLE = "they drop no row; those of images need rows with one"
_LINE = (
    "id",
    "row",
    "parent",
    "state",
    "operator",
    "reason",
    "text_before",
    "text_after",
    "image",
    "image_state",
)


@dataclass
class Asked:
    """What one operator of the recipe was asked, and whether its thresholds explain its decisions."""

    number: int  # its place in the recipe, from 1
    name: str
    step: str  # the name of its step
    kind: str  # filter, deduplicator, selector or mapper
    statistics: dict[str, dict[str, float]] = field(default_factory=dict)  # statistic -> its thresholds by parameter
    is_adjustable: bool = False  # a row is kept exactly where every statistic lies within its thresholds
    is_idle: bool = False  # a filter that drops no row and scores none, as one of images where rows have none
    remark: str = ""  # for the user

    def column(self, stat: str) -> str:
        """The name of a statistic's column in the analysis's file."""
        return f"{self.step}.{stat}"

    def accepts(self, parameter: str, value: Any) -> bool:
        """Whether a recipe may give a parameter of this operator the value."""
        return accepted(OPERATORS.modules[self.name], parameter, value)


@dataclass(frozen=True)
class Analysis(Run):
    """A recipe's scores over all rows: `audit` is the file of all rows and scores, `result` the page about it.

    ``present(operators, images)`` makes the page once the file is there; ``images`` gives the image files of the scored
    rows with some row numbers.
    """

    present: "Callable[[list[Asked], Callable[[Sequence[int]], list[list[str]]]], None] | None" = None

    def execute(self, write_record: Callable[[dict[str, Any]], None]) -> None:
        """As of a run. Raises UserError as well where the recipe has no filter."""
        modules = registry(self.recipe)
        names = [name for name, _ in self.recipe.process]
        if modules.keys() >= set(names) and not any(issubclass(modules[name], Filter) for name in names):
            raise UserError(
                f"recipe {shown(self.recipe.path)} has no filter, so there are no scores to look at: "
                "`process.py analyze first_look` takes a set of filters that need no model"
            )
        super().execute(write_record)

    def _apply(self, number: int, operator: Any, dataset: NestedDataset, ledger: Ledger, run: Any) -> NestedDataset:
        """The rows with what the operator says of them; only rows that it could not judge are gone."""

        def apply(operator: Any, dataset: NestedDataset, ledger: Ledger, run: Runs) -> NestedDataset:
            if isinstance(operator, Filter):
                return _scored(number, operator, dataset, ledger, run)
            if isinstance(operator, Deduplicator):
                return _compared(number, operator, dataset, ledger)
            return dataset if isinstance(operator, Selector) else apply_operator(operator, dataset, ledger, run)

        return run_operator(operator, dataset, ledger, run, apply)

    def _said(self, step: Step) -> str:
        gone = f", {step.dropped:,} removed" if step.dropped else ""
        return f"{step.kept:,} {'scored' if step.scores else 'there'}{gone}, {step.failed:,} failed"

    def _report(self) -> str:
        return ""

    def _finish(
        self,
        operators: list[Any],
        dataset: NestedDataset,
        folders: Folders,
        ledger: Ledger,
        write_record: Callable[[dict[str, Any]], None],
    ) -> None:
        """Put the file of scores and the page in the place of earlier ones, then the record."""
        asked = [
            _asked(number, operator, ledger.steps[number], dataset)
            for number, operator in enumerate(operators, start=1)
        ]
        counts = ledger.totals()
        with replaced(self.audit) as temporary:
            _write(temporary, asked, dataset, folders, ledger)
        if self.present:
            self.present(asked, lambda rows: dataset["images"][positions_of(rows, numbers_of(dataset, ROW))])
        counts = {STATES.get(key, key): count for key, count in counts.items()}
        images = stamp_of_files(self.images, ledger.seed_images())
        write_record({"counts": counts, "steps": ledger.counts(), "failed": ledger.failures(), "images": images})
        print(summary(self.audit, asked, counts))


def _scored(number: int, operator: Filter, dataset: NestedDataset, ledger: Ledger, run: Runs) -> NestedDataset:
    """The rows with a filter's statistics and what it would do, none of them dropped."""
    scored, _, is_kept = judged(operator, dataset, ledger, run)
    if rows := _excused(ledger, len(dataset)):
        scored, is_kept = _with_unscored(scored, is_kept, dataset, rows)
    columns, thresholds = statistics_of(scored), thresholds_of(operator)
    charts = (histogram(stat, values, is_kept, limits_of(stat, thresholds)) for stat, values in columns.items())
    ledger.steps[-1].scores += filter(None, charts)
    if len(scored):
        scored = with_earlier_scores(scored, dataset)
    for stat, values in columns.items():
        scored = scored.add_column(f"{_COLUMN}{number}.{stat}", values)
    return scored.add_column(f"{_COLUMN}{number}", is_kept)


def _excused(ledger: Ledger, rows_in: int) -> list[int]:
    """Rows that failed as they have no image: in an analysis they go on, for what can be said of their captions."""
    rows = ledger.take_back(NO_IMAGE)
    if rows:
        ledger.steps[-1].remark = (
            "no row has an image: left out"
            if len(rows) == rows_in
            else f"{len(rows):,} rows have no image: they count as dropped here, and a run fails them"
        )
    return rows


def _with_unscored(
    scored: NestedDataset, is_kept: np.ndarray, dataset: NestedDataset, rows: list[int]
) -> tuple[NestedDataset, np.ndarray]:
    """The scored rows and what becomes of them, with those rows of the data set that have no score and are dropped.

    Where that is all of them nothing is dropped.
    """
    rest = dataset.select(np.flatnonzero(np.isin(numbers_of(dataset, ROW), rows)))
    rest = rest.remove_columns(STATS) if STATS in rest.column_names else rest
    rest = rest.add_column(STATS, ["{}"] * len(rest), feature=Json())
    whole_set = NestedDataset(concatenate_datasets([scored, rest]) if len(scored) else rest)
    order = np.argsort(positions_of(numbers_of(whole_set, ROW), numbers_of(dataset, ROW)))
    is_kept = np.concatenate([is_kept, np.full(len(rest), len(rest) == len(dataset))])
    return whole_set.select(order), is_kept[order]


def _compared(number: int, operator: Deduplicator, dataset: NestedDataset, ledger: Ledger) -> NestedDataset:
    """The rows with whether a deduplicator would keep them among those that come to it in a run."""
    comes = np.ones(len(dataset), bool)
    for before in range(1, number):
        if f"{_COLUMN}{before}" in dataset.column_names:
            comes &= _column(dataset, f"{_COLUMN}{before}").astype(bool)
    is_kept = np.ones(len(dataset), bool)
    if comes.any():
        _, result = chosen(operator, dataset.select(np.flatnonzero(comes)), ledger)
        left = without_failed(whole(result, ledger), ledger)
        is_excused = len(_excused(ledger, int(comes.sum()))) == comes.sum()
        is_kept = ~comes | is_excused | np.isin(numbers_of(dataset, ROW), numbers_of(left, ROW))
    failed = np.isin(numbers_of(dataset, ROW), ledger.failed_now())
    dataset = without(dataset, np.flatnonzero(failed).tolist())
    return dataset.add_column(f"{_COLUMN}{number}", is_kept[~failed])


def _column(dataset: NestedDataset, name: str) -> np.ndarray:
    """A whole column of numbers or truth values; a missing number is NaN."""
    parts = [table[name].to_numpy() for table in tables_of(dataset.select_columns(name))]
    return np.concatenate(parts)


def _asked(number: int, operator: Any, step: Step, dataset: NestedDataset) -> Asked:
    """What the operator was asked, by the columns that it left."""
    kinds = {Filter: "filter", Deduplicator: "deduplicator", Selector: "selector"}
    kind = next((name for base, name in kinds.items() if isinstance(operator, base)), "mapper")
    asked = Asked(number, operator._name, step.name, kind, remark=step.remark)
    if kind != "filter":
        return asked
    start = f"{_COLUMN}{number}."
    thresholds = {key: value for key, value in thresholds_of(operator).items() if asked.accepts(key, value)}
    columns = {name.removeprefix(start): name for name in dataset.column_names if name.startswith(start)}
    asked.statistics = {stat: limits_of(stat, thresholds) for stat in columns}
    usual = operator.min_closed_interval and operator.max_closed_interval and not operator.reversed_range
    is_kept = _column(dataset, f"{_COLUMN}{number}").astype(bool)
    within = np.ones(len(dataset), bool)
    unknown = np.zeros(len(dataset), bool)
    for stat, name in columns.items():
        values = _column(dataset, name)
        unknown |= np.isnan(values)
        with np.errstate(invalid="ignore"):
            within &= inside(values, asked.statistics[stat])
    asked.is_idle = not columns and bool(is_kept.all())
    asked.is_adjustable = bool(usual and thresholds and (within == is_kept)[~unknown].all())
    return asked


def inside(values: np.ndarray, limits: dict[str, float]) -> np.ndarray:
    """Which values lie within thresholds called min_x and max_x, both included."""
    result = np.ones(len(values), bool)
    for key, limit in limits.items():
        result &= values >= limit if key.startswith("min_") else values <= limit
    return result


def _write(path: Path, asked: list[Asked], dataset: NestedDataset, folders: Folders, ledger: Ledger) -> None:
    """Write every row that the run ever held with its scores, in the order of row numbers.

    A row that failed or was removed has none of the scores; `STEP` says whether an operator would keep the row, and
    `STEP.STATISTIC` is its score.
    """
    numbers = numbers_of(dataset, ROW)
    order = np.argsort(numbers)
    numbers = numbers[order]
    columns: dict[str, np.ndarray] = {}
    for operator in asked:
        start = f"{_COLUMN}{operator.number}"
        if start in dataset.column_names:
            columns[operator.step] = _column(dataset, start)[order]
        for stat in operator.statistics:
            columns[operator.column(stat)] = _column(dataset, f"{start}.{stat}")[order]
    made = _made_images(dataset, folders)
    with ExitStack() as stack:
        writer, start = None, 0
        for table in ledger.tables():
            rows = table["row"].to_numpy()
            lines = table.select(_LINE).to_pydict()
            end = start + lines["state"].count("kept")
            of_scored = np.full(len(rows), -1)
            of_scored[np.isin(rows, numbers[start:end])] = np.arange(start, end)
            lines["state"] = [STATES[state] for state in lines["state"]]
            lines["caption_before"] = list(map(caption_of, lines.pop("text_before")))
            lines["caption"] = list(map(caption_of, lines.pop("text_after")))
            lines["image"] = [made.get(row, image) for row, image in zip(lines["row"], lines["image"], strict=True)]
            lines["image_state"] = [
                "synthetic" if row in made else state
                for row, state in zip(lines["row"], lines["image_state"], strict=True)
            ]
            indices = pa.array(of_scored, mask=of_scored < 0)
            scores = {name: pa.array(values, from_pandas=True).take(indices) for name, values in columns.items()}
            schema = [(name, pa.int64() if name in ("row", "parent") else pa.string()) for name in lines]
            part = pa.table(lines, schema=pa.schema(schema))
            for name, values in scores.items():
                part = part.append_column(name, values)
            writer = writer or stack.enter_context(pq.ParquetWriter(path, part.schema))
            writer.write_table(part)
            start = end


def _made_images(dataset: NestedDataset, folders: Folders) -> dict[int, str]:
    """Row -> the path of its image, for rows whose image was made in this run."""
    made = {}
    places = [folder / SYNTHETIC for folder in (folders.output, folders.unfinished)]
    for part in dataset.select_columns([ROW, "images"]).iter(PART):
        for row, images in zip(part[ROW], part["images"], strict=True):
            names = [f"{SYNTHETIC}/{Path(image).name}" for image in images if Path(image).parent in places]
            if names:
                made[row] = " ".join(names)
    return made


def summary(audit: Path, asked: list[Asked], counts: dict[str, int]) -> str:
    """A line for each statistic, with the rows that its thresholds alone would keep, then the counts."""
    header = ("statistic", "lowest", "median", "highest", "thresholds", "rows within")
    body = []
    for operator in asked:
        for stat, limits in operator.statistics.items():
            table = pq.read_table(audit, columns=[operator.column(stat), operator.step])
            table = table.filter(table[operator.step].is_valid())  # of failed and removed rows nothing is known
            values = table[operator.column(stat)].to_numpy().astype(float)
            # As on the page: a row without a value, as one without an image, goes as the filter says.
            is_kept = table[operator.step].to_numpy().astype(bool)
            within = np.where(np.isfinite(values), inside(values, limits), is_kept)
            values = values[np.isfinite(values)]
            told = [f"{number:.4g}" for number in np.quantile(values, (0, 0.5, 1))] if len(values) else ["", "", ""]
            thresholds = ", ".join(f"{key} {limit:g}" for key, limit in limits.items() if abs(limit) < ENDLESS)
            body.append((operator.column(stat), *told, thresholds, f"{within.sum():,}"))
    lines = aligned([header, *body]) if body else []
    if idle := [operator.step for operator in asked if operator.is_idle]:
        lines.append(f"nothing to score for {', '.join(idle)}: {IDLE}")
    lines.append(
        f"{counts['in']:,} in + {counts['created']:,} created = {counts['scored']:,} scored + "
        f"{counts['removed']:,} removed by mappers + {counts['failed']:,} failed"
    )
    return "\n".join(map(visible, lines))
