"""`process.py report`: one self-contained HTML page about a run, from its audit.

Shows samples, the most informative rows first, so that it stays readable at 400,000 rows: pairs beside the limit that
dropped them, new captions that gained most, copies next to what they repeat. Reads the audit and thumbnails only.
"""

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from solution.errors import UserError
from solution.files import replaced, shown
from solution.operators.captions import caption_of
from solution.operators.pictures import PictureError, open_picture
from solution.report_page import Card, chart, funnel_table, gallery, legend, page, tiles

_CARDS = 12  # a gallery
_THUMBNAIL = 320  # px, the longer side; shown at half of it, so that it is crisp on dense screens
_GAIN = re.compile(r"(-?[\d.]+) instead of (-?[\d.]+)")
_TWIN = re.compile(r"repeats a picture: that of (.+)")


def write_report(audit: Path, images: Path | None, target: Path) -> None:
    """Write the page about the run whose audit this is. ``images`` takes the place of the recorded image root.

    Raises UserError for a missing or foreign audit.
    """
    try:
        table = pq.read_table(audit)
        about = json.loads((table.schema.metadata or {})[b"run"])
    except FileNotFoundError:
        there = ", ".join(sorted(file.stem for file in audit.parent.glob("*.parquet"))) or "none yet"
        raise UserError(f"audit {shown(audit)} is missing: run the recipe first; audits there: {there}") from None
    except (pa.ArrowInvalid, KeyError):
        raise UserError(f"audit {shown(audit)} was not written by process.py: run the recipe again") from None
    with replaced(target) as temporary:
        temporary.write_text(_Report(table, about, images).page(audit), encoding="utf-8")


class _Report:
    """The audit as sections of a page."""

    def __init__(self, table: pa.Table, about: dict[str, Any], images: Path | None) -> None:
        self.table = table
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
        states = {entry["values"]: entry["counts"] for entry in pc.value_counts(self.table["state"]).to_pylist()}
        made = self.table.num_rows - self.table["parent"].null_count
        return tiles(
            {"rows in": self.table.num_rows - made, "created": made}
            | {state: states.get(state, 0) for state in ("kept", "dropped", "failed")}
        )

    def _dropped(self) -> str:
        """For each limit, the dropped pairs nearest to it: those a slightly different limit would have kept."""
        dropped = self.table.filter(pc.equal(self.table["state"], "dropped"))
        is_copy = pc.starts_with(dropped["reason"], "repeats a ")
        dropped = dropped.filter(pc.invert(is_copy))
        parts = []
        for step in self.steps:
            own = dropped.filter(pc.equal(dropped["operator"], step["name"]))
            if own.num_rows:
                # Without a limit of its own (a selector), the rows that scored best are the ones to look at.
                far = pc.abs(pc.subtract(own["score"], own["threshold"])) if step["scores"] else pc.negate(own["score"])
                first = own.take(pc.sort_indices(pc.fill_null(far, 0.0))[:_CARDS])
                order = "those nearest to the limit first" if step["scores"] else "those with the highest score first"
                cards = [self._card(row) for row in first.to_pylist()]
                parts.append(gallery(step["name"], f"{own.num_rows:,} pairs; {order}", cards))
        return "".join(parts)

    def _rewritten(self) -> str:
        """Captions that an operator replaced or cleaned, the largest gain in score first, then the largest change."""
        first = self.table.filter(pc.is_null(self.table["parent"]))
        changed = first.filter(pc.not_equal(first["text_before"], first["text_after"]))
        changed = changed.filter(pc.not_equal(changed["state"], "failed"))
        parts = []
        gains = [_GAIN.search(reason) for reason in changed["reason"].to_pylist()]
        recaptioned = [place for place, gain in enumerate(gains) if gain]
        recaptioned.sort(key=lambda place: float(gains[place][2]) - float(gains[place][1]))
        if recaptioned:
            rows = changed.take(recaptioned[:_CARDS]).to_pylist()
            text = f"{len(recaptioned):,} captions that a model wrote anew; the largest gain in fit first"
            parts.append(gallery("Recaptioned", text, [self._card(row) for row in rows]))
        cleaned = [place for place, gain in enumerate(gains) if not gain]
        lengths = pc.subtract(pc.utf8_length(changed["text_after"]), pc.utf8_length(changed["text_before"])).to_pylist()
        cleaned.sort(key=lambda place: -abs(lengths[place]))
        if cleaned:
            rows = changed.take(cleaned[:_CARDS]).to_pylist()
            text = f"{len(cleaned):,} captions changed in other ways; the largest change of length first"
            parts.append(gallery("Cleaned", text, [self._card(row) for row in rows]))
        return "".join(parts)

    def _synthetic(self) -> str:
        """Pictures made from captions, beside the picture of the row they came from, the best score first."""
        made = self.table.filter(pc.equal(self.table["image_state"], "synthetic"))
        if not made.num_rows:
            return ""
        best = pc.sort_indices(pc.negate(pc.fill_null(made["score"], 0.0)))[:_CARDS]
        rows = made.take(best).to_pylist()
        parents = self._by("row", [row["parent"] for row in rows if row["parent"] is not None])
        cards = [self._card(row, parents.get(row["parent"])) for row in rows]
        text = f"{made.num_rows:,} rows; on the left the picture of the row that each came from"
        return gallery("Synthetic pairs", text, cards)

    def _copies(self) -> str:
        """Rows that repeat another row's picture or caption, next to it."""
        parts = []
        for kind in ("picture", "caption"):
            copies = self.table.filter(pc.starts_with(self.table["reason"], f"repeats a {kind}"))
            rows = copies.slice(0, _CARDS).to_pylist()
            if rows:
                names = [match[1] if (match := _TWIN.match(row["reason"])) else "" for row in rows]
                twins = self._by("id", [name for name in names if name])
                cards = [self._card(row, twins.get(name)) for row, name in zip(rows, names, strict=True)]
                text = f"{copies.num_rows:,} rows" + ("; on the left the picture that stays" if twins else "")
                parts.append(gallery(f"Repeated {kind}s", text, cards))
        return "".join(parts)

    def _failed(self) -> str:
        failed = self.table.filter(pc.equal(self.table["state"], "failed"))
        text = f"{failed.num_rows:,} rows that an operator could not judge; the first ones"
        cards = [self._card(row) for row in failed.slice(0, _CARDS).to_pylist()]
        return gallery("Failed", text, cards) if cards else ""

    def _kept(self) -> str:
        """The two ends of the last score among the kept rows, each picture once."""
        kept = self.table.filter(
            pc.and_(
                pc.and_(pc.equal(self.table["state"], "kept"), pc.is_null(self.table["parent"])),
                pc.is_valid(self.table["score"]),
            )
        )
        if not kept.num_rows:
            return ""
        order = pc.sort_indices(kept["score"])
        half = _CARDS // 2
        best = kept.take(order[-half:][::-1]).to_pylist()
        worst = kept.take(order[:half]).to_pylist()
        return gallery(
            "Highest score", "by the last operator that scored", [self._card(row) for row in best]
        ) + gallery("Lowest score", "what a stricter limit would take first", [self._card(row) for row in worst])

    def _by(self, column: str, values: list[Any]) -> dict[Any, dict[str, Any]]:
        """The audit's lines of some ids or row numbers, by them."""
        if not values:
            return {}
        found = self.table.filter(pc.is_in(self.table[column], pa.array(values, self.table.schema.field(column).type)))
        return {row[column]: row for row in reversed(found.to_pylist())}

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
            picture = open_picture(root / name)
        except PictureError:
            return None
        picture.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=72)
        return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
