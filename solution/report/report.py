"""`process.py report`: one self-contained HTML page about a run, from its audit.

Shows samples, the most informative rows first, so that it stays readable at 400,000 rows: pairs beside the limit that
dropped them, new captions that gained most, copies next to what they repeat. Reads the audit and thumbnails only.
"""

import base64
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from solution.operators.common.captions import caption_of
from solution.operators.common.images import ImageError, open_image
from solution.operators.common.reasons import REPEATS_CAPTION, REPEATS_IMAGE, kind_of, recaption_gain, repeated_id
from solution.report.page import Card, chart, funnel_table, gallery, legend, page, tiles
from solution.runner.errors import UserError
from solution.runner.files import replaced, shown

_CARDS = 12  # a gallery
_THUMBNAIL = 320  # px, the longer side; shown at half of it, so that it is crisp on dense screens


def write_report(audit: Path, images: Path | None, target: Path) -> None:
    """Write the page about the run whose audit this is. ``images`` takes the place of the recorded image root.

    Raises UserError for a missing or foreign audit.
    """
    try:
        file = pq.ParquetFile(audit)
        about = json.loads((file.schema_arrow.metadata or {})[b"run"])
    except FileNotFoundError:
        there = ", ".join(sorted(file.stem for file in audit.parent.glob("*.parquet"))) or "none yet"
        raise UserError(f"audit {shown(audit)} is missing: run the recipe first; audits there: {there}") from None
    except (pa.ArrowInvalid, KeyError):
        raise UserError(f"audit {shown(audit)} was not written by process.py: run the recipe again") from None
    with replaced(target) as temporary:
        temporary.write_text(_Report(file, about, images).page(audit), encoding="utf-8")


