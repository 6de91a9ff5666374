"""`process.py report`: one self-contained HTML page about a run, from its audit.

Shows samples, the most informative rows first, so that it stays readable at 400,000 rows: pairs nearest to the
threshold that dropped them, new captions that gained most, copies next to what they repeat. Reads only
the audit and the images of the rows shown.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from solution.operators.common.captions import caption_of
from solution.operators.common.images import ImageError
from solution.operators.common.reasons import REPEATS_CAPTION, REPEATS_IMAGE, kind_of, recaption_gain, repeated_id
from solution.report.page import Card, Gallery, RunShown, Section, page, thumbnail
from solution.runner.errors import UserError
from solution.runner.files import replaced, shown
from solution.runner.record import audits_in
from solution.terminal import visible

CARDS = 12  # per gallery
_THUMBNAIL = 320  # px, the longer side; shown at half of it, so that it is crisp on dense screens


def write_report(audit: Path, recipe: str, images: Path | None, target: Path) -> int:
    """Write the page about the run of the ``recipe`` whose audit this is. ``images`` replaces the recorded image root.

    Returns how many of the seed's images that it should show are not there. Raises UserError for a missing or foreign
    audit, and where ``images`` is no folder.
    """
    report = opened(audit, images)
    sections = [
        Section("Dropped pairs", report.dropped()),
        Section("New captions", report.rewritten()),
        Section("Synthetic images", report.synthetic()),
        Section("Copies found", report.copies()),
        Section("Failed rows", report.failed()),
        Section("Best and worst of what is kept", report.kept()),
    ]
    shown_sections = [section for section in sections if section.galleries]
    about = f"Galleries show at most {CARDS} rows each; all rows, with scores and reasons, are in {shown(audit)}."
    text = page(f"Recipe {recipe}", about, [report.as_shown(recipe)], shown_sections)
    with replaced(target) as temporary:
        temporary.write_text(visible(text, kept="\n\t"), encoding="utf-8")
    return report.missing


def opened(audit: Path, images: Path | None) -> "Report":
    """The report on an audit. Raises UserError as `write_report`."""
    if images and not images.is_dir():
        raise UserError(f"--images {images} is no folder: give the one that the rows' image paths start from")
    try:
        file = pq.ParquetFile(audit)
        return Report(file, json.loads((file.schema_arrow.metadata or {})[b"run"]), images)
    except FileNotFoundError:
        there = ", ".join(sorted(audits_in(audit.parent))) or "none yet"
        raise UserError(f"audit {shown(audit)} is missing: run the recipe first; audits there: {there}") from None
    except (pa.ArrowInvalid, OSError, ValueError, KeyError):
        raise UserError(f"audit {shown(audit)} was not written by process.py: run the recipe again") from None


class Report:
    """The audit as sections of a page; a row group of it is in memory at a time."""

    def __init__(self, file: pq.ParquetFile, about: dict[str, Any], images: Path | None) -> None:
        self.file = file
        self.about = about
        self.steps: list[dict[str, Any]] = about["steps"]
        self.images = images or Path(about["images"])
        self.output = Path(about["output"])
        self.missing = 0  # images of the seed that are not there

    def as_shown(self, name: str) -> RunShown:
        """Counts, funnel, and what the audit says of the run."""
        facts, recipe = {}, self.about.get("recipe")
        if recipe:
            versions = self.about["versions"]
            facts = {
                "recipe": recipe["path"],
                "seed": ", ".join(self.about["dataset"]),
                "images": str(self.images),
                "finished": self.about["date"].replace("T", " "),
                "versions": ", ".join(f"{package} {number}" for package, number in versions.items()),
            }
            if self.about["limit"]:
                facts["trial of"] = f"the first {self.about['limit']:,} rows"
        return RunShown(name, self._totals(), self.steps, facts, recipe["text"] if recipe else "")

    def _totals(self) -> dict[str, int]:
        """Rows in, created, and in each state at the end; of the kept ones, how many are different."""
        states: Counter[str] = Counter()
        created = 0
        images, pairs = set(), set()
        for group in self.groups(["state", "parent", "image", "text_after"]):
            states.update({entry["values"]: entry["counts"] for entry in pc.value_counts(group["state"]).to_pylist()})
            created += group.num_rows - group["parent"].null_count
            kept = group.filter(pc.equal(group["state"], "kept"))
            own = list(map(hash, kept["image"].to_pylist()))
            images.update(own)
            pairs.update(zip(own, map(hash, kept["text_after"].to_pylist()), strict=True))
        ends = {state: states[state] for state in ("kept", "dropped", "failed")}
        totals = {"rows in": states.total() - created, "created": created} | ends
        if len(pairs) < states["kept"]:
            totals |= {"copies among the kept": states["kept"] - len(pairs)}
        return totals | {"different images kept": len(images)}

    def dropped(self) -> list[Gallery]:
        """For each operator, the dropped pairs nearest to its threshold: those a slightly other one would keep."""
        galleries = []
        for step in self.steps:
            # Without a threshold of its own (a selector), the rows that scored best are the ones to look at.
            has_threshold = bool(step["scores"])

            def is_own(rows: pa.Table, name: str = step["name"]) -> pa.ChunkedArray:
                is_dropped = pc.and_(pc.equal(rows["state"], "dropped"), pc.equal(rows["operator"], name))
                return pc.and_not(is_dropped, _has_reason(rows, [REPEATS_IMAGE, REPEATS_CAPTION]))

            def distance(rows: pa.Table, has_threshold: bool = has_threshold) -> pa.ChunkedArray:
                to_threshold = pc.abs(pc.subtract(rows["score"], rows["threshold"]))
                return pc.fill_null(to_threshold if has_threshold else pc.negate(rows["score"]), 0.0)

            count, first = self._first(is_own, distance) if step["dropped"] else (0, [])
            if count:
                order = "nearest to the threshold first" if has_threshold else "highest score first"
                galleries.append(Gallery(step["name"], f"{count:,} pairs; {order}", [self.card(row) for row in first]))
        return galleries

    def rewritten(self) -> list[Gallery]:
        """Captions that an operator replaced or cleaned, the largest gain in score first, then the largest change."""
        galleries = []
        for name, order, about in (
            ("Recaptioned", _by_gain, "captions that a model replaced; the largest gain in fit first"),
            ("Cleaned", _by_change, "captions changed in other ways; the largest change of length first"),
        ):
            count, first = self._first(_is_rewritten, order)
            if count:
                galleries.append(Gallery(name, f"{count:,} {about}", [self.card(row) for row in first]))
        return galleries

    def synthetic(self) -> list[Gallery]:
        """Images generated from captions, next to the image of the row they came from, the best score first."""
        count, rows = self._first(
            lambda rows: pc.equal(rows["image_state"], "synthetic"),
            lambda rows: pc.negate(pc.fill_null(rows["score"], 0.0)),
        )
        if not count:
            return []
        parents = self.by("row", [row["parent"] for row in rows if row["parent"] is not None])
        cards = [self.card(row, parents.get(row["parent"])) for row in rows]
        text = f"{count:,} rows; on the left the image of the row that each came from"
        return [Gallery("Synthetic pairs", text, cards)]

    def copies(self) -> list[Gallery]:
        """Rows that repeat another row's image or caption, next to it."""
        galleries = []
        for heading, kind in (("Repeated images", REPEATS_IMAGE), ("Repeated captions", REPEATS_CAPTION)):
            count, rows = self._first(lambda rows, kind=kind: _has_reason(rows, [kind]))
            if count:
                names = [repeated_id(row["reason"]) for row in rows]
                twins = self.by("id", [name for name in names if name])
                cards = [self.card(row, twins.get(name)) for row, name in zip(rows, names, strict=True)]
                text = f"{count:,} rows" + ("; on the left the image that is kept" if twins else "")
                galleries.append(Gallery(heading, text, cards))
        return galleries

    def failed(self) -> list[Gallery]:
        """The first rows that failed."""
        count, rows = self._first(lambda rows: pc.equal(rows["state"], "failed"))
        text = f"{count:,} rows that an operator could not judge; the first ones"
        return [Gallery("Failed", text, [self.card(row) for row in rows])] if count else []

    def kept(self) -> list[Gallery]:
        """The two ends of the last score among the kept rows, each seed row once."""

        def is_scored(rows: pa.Table) -> pa.ChunkedArray:
            is_first = pc.and_(pc.equal(rows["state"], "kept"), pc.is_null(rows["parent"]))
            return pc.and_(is_first, pc.is_valid(rows["score"]))

        count, worst = self._first(is_scored, lambda rows: rows["score"], CARDS // 2)
        if not count:
            return []
        _, best = self._first(is_scored, lambda rows: rows["score"], -(CARDS // 2))
        return [
            Gallery("Highest score", "by the last operator that scored", self._counted(list(reversed(best)))),
            Gallery("Lowest score", "what a stricter threshold would drop first", self._counted(worst)),
        ]

    def _counted(self, rows: list[dict[str, Any]]) -> list[Card]:
        """Cards of kept rows, with how often each pair is kept."""
        times: Counter[tuple[str, str]] = Counter()
        wanted = pa.array([row["image"] for row in rows], pa.string())
        for group in self.groups(["state", "image", "text_after"]):
            own = group.filter(pc.and_(pc.equal(group["state"], "kept"), pc.is_in(group["image"], wanted)))
            times.update(zip(own["image"].to_pylist(), own["text_after"].to_pylist(), strict=True))
        return [self.card(row, times=times[row["image"], row["text_after"]]) for row in rows]

    def groups(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """The audit's lines, part by part."""
        return (self.file.read_row_group(group, columns) for group in range(self.file.num_row_groups))

    def _first(
        self,
        is_wanted: Callable[[pa.Table], pa.ChunkedArray],
        order: Callable[[pa.Table], pa.Array | pa.ChunkedArray] | None = None,
        most: int = CARDS,
    ) -> tuple[int, list[dict[str, Any]]]:
        """(how many lines are wanted, the ``most`` first ones by ``order``, the last ones where ``most`` is negative).

        ``order`` gives a number for each of some lines, null for one that is not wanted after all; without it the
        lines stay in the audit's order, as lines with equal numbers do.
        """
        count, first = 0, None
        for group in self.groups():
            rows = group.filter(is_wanted(group))
            numbers = pa.array(order(rows).to_pylist() if order else [0.0] * len(rows), pa.float64())
            rows = rows.append_column("order", numbers).filter(pc.is_valid(numbers))
            count += len(rows)
            rows = rows if first is None else pa.concat_tables([first, rows])
            indices = pc.sort_indices(rows["order"])
            first = rows.take(indices[:most] if most > 0 else indices[most:])
        return count, first.to_pylist() if first else []

    def by(self, column: str, values: list[Any]) -> dict[Any, dict[str, Any]]:
        """The audit's lines of some ids or row numbers, by them."""
        wanted = pa.array(values, self.file.schema_arrow.field(column).type)
        found = [row for group in self.groups() for row in group.filter(pc.is_in(group[column], wanted)).to_pylist()]
        return {row[column]: row for row in reversed(found)}

    def card(self, row: dict[str, Any], twin: dict[str, Any] | None = None, times: int = 1) -> Card:
        """A gallery's card of one audit line; ``twin`` is the line whose image is on the left.

        ``times`` says how often the pair is kept.
        """
        lines = [twin, row] if twin else [row]
        score = f"{row['operator']} {row['score']:.4g}" if row["score"] is not None and not row["reason"] else ""
        copies = f"kept {times} times" if times > 1 else ""
        remark = " · ".join(part for part in (f"id {row['id']}", score, row["reason"], copies) if part)
        return Card(
            [self._thumbnail(line["image"], line["image_state"]) for line in lines],
            caption_of(row["text_before"]),
            caption_of(row["text_after"]),
            remark,
        )

    def _thumbnail(self, images: str, state: str) -> str | None:
        """The first image of a row as a small JPEG in a data URI; None where it cannot be read."""
        root = self.output if state == "synthetic" else self.images
        # The audit joins the paths of several images with a space, which may also be part of one path.
        name = images if os.path.isfile(root / images) else images.split(" ")[0]
        if not _is_inside(root / name, root):
            return None
        try:
            return thumbnail(root / name, _THUMBNAIL, 72)
        except ImageError:  # also one that is broken: it failed its row, and lies nowhere else
            self.missing += bool(name) and state == "seed" and not os.path.lexists(root / name)
            return None


def _is_inside(file: Path, root: Path) -> bool:
    """Whether no link, no absolute path and no `..` leads out of the folder: rows with such images have failed."""
    try:
        return Path(os.path.realpath(file)).is_relative_to(os.path.realpath(root))
    except ValueError:  # a NUL
        return False


def _has_reason(rows: pa.Table, kinds: list[str]) -> pa.Array:
    """Lines whose reason is of one of the kinds."""
    return pc.is_in(pa.array(map(kind_of, rows["reason"].to_pylist()), pa.string()), pa.array(kinds))


def _is_rewritten(rows: pa.Table) -> pa.ChunkedArray:
    """Seed rows whose caption is another one now."""
    is_changed = pc.and_(pc.is_null(rows["parent"]), pc.not_equal(rows["text_before"], rows["text_after"]))
    return pc.and_(is_changed, pc.not_equal(rows["state"], "failed"))


def _by_gain(rows: pa.Table) -> pa.Array:
    """How much better the old caption fits than the new one, null for one that was not replaced by a model's."""
    gains = map(recaption_gain, rows["reason"].to_pylist())
    return pa.array([None if gain is None else -gain for gain in gains], pa.float64())


def _by_change(rows: pa.Table) -> pa.Array:
    """How much shorter or longer a caption has become, the most first; null for one that a model replaced."""
    lengths = pc.subtract(pc.utf8_length(rows["text_after"]), pc.utf8_length(rows["text_before"])).to_pylist()
    reasons = rows["reason"].to_pylist()
    return pa.array(
        [
            None if recaption_gain(reason) is not None else -abs(length)
            for reason, length in zip(reasons, lengths, strict=True)
        ]
    )
