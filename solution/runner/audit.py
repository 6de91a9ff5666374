"""What became of every row: the ledger a run keeps, its funnel and its Parquet file."""

import json
import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any, TypedDict

import pyarrow as pa
import pyarrow.parquet as pq

from solution.operators.common.reasons import IMAGE_CHANGED, created_from, kind_of
from solution.runner.configuration.keys import clipped
from solution.runner.errors import UserError
from solution.runner.files import replaced, shown
from solution.terminal import visible

SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "row": pa.int64(),  # the row's line in the seed, from 1; created rows are numbered after the last line
        "parent": pa.int64(),  # the row a created row came from, empty for a seed row
        "state": pa.string(),  # kept, dropped or failed
        "operator": pa.string(),  # that dropped or failed the row, or that created, rewrote or last scored a kept one
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


class Failure(TypedDict):
    """A failed row, as the run's record lists it."""

    id: str
    row: int
    image: str
    operator: str
    reason: str


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
    remark: str = ""  # for the user: errors that the operator logged
    reasons: Counter[str] = field(default_factory=Counter)
    scores: list[dict[str, object]] = field(default_factory=list)  # a histogram for each statistic of a filter

    @property
    def kept(self) -> int:
        """Rows that the next operator gets."""
        return self.rows_in + self.created - self.dropped - self.failed


COUNTS = ("rows_in", "kept", "dropped", "failed", "created", "rewritten")


_TABLES = """
CREATE TABLE IF NOT EXISTS rows (
    id TEXT, row INTEGER PRIMARY KEY, parent INTEGER, state TEXT, operator TEXT, score REAL, threshold REAL,
    reason TEXT, text_before TEXT, text_after TEXT, image TEXT, image_state TEXT
);
CREATE TABLE IF NOT EXISTS checkpoint (state TEXT);
"""
_IN_MEMORY = Path(":memory:")  # SQLite's name for no file
_VALUES = attrgetter(*SCHEMA.names)
_NUMBER = re.compile(r"(?<![\w./-])\d+(?![\w/-])")  # not in a name
_REASONS = 3  # the commonest reasons for failures that are told of a step
_GROUP = 1 << 14  # rows that are in memory at once while the audit is written, and a row group of its file


