"""What became of every row: the ledger a run keeps, its funnel and its Parquet file."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from solution.errors import UserError
from solution.files import replaced

SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "row": pa.int64(),  # the row's line in the seed, from 1; created rows are numbered on behind the last line
        "parent": pa.int64(),  # the row a created row came from, empty for a seed row
        "state": pa.string(),  # kept, dropped or failed
        "operator": pa.string(),  # who dropped or failed the row; of a kept row who created, rewrote or last scored it
        "score": pa.float64(),
        "threshold": pa.float64(),
        "reason": pa.string(),
        "text_before": pa.string(),
        "text_after": pa.string(),
        "image": pa.string(),
        "image_state": pa.string(),  # seed or synthetic
    }
)


@dataclass(slots=True)
class RowAudit:
    """One line of the audit; see SCHEMA for the meaning of each field."""

    id: str
    row: int
    parent: int | None
    text_before: str
    text_after: str
    image: str
    state: str = "kept"
    operator: str = ""
    score: float | None = None
    threshold: float | None = None
    reason: str = ""
    image_state: str = "seed"


@dataclass
class Step:
    """The counts of one operator; `reasons` counts dropped rows by what happened to them."""

    name: str
    rows_in: int
    dropped: int = 0
    failed: int = 0
    created: int = 0
    rewritten: int = 0
    seconds: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)
    scores: list[dict[str, object]] = field(default_factory=list)  # a histogram for each statistic of a filter

    @property
    def kept(self) -> int:
        """Rows that go on to the next operator."""
        return self.rows_in + self.created - self.dropped - self.failed


COUNTS = ("rows_in", "kept", "dropped", "failed", "created", "rewritten")


@dataclass
class Ledger:
    """Every row that a run has seen, by row number, and the steps so far."""

    on_error: str  # stop or skip
    rows: dict[int, RowAudit] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)  # the seed's keys, which the result keeps

    def begin(self, name: str, rows_in: int) -> None:
        """Start the step of an operator; a second step of one operator is called `name.2`."""
        uses = sum(step.name.split(".")[0] == name for step in self.steps)
        self.steps.append(Step(f"{name}.{uses + 1}" if uses else name, rows_in))

    def drop(self, row: int, reason: str, score: float | None = None, threshold: float | None = None) -> None:
        """The current operator decided against a row."""
        self._close(row, "dropped", reason, score, threshold)
        self.steps[-1].dropped += 1
        self.steps[-1].reasons[reason.split(": ")[0]] += 1

    def fail(self, row: int, reason: str) -> None:
        """The current operator could not judge a row. Raises UserError where the policy says stop."""
        self._close(row, "failed", reason, None, None)
        self.steps[-1].failed += 1
        if self.on_error == "stop":
            raise UserError(f"{self.name_row(row)}: {reason}; mend or remove the row, or go on with --on-error skip")

    def create(self, parent: int, text: str) -> int:
        """The current operator made a row out of another; returns the new row's number."""
        origin = self.rows[parent]
        row = next(reversed(self.rows)) + 1  # rows are booked in rising order
        self.rows[row] = RowAudit(
            origin.id, row, parent, origin.text_before, text, origin.image, operator=self.steps[-1].name,
            score=origin.score, threshold=origin.threshold, reason=f"made from row {parent}",
            image_state=origin.image_state,
        )  # fmt: skip
        self.steps[-1].created += 1
        return row

    def passed(self, row: int, score: float | None, threshold: float | None) -> None:
        """The current operator scored a row and kept it."""
        audit = self.rows[row]
        if score is not None:
            audit.score, audit.threshold = score, threshold
            if not audit.reason:
                audit.operator = self.steps[-1].name

    def note(self, row: int, reason: str) -> None:
        """The current operator did something to a row worth reading about."""
        self.rows[row].operator, self.rows[row].reason = self.steps[-1].name, reason

    def rewrite(self, row: int, text: str) -> None:
        """The current operator changed a row's text."""
        self.rows[row].text_after = text
        self.steps[-1].rewritten += 1

    def name_row(self, row: int) -> str:
        """`line 17 (id 0042, images/0042.jpg)`."""
        audit = self.rows[row]
        return f"line {row} (id {audit.id}, {audit.image})" if audit.id else f"line {row}"

    def totals(self) -> dict[str, int]:
        """Counts over all rows. Raises RuntimeError where they break conservation: a fault of this program."""
        states = Counter(audit.state for audit in self.rows.values())
        totals = {
            "in": sum(audit.parent is None for audit in self.rows.values()),
            "created": sum(step.created for step in self.steps),
            **{state: states[state] for state in ("kept", "dropped", "failed")},
        }
        by_step = {key: sum(getattr(step, key) for step in self.steps) for key in ("dropped", "failed")}
        kept = self.steps[-1].kept if self.steps else totals["in"]
        if totals["in"] + totals["created"] != totals["kept"] + totals["dropped"] + totals["failed"] or (
            (totals["dropped"], totals["failed"], totals["kept"]) != (by_step["dropped"], by_step["failed"], kept)
        ):
            raise RuntimeError(f"rows went missing: {totals} over the rows, {by_step} and {kept} kept over the steps")
        return totals

    def counts(self) -> list[dict[str, object]]:
        """Each step's name, counts, reasons for drops and seconds, for the run's record."""
        return [
            {"name": step.name}
            | {key: getattr(step, key) for key in COUNTS}
            | {"reasons": dict(step.reasons), "seconds": round(step.seconds, 2), "scores": step.scores}
            for step in self.steps
        ]

    def failures(self) -> list[dict[str, object]]:
        """id, row, image, operator and reason of every failed row, in order."""
        return [
            {"id": audit.id, "row": row, "image": audit.image, "operator": audit.operator, "reason": audit.reason}
            for row, audit in sorted(self.rows.items())
            if audit.state == "failed"
        ]

    def write(self, path: Path, **about: object) -> None:
        """Write the audit: Parquet, one line a row, in the order of row numbers.

        Steps and ``about`` stand in the file's metadata, as JSON under the key `run`.
        """
        audits = [audit for _, audit in sorted(self.rows.items())]
        schema = SCHEMA.with_metadata({"run": json.dumps(about | {"steps": self.counts()})})
        with replaced(path) as temporary:
            # Column by column: a dict for every row would take several times the ledger's memory.
            columns = [
                pa.array([getattr(audit, name) for audit in audits], SCHEMA.field(name).type) for name in SCHEMA.names
            ]
            pq.write_table(pa.table(columns, schema=schema), temporary)

    def _close(self, row: int, state: str, reason: str, score: float | None, threshold: float | None) -> None:
        audit = self.rows[row]
        audit.state, audit.operator, audit.reason = state, self.steps[-1].name, reason
        if score is not None:
            audit.score, audit.threshold = score, threshold


def funnel(ledger: Ledger) -> str:
    """The run's funnel as a table, its conservation line, the reasons for drops and the first failed rows."""
    header = ("operator", *(key.replace("_", " ") for key in COUNTS), "seconds")
    body = [(step.name, *(f"{getattr(step, key):,}" for key in COUNTS), f"{step.seconds:.1f}") for step in ledger.steps]
    totals = ledger.totals()
    lines = _aligned([header, *body])
    lines.append(
        f"{totals['in']:,} in + {totals['created']:,} created = {totals['kept']:,} kept + {totals['dropped']:,} dropped"
        f" + {totals['failed']:,} failed"
    )
    for step in ledger.steps:
        lines += [f"  dropped {count:,} by {step.name}: {reason}" for reason, count in step.reasons.most_common()]
    failures = ledger.failures()
    lines += [f"  failed {ledger.name_row(row['row'])} in {row['operator']}: {row['reason']}" for row in failures[:10]]
    if len(failures) > 10:
        lines.append(f"  ... and {len(failures) - 10:,} more failed rows, all in the audit")
    return "\n".join(lines)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Text rows with the first column to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