class _Report:
    """The audit as sections of a page; a row group of it is in memory at a time."""

    def __init__(self, file: pq.ParquetFile, about: dict[str, Any], images: Path | None) -> None:
        self.file = file
        self.steps: list[dict[str, Any]] = about["steps"]
        self.images = images or Path(about["images"])
        self.output = Path(about["output"])

    def page(self, audit: Path) -> str:
        """The HTML text."""
        sections = [("What became of the rows", self._numbers() + funnel_table(self.steps))]
        charts = [chart(step["name"], scores) for step in self.steps for scores in step["scores"]]
        if charts:
            sections.append(("Scores and limits", legend() + f'<div class="charts">{"".join(charts)}</div>'))
        for name, content in (
            ("Dropped pairs", self._dropped()),
            ("New captions", self._rewritten()),
            ("Synthetic pictures", self._synthetic()),
            ("Copies found", self._copies()),
            ("Failed rows", self._failed()),
            ("Best and worst of what is kept", self._kept()),
        ):
            if content:
                sections.append((name, content))
        about = f"Galleries show at most {_CARDS} rows each; all rows, with scores and reasons, are in {shown(audit)}."
        return page(f"Recipe {audit.stem}", about, sections)

    def _numbers(self) -> str:
        states: Counter[str] = Counter()
        made = 0
        for group in self._groups(["state", "parent"]):
            states.update({entry["values"]: entry["counts"] for entry in pc.value_counts(group["state"]).to_pylist()})
            made += group.num_rows - group["parent"].null_count
        return tiles(
            {"rows in": states.total() - made, "created": made}
            | {state: states[state] for state in ("kept", "dropped", "failed")}
        )

    def _dropped(self) -> str:
        """For each limit, the dropped pairs nearest to it: those a slightly different limit would have kept."""
        parts = []
        for step in self.steps:
            # Without a limit of its own (a selector), the rows that scored best are the ones to look at.
            has_limit = bool(step["scores"])

            def is_own(rows: pa.Table, name: str = step["name"]) -> pa.ChunkedArray:
                is_dropped = pc.and_(pc.equal(rows["state"], "dropped"), pc.equal(rows["operator"], name))
                return pc.and_not(is_dropped, _has_reason(rows, [REPEATS_IMAGE, REPEATS_CAPTION]))

            def far(rows: pa.Table, has_limit: bool = has_limit) -> pa.ChunkedArray:
                far = pc.abs(pc.subtract(rows["score"], rows["threshold"])) if has_limit else pc.negate(rows["score"])
                return pc.fill_null(far, 0.0)

            count, first = self._first(is_own, far) if step["dropped"] else (0, [])
            if count:
                order = "those nearest to the limit first" if has_limit else "those with the highest score first"
                parts.append(gallery(step["name"], f"{count:,} pairs; {order}", [self._card(row) for row in first]))
        return "".join(parts)

    def _rewritten(self) -> str:
        """Captions that an operator replaced or cleaned, the largest gain in score first, then the largest change."""
        parts = []
        for name, order, about in (
            ("Recaptioned", _by_gain, "captions that a model wrote anew; the largest gain in fit first"),
            ("Cleaned", _by_change, "captions changed in other ways; the largest change of length first"),
        ):
            count, first = self._first(_is_rewritten, order)
            if count:
                parts.append(gallery(name, f"{count:,} {about}", [self._card(row) for row in first]))
        return "".join(parts)

    def _synthetic(self) -> str:
        """Pictures made from captions, beside the picture of the row they came from, the best score first."""
        count, rows = self._first(
            lambda rows: pc.equal(rows["image_state"], "synthetic"),
            lambda rows: pc.negate(pc.fill_null(rows["score"], 0.0)),
        )
        if not count:
            return ""
        parents = self._by("row", [row["parent"] for row in rows if row["parent"] is not None])
        cards = [self._card(row, parents.get(row["parent"])) for row in rows]
        text = f"{count:,} rows; on the left the picture of the row that each came from"
        return gallery("Synthetic pairs", text, cards)

    def _copies(self) -> str:
        """Rows that repeat another row's picture or caption, next to it."""
        parts = []
        for heading, kind in (("Repeated images", REPEATS_IMAGE), ("Repeated captions", REPEATS_CAPTION)):
            count, rows = self._first(lambda rows, kind=kind: _has_reason(rows, [kind]))
            if count:
                names = [repeated_id(row["reason"]) for row in rows]
                twins = self._by("id", [name for name in names if name])
                cards = [self._card(row, twins.get(name)) for row, name in zip(rows, names, strict=True)]
                text = f"{count:,} rows" + ("; on the left the picture that stays" if twins else "")
                parts.append(gallery(heading, text, cards))
        return "".join(parts)

    def _failed(self) -> str:
        count, rows = self._first(lambda rows: pc.equal(rows["state"], "failed"))
        text = f"{count:,} rows that an operator could not judge; the first ones"
        return gallery("Failed", text, [self._card(row) for row in rows]) if count else ""

    def _kept(self) -> str:
        """The two ends of the last score among the kept rows, each picture once."""

        def is_scored(rows: pa.Table) -> pa.ChunkedArray:
            is_first = pc.and_(pc.equal(rows["state"], "kept"), pc.is_null(rows["parent"]))
            return pc.and_(is_first, pc.is_valid(rows["score"]))

        count, worst = self._first(is_scored, lambda rows: rows["score"], _CARDS // 2)
        if not count:
            return ""
        _, best = self._first(is_scored, lambda rows: rows["score"], -(_CARDS // 2))
        return gallery(
            "Highest score", "by the last operator that scored", [self._card(row) for row in reversed(best)]
        ) + gallery("Lowest score", "what a stricter limit would take first", [self._card(row) for row in worst])

    def _groups(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """The audit's lines, part by part."""
        return (self.file.read_row_group(group, columns) for group in range(self.file.num_row_groups))

    def _first(
        self,
        is_meant: Callable[[pa.Table], pa.ChunkedArray],
        order: Callable[[pa.Table], pa.Array | pa.ChunkedArray] | None = None,
        most: int = _CARDS,
    ) -> tuple[int, list[dict[str, Any]]]:
        """(how many lines are meant, the ``most`` first ones by ``order``, the last ones where it is negative).

        ``order`` gives a number for each of some lines, null for one that is not meant after all; without it the lines
        stay in the audit's order, as lines with equal numbers do.
        """
        count, first = 0, None
        for group in self._groups():
            rows = group.filter(is_meant(group))
            numbers = pa.array(order(rows).to_pylist() if order else [0.0] * len(rows), pa.float64())
            rows = rows.append_column("order", numbers).filter(pc.is_valid(numbers))
            count += len(rows)
            rows = rows if first is None else pa.concat_tables([first, rows])
            places = pc.sort_indices(rows["order"])
            first = rows.take(places[:most] if most > 0 else places[most:])
        return count, first.to_pylist() if first else []

    def _by(self, column: str, values: list[Any]) -> dict[Any, dict[str, Any]]:
        """The audit's lines of some ids or row numbers, by them."""
        wanted = pa.array(values, self.file.schema_arrow.field(column).type)
        found = [row for group in self._groups() for row in group.filter(pc.is_in(group[column], wanted)).to_pylist()]
        return {row[column]: row for row in reversed(found)}

    def _card(self, row: dict[str, Any], beside: dict[str, Any] | None = None) -> Card:
        """A gallery's card of one audit line; ``beside`` is the line whose picture stands on the left."""
        lines = [beside, row] if beside else [row]
        score = f"{row['operator']} {row['score']:.4g}" if row["score"] is not None and not row["reason"] else ""
        remark = " · ".join(part for part in (f"id {row['id']}", score, row["reason"]) if part)
        return Card(
            [self._thumbnail(line["image"]) for line in lines],
            caption_of(row["text_before"]),
            caption_of(row["text_after"]),
            remark,
        )

    def _thumbnail(self, images: str) -> str | None:
        """The first picture of a row as a small JPEG in a data URI; None where it cannot be read."""
        name = images.split(" ")[0]
        root = self.output if name.startswith("synthetic_images/") else self.images
        try:
            picture = open_image(root / name)
        except ImageError:
            return None
        picture.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=72)
        return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


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
    """How much shorter or longer a caption has become, the most first; null for one that a model wrote anew."""
    lengths = pc.subtract(pc.utf8_length(rows["text_after"]), pc.utf8_length(rows["text_before"])).to_pylist()
    reasons = rows["reason"].to_pylist()
    return pa.array(
        [
            None if recaption_gain(reason) is not None else -abs(length)
            for reason, length in zip(reasons, lengths, strict=True)
        ]
    )