class Ledger:
    """Every row that a run has seen, in a SQLite file instead of memory, and the steps so far.

    Changes take effect at the next `commit`: a process that dies before leaves the file as it was.
    """

    def __init__(self, on_error: str, file: Path = _IN_MEMORY) -> None:
        """``on_error``: stop or skip. Without ``file`` the rows are kept in memory.

        Raises UserError where the file is in use by another process, or no ledger.
        """
        self.on_error = on_error
        self.steps: list[Step] = []
        self.columns: list[str] = []  # the seed's keys, which the result keeps
        self._rows = sqlite3.connect(file, timeout=0, isolation_level=None)
        try:
            # One process alone, until it ends; a log in front of the file makes a commit cheap and safe from a kill.
            self._rows.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._rows.execute("PRAGMA journal_mode = WAL")
            self._rows.execute("PRAGMA synchronous = NORMAL")
            self._rows.executescript(_TABLES)
            self._rows.execute("BEGIN IMMEDIATE")
        except sqlite3.DatabaseError as error:
            raise UserError(
                f"{shown(file.parent)} holds an unfinished run that cannot be opened ({error}): wait for the process "
                "that uses it, or remove the folder"
            ) from error

    def commit(self, state: dict[str, Any]) -> None:
        """Make all changes permanent, together with the steps and the caller's ``state``."""
        steps = [vars(step) | {"reasons": dict(step.reasons)} for step in self.steps]
        text = json.dumps(state | {"columns": self.columns, "steps": steps})
        self._rows.execute("DELETE FROM checkpoint")
        self._rows.execute("INSERT INTO checkpoint VALUES (?)", (text,))
        self._rows.execute("COMMIT")
        self._rows.execute("BEGIN IMMEDIATE")

    def resume(self) -> dict[str, Any] | None:
        """Load the steps of the last commit and return the state given to it; None without one."""
        found = self._rows.execute("SELECT state FROM checkpoint").fetchone()
        if found is None:
            return None
        state = json.loads(found[0])
        self.columns = state.pop("columns")
        self.steps = [Step(**step | {"reasons": Counter(step["reasons"])}) for step in state.pop("steps")]
        return state

    def forget(self) -> None:
        """Start with no rows and no steps."""
        self._rows.execute("DELETE FROM rows")
        self._rows.execute("DELETE FROM checkpoint")
        self.steps, self.columns = [], []

    def close(self) -> None:
        """Close the file; the ledger cannot be used afterwards."""
        self._rows.close()

    def begin(self, name: str, rows_in: int) -> None:
        """Start the step of an operator; a second step of one operator is called `name.2`."""
        uses = sum(step.name.split(".")[0] == name for step in self.steps)
        self.steps.append(Step(f"{name}.{uses + 1}" if uses else name, rows_in))

    def add(self, audits: Iterable[RowAudit]) -> None:
        """Rows of the seed, in rising order of their numbers."""
        marks = ", ".join("?" * len(SCHEMA))
        self._rows.executemany(f"INSERT INTO rows VALUES ({marks})", map(_VALUES, audits))

    def drop(self, verdicts: Iterable[tuple[int, str, float | None, float | None]]) -> None:
        """The current operator dropped rows; a verdict is (row, reason, score, threshold)."""
        step = self.steps[-1]
        scored, others = [], []
        for row, reason, score, threshold in verdicts:
            step.dropped += 1
            step.reasons[kind_of(reason)] += 1
            if score is None:
                others.append((step.name, reason, row))
            else:
                scored.append((step.name, reason, score, threshold, row))
        change = "UPDATE rows SET state = 'dropped', operator = ?, reason = ?"
        self._rows.executemany(f"{change} WHERE row = ?", others)
        self._rows.executemany(f"{change}, score = ?, threshold = ? WHERE row = ?", scored)

    def fail(self, row: int, reason: str) -> None:
        """The current operator could not judge a row. Raises UserError where the policy says stop."""
        self._rows.execute(
            "UPDATE rows SET state = 'failed', operator = ?, reason = ? WHERE row = ?",
            (self.steps[-1].name, reason, row),
        )
        self.steps[-1].failed += 1
        if self.on_error == "stop":
            raise UserError(f"{self.name_row(row)}: {reason}; fix or remove the row, or use --on-error skip")

    def take_back(self, reason: str) -> list[int]:
        """Rows that the current operator failed for a reason go on after all; returns their numbers, rising."""
        name = self.steps[-1].name
        where = "FROM rows WHERE state = 'failed' AND operator = ? AND reason = ?"
        rows = [row for (row,) in self._rows.execute(f"SELECT row {where} ORDER BY row", (name, reason))]
        self._rows.executemany("UPDATE rows SET state = 'kept' WHERE row = ?", ((row,) for row in rows))
        self.steps[-1].failed -= len(rows)
        return rows

    def create(self, parents: Sequence[int], texts: Sequence[str]) -> list[int]:
        """The current operator created a row with a text from each parent; returns the new rows' numbers."""
        (last,) = self._rows.execute("SELECT max(row) FROM rows").fetchone()
        name, numbers = self.steps[-1].name, range(last + 1, last + 1 + len(parents))
        self._rows.executemany(
            "INSERT INTO rows SELECT id, ?, row, 'kept', ?, score, threshold, ?, text_before, ?, image, image_state "
            "FROM rows WHERE row = ?",
            (
                (row, name, created_from(parent), text, parent)
                for row, parent, text in zip(numbers, parents, texts, strict=True)
            ),
        )
        self.steps[-1].created += len(parents)
        return list(numbers)

    def passed(self, scores: Iterable[tuple[int, float, float | None]]) -> None:
        """The current operator scored rows and kept them; a score is (row, score, threshold)."""
        name = self.steps[-1].name
        self._rows.executemany(
            "UPDATE rows SET score = ?, threshold = ?, operator = iif(reason = '', ?, operator) WHERE row = ?",
            ((score, threshold, name, row) for row, score, threshold in scores),
        )

    def note(self, notes: Iterable[tuple[int, str]]) -> None:
        """Record what the current operator did to rows; a note is (row, reason)."""
        name = self.steps[-1].name
        self._rows.executemany(
            "UPDATE rows SET operator = ?, reason = ? WHERE row = ?", ((name, reason, row) for row, reason in notes)
        )

    def rewrite(self, texts: Sequence[tuple[int, str]]) -> None:
        """The current operator changed the text of rows; given as (row, text)."""
        self._rows.executemany("UPDATE rows SET text_after = ? WHERE row = ?", ((text, row) for row, text in texts))
        self.steps[-1].rewritten += len(texts)

    def replace_images(self, rows: Sequence[tuple[int, bool]]) -> None:
        """The current operator gave rows another image; a row comes with whether it is counted as rewritten already."""
        name = self.steps[-1].name
        self._rows.executemany(  # an operator of ours has said more
            "UPDATE rows SET operator = ?, reason = ? WHERE row = ? AND (operator != ? OR reason = '')",
            ((name, IMAGE_CHANGED, row, name) for row, _ in rows),
        )
        self.steps[-1].rewritten += sum(not is_counted for _, is_counted in rows)

    def result(self, rows: Iterable[tuple[int, str, str, str]]) -> None:
        """What is written of rows: (row, text, image, image_state)."""
        self._rows.executemany(
            "UPDATE rows SET text_after = ?, image = ?, image_state = ? WHERE row = ?",
            ((text, image, state, row) for row, text, image, state in rows),
        )

    def find(self, row: int) -> RowAudit:
        """A row's line. Raises KeyError for a number that no row has."""
        found = self._rows.execute("SELECT * FROM rows WHERE row = ?", (row,)).fetchone()
        if found is None:
            raise KeyError(row)
        return RowAudit(**dict(zip(SCHEMA.names, found, strict=True)))

    def seed_images(self) -> list[str]:
        """Paths below the image root of all images that rows have, each once."""
        found = self._rows.execute("SELECT DISTINCT image FROM rows WHERE image_state = 'seed' AND image != ''")
        return [image for (image,) in found]

    def failed_now(self) -> list[int]:
        """The rows that the current operator failed."""
        name = (self.steps[-1].name,)
        found = self._rows.execute("SELECT row FROM rows WHERE state = 'failed' AND operator = ? ORDER BY row", name)
        return [row for (row,) in found]

    def name_row(self, row: int) -> str:
        """`line 17 (id 0042, images/0042.jpg)`."""
        audit = self.find(row)
        if not audit.id:
            return f"line {row}"
        return visible(f"line {row} (id {clipped(audit.id)}, {clipped(audit.image, 200)})")

    def totals(self) -> dict[str, int]:
        """Counts over all rows. Raises RuntimeError where they break conservation: a fault of this program."""
        states = dict(self._rows.execute("SELECT state, count(*) FROM rows GROUP BY state"))
        totals = {
            "in": self._rows.execute("SELECT count(*) FROM rows WHERE parent IS NULL").fetchone()[0],
            "created": sum(step.created for step in self.steps),
            **{state: states.get(state, 0) for state in ("kept", "dropped", "failed")},
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

    def failures(self) -> list[Failure]:
        """Every failed row, in order."""
        found = self._rows.execute(
            "SELECT id, row, image, operator, reason FROM rows WHERE state = 'failed' ORDER BY row"
        )
        return [
            Failure(id=identifier, row=row, image=image, operator=operator, reason=reason)
            for identifier, row, image, operator, reason in found
        ]

    def failure_reasons(self, name: str) -> list[tuple[str, int]]:
        """Why the rows failed that a step failed, the commonest reason first, with its count.

        Reasons that differ only in the row's image and in numbers are one, with `...` and N in their place.
        """
        counts: Counter[str] = Counter()
        texts: dict[str, set[str]] = {}  # of each kind, two different ones at most
        for reason, image in self._rows.execute(
            "SELECT reason, image FROM rows WHERE state = 'failed' AND operator = ? ORDER BY row", (name,)
        ):
            kind = _NUMBER.sub("N", reason.replace(image, "...") if image else reason)
            counts[kind] += 1
            if len(seen := texts.setdefault(kind, set())) < 2:
                seen.add(reason)
        return [(kind if len(texts[kind]) > 1 else texts[kind].pop(), count) for kind, count in counts.most_common()]

    def write(self, path: Path, **about: object) -> None:
        """Write the audit: Parquet, one line per row, in the order of row numbers.

        Steps and ``about`` are in the file's metadata, as JSON under the key `run`.
        """
        schema = SCHEMA.with_metadata({"run": json.dumps(about | {"steps": self.counts()})})
        with replaced(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
            for table in self.tables():
                writer.write_table(table.cast(schema))

    def tables(self) -> Iterator[pa.Table]:
        """Every row, in the order of row numbers, some thousand at a time."""
        found = self._rows.execute("SELECT * FROM rows ORDER BY row")
        while lines := found.fetchmany(_GROUP):
            yield pa.table(list(map(pa.array, zip(*lines, strict=True), SCHEMA.types)), schema=SCHEMA)


def funnel(ledger: Ledger) -> str:
    """The run's funnel as a table, its conservation line, reasons for drops, first failed rows and commonest faults."""
    header = ("operator", *(key.replace("_", " ") for key in COUNTS), "seconds")
    body = [(step.name, *(f"{getattr(step, key):,}" for key in COUNTS), f"{step.seconds:.1f}") for step in ledger.steps]
    totals = ledger.totals()
    lines = aligned([header, *body])
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
        for step in ledger.steps:
            for reason, count in ledger.failure_reasons(step.name)[:_REASONS]:
                lines.append(f"  failed {count:,} of {step.failed:,} in {step.name}: {reason}")
    lines += [f"  {step.name} {step.remark}" for step in ledger.steps if step.remark]
    return "\n".join(map(visible, lines))


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Text rows with the first column to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
