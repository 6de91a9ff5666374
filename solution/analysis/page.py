"""The page of an analysis: one file with every row's place in every score, sampled images, and a script of its own.

The browser counts: a score is two bytes per row (see `axis.py`), so that counts are exact and at once at 400,000 rows.
Nothing is fetched; the page's policy lets no script run but the one that is in it.
"""

import base64
import hashlib
import json
import math
import zlib
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from markupsafe import Markup

from solution.analysis.axis import MOST_EDGES, axis_of, codes_of, edges_of
from solution.analysis.scoring import IDLE, Asked, inside
from solution.analysis.template import template_of
from solution.operators.common.images import ImageError
from solution.report.page import templates, thumbnail
from solution.runner.errors import without_secrets
from solution.runner.files import replaced, shown
from solution.runner.histogram import ENDLESS
from solution.runner.recipe import Recipe
from solution.terminal import visible

MOST_BYTES = 20_000_000  # of a page
_CODES = 11_000_000  # of them, for the scores; more edges than fit are left out
_IMAGES = 5_500_000  # for the images
_MOST_IMAGES = 1_000
_NEAR = 12  # images on each side of a recipe's threshold
_SIDE = 144  # px, the longer side of an image
_SEARCH_BLOCK = 50_000  # rows


def write_page(
    recipe: Recipe,
    scores: Path,
    target: Path,
    asked: list[Asked],
    images: Callable[[Sequence[int]], list[list[str]]],
) -> None:
    """Write the page about the file of ``scores``; ``images`` gives the image files of rows with some numbers."""
    page = _Page(recipe, pq.ParquetFile(scores), asked, images)
    environment = templates(Path(__file__).parent)
    data = page.data()
    script, style = (environment.get_template(name).render() for name in ("page.js", "page.css"))
    text = environment.get_template("analysis.html.j2").render(
        title=f"Analysis of {recipe.name}",
        policy=f"default-src 'none'; img-src data:; script-src {_hash(script)}; style-src {_hash(style)}",
        data=Markup(_embedded(data)),
        about=page.about(scores),
    )
    with replaced(target) as temporary:
        temporary.write_text(visible(text, kept="\n\t"), encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _embedded(data: dict[str, Any]) -> str:
    """JSON that no HTML reader takes for a tag."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def packed(content: bytes) -> str:
    """Bytes as the page's script unpacks them: deflated, in base64."""
    return base64.b64encode(zlib.compress(content, 9)).decode()


def _packed_codes(codes: np.ndarray) -> str:
    """uint16 as its low bytes, then its high ones: they deflate better apart."""
    return packed(codes.view(np.uint8).reshape(-1, 2).T.tobytes())


class _Page:
    """The data of the page; a column of the file is in memory at a time."""

    def __init__(
        self,
        recipe: Recipe,
        file: pq.ParquetFile,
        asked: list[Asked],
        images: Callable[[Sequence[int]], list[list[str]]],
    ) -> None:
        self.recipe = recipe
        self.file = file
        self.asked = asked
        self.images = images
        self.is_scored = np.array(self._texts("state").to_pylist()) == "scored"
        self.rows = int(self.is_scored.sum())
        self.slots: list[tuple[int, str]] = []

    def data(self) -> dict[str, Any]:
        """What the script gets."""
        most = MOST_EDGES
        while True:
            self.slots = []
            statistics = [found for operator in self.asked for found in self._statistics(operator, most)]
            if most < 100 or sum(len(found["codes"]) for found in statistics) <= _CODES:
                break
            most //= 2
        result = {
            "rows": self.rows,
            "statistics": statistics,
            "marks": [mark for operator in self.asked if (mark := self._mark(operator))],
            "slots": [{"number": number, "name": name} for number, name in self.slots],
            "template": [
                without_secrets(part) if isinstance(part, str) else part
                for part in template_of(self.recipe, self.slots)
            ],
            "samples": self._samples(statistics),
        }
        left = MOST_BYTES - 200_000 - len(_embedded(result))
        return result | {"search": self._search(left)}

    def about(self, scores: Path) -> dict[str, Any]:
        """Counts and words for the page's text."""
        states = self._texts("state").value_counts().to_pylist()
        counts = {entry["values"]: entry["counts"] for entry in states}
        created = self.file.metadata.num_rows - self._column("parent").null_count
        gone = self.file.read(["state", "operator", "reason"]).filter(pc.field("state") != "scored")
        kinds = pa.array([reason.split(": ")[0] for reason in gone["reason"].to_pylist()], pa.string())
        reasons = pa.table({"state": gone["state"], "operator": gone["operator"], "reason": kinds})
        found = reasons.group_by(["state", "operator", "reason"]).aggregate([([], "count_all")]).to_pylist()
        return {
            "tiles": {"rows in": self.file.metadata.num_rows - created, "created": created}
            | {state: counts.get(state, 0) for state in ("scored", "removed", "failed")},
            "reasons": sorted(found, key=lambda line: -line["count_all"])[:50],
            "kinds": {
                kind: [operator for operator in self.asked if operator.kind == kind]
                for kind in ("filter", "mapper", "deduplicator", "selector")
            },
            "idle": IDLE,
            "recipe": shown(self.recipe.path),
            "text": without_secrets(self.recipe.text),
            "dataset": ", ".join(map(shown, self.recipe.datasets)),
            "versions": f"Data-Juicer {version('py-data-juicer')}",
            "scores": shown(scores),
        }

    def _column(self, name: str) -> pa.ChunkedArray:
        return self.file.read([name])[0]

    def _texts(self, name: str) -> pa.ChunkedArray:
        """A column of few different texts."""
        return pa.chunked_array([chunk.dictionary_encode() for chunk in self._column(name).chunks])

    def _values(self, name: str) -> np.ndarray:
        """A column of the scored rows; a missing number is NaN."""
        return self._column(name).to_numpy()[self.is_scored]

    def _statistics(self, operator: Asked, most: int) -> list[dict[str, Any]]:
        """The statistics of a filter; those that share a threshold share its edges."""
        found = []
        is_kept = self._values(operator.step).astype(bool) if operator.statistics else np.zeros(0, bool)
        for stat, limits in operator.statistics.items():
            values = self._values(operator.column(stat)).astype(float)
            values[~np.isfinite(values)] = np.nan
            sharing = [other for other, own in operator.statistics.items() if own.keys() & limits.keys()] or [stat]
            pool = np.concatenate([self._values(operator.column(other)).astype(float) for other in sharing])
            pool = pool[np.isfinite(pool)]
            if not len(pool):
                continue
            fractions = np.sort(pool[pool != np.round(pool)])
            middle = float(fractions[len(fractions) // 2]) if len(fractions) else 0.0
            is_whole = not len(fractions) or not all(operator.accepts(key, middle) for key in limits)
            cutting = {key: limit for key, limit in limits.items() if not inside(pool, {key: limit}).all()}
            axis = axis_of(pool, cutting.values(), is_whole)
            edges = edges_of(pool, cutting.values(), axis, is_whole, most)
            if operator.is_adjustable:
                edges = edges[[all(operator.accepts(key, edge) for key in limits) for edge in edges.tolist()]]
            known = values[~np.isnan(values)]
            found.append(
                {
                    "name": operator.column(stat),
                    "stat": stat,
                    "step": operator.step,
                    "number": operator.number,
                    "axis": vars(axis),
                    "is_whole": is_whole,
                    "edges": packed(edges.astype("<f8").tobytes()),
                    "codes": _packed_codes(codes_of(values, edges, is_kept)),
                    "known": len(known),
                    "range": [float(value) for value in np.quantile(known, (0, 0.5, 1))] if len(known) else [0, 0, 0],
                    "thresholds": self._thresholds(operator, limits, cutting) if operator.is_adjustable else [],
                }
            )
        return found

    def _thresholds(self, operator: Asked, limits: dict[str, float], cutting: dict[str, float]) -> list[dict[str, Any]]:
        """What can be moved: `value` is None where the recipe's threshold, `idle` then, drops nothing."""
        found = []
        for key in limits:
            slot = (operator.number, key)
            if slot not in self.slots:
                self.slots.append(slot)
            idle = limits[key] if abs(limits[key]) < ENDLESS else None
            found.append({"slot": self.slots.index(slot), "name": key, "value": cutting.get(key), "idle": idle})
        return found

    def _mark(self, operator: Asked) -> dict[str, Any] | None:
        """Rows that an operator would drop whatever the thresholds: copies, and a filter's with other rules."""
        if operator.kind != "deduplicator" and (
            operator.kind != "filter" or operator.is_adjustable or operator.is_idle
        ):
            return None
        goes = ~self._values(operator.step).astype(bool)
        about = {"step": operator.step, "number": operator.number, "kind": operator.kind, "count": int(goes.sum())}
        return about | {"goes": packed(goes.astype(np.uint8).tobytes())}

    def _samples(self, statistics: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Rows with their image: near the recipe's thresholds, and evenly over each statistic."""
        share = max(2 * _NEAR, _MOST_IMAGES // max(1, len(statistics)))
        chosen = np.arange(self.rows) if self.rows <= _MOST_IMAGES else np.zeros(0, int)
        for found in statistics if self.rows > _MOST_IMAGES else ():
            values = self._values(found["name"]).astype(float)
            order = np.argsort(values, kind="stable")[: found["known"]]
            near = [
                np.searchsorted(values[order], limit["value"])
                for limit in found["thresholds"]
                if limit["value"] is not None
            ]
            picked = [order[max(0, place - _NEAR) : place + _NEAR] for place in near]
            even = np.linspace(0, len(order) - 1, max(2, share - sum(map(len, picked)))).astype(int)
            chosen = np.unique(np.concatenate([chosen, order[even], *picked])) if len(order) else chosen
        if not len(chosen):
            return []
        lines = self.file.read(["id", "row", "caption"]).filter(pa.array(self.is_scored)).take(pa.array(chosen))
        columns = [self._values(found["name"])[chosen].tolist() for found in statistics]
        samples, left = [], _IMAGES
        files = self.images(lines["row"].to_pylist())
        for index, (line, paths) in enumerate(zip(lines.to_pylist(), files, strict=True)):
            try:
                image = thumbnail(paths[0], _SIDE, 66) if paths and left > 0 else None
            except ImageError:
                image = None
            left -= len(image or "")
            values = [column[index] if math.isfinite(column[index]) else None for column in columns]
            about = {"place": int(chosen[index]), "id": visible(line["id"]), "caption": visible(line["caption"])[:600]}
            samples.append(about | {"image": image, "values": values})
        return samples

    def _search(self, left: int) -> dict[str, Any]:
        """Ids and captions in blocks, of all rows or, where these do not fit, of rows evenly spread."""
        lines = self.file.read(["id", "caption"]).filter(pa.array(self.is_scored))
        wanted = self.rows
        if wanted > _SEARCH_BLOCK:  # a first guess, as packing all of 400,000 takes seconds
            share = sum(map(len, _searchable(lines, _SEARCH_BLOCK // 10))) / (_SEARCH_BLOCK // 10)
            wanted = min(wanted, int(max(left, 0) / share))
        while True:
            blocks = _searchable(lines, wanted)
            size = sum(map(len, blocks))
            if size <= max(left, 0):
                return {"rows": wanted, "blocks": blocks}
            wanted = int(0.95 * wanted * max(left, 0) / size)


def _searchable(lines: pa.Table, wanted: int) -> list[str]:
    """Ids and captions of some rows, evenly spread, in packed blocks."""
    places = np.linspace(0, len(lines) - 1, wanted).astype(int)
    blocks = []
    for start in range(0, wanted, _SEARCH_BLOCK):
        part = lines.take(pa.array(places[start : start + _SEARCH_BLOCK])).to_pydict()
        texts = (visible(f"{name}\t{caption[:600]}", kept="\t") for name, caption in zip(*part.values(), strict=True))
        blocks.append(packed("\n".join(texts).encode()))
    return blocks
