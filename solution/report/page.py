"""The report's page: what it shows, as data for the template `page.html.j2`, which holds all HTML."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from solution.operators.common.images import open_image

_WIDTH, _HEIGHT = 340, 150  # px of a chart
_FLOOR = 118  # px from the top to the axis
_TALLEST = 92  # px of the tallest bar


@dataclass(frozen=True)
class Card:
    """One row of a gallery: its images as data URIs (None: cannot be shown), its texts and what became of it."""

    images: Sequence[str | None]
    before: str
    after: str
    remark: str


@dataclass(frozen=True)
class Gallery:
    """Cards under a heading."""

    heading: str
    explanation: str
    cards: Sequence[Card]


@dataclass(frozen=True)
class Section:
    """Galleries under one heading, which the page's navigation links to."""

    heading: str
    galleries: Sequence[Gallery]


@dataclass(frozen=True)
class RunShown:
    """A run: what it is called, its counts, its steps (see `Ledger.counts`), and what there is to know of it."""

    name: str
    totals: Mapping[str, int]
    steps: Sequence[Mapping[str, Any]]
    facts: Mapping[str, str]
    recipe: str  # its text

    @property
    def widest(self) -> int:
        """Rows of the longest bar."""
        return max(step["rows_in"] + step["created"] for step in self.steps) or 1

    @property
    def charts(self) -> list[dict[str, Any]]:
        """A chart for each statistic."""
        return [chart(step["name"], scores) for step in self.steps for scores in step["scores"]]


def page(
    title: str,
    about: str,
    runs: Sequence[RunShown],
    sections: Sequence[Section],
    totals: Mapping[str, int] | None = None,
) -> str:
    """The HTML text: ``totals`` of a comparison, funnels and score charts, the sections, then the recipes."""
    template = templates().get_template("page.html.j2")
    return template.render(title=title, about=about, runs=runs, sections=sections, totals=totals or {})


def templates(*folders: Path) -> Environment:
    """Templates of this folder and others, with every value escaped."""
    return Environment(
        loader=FileSystemLoader([Path(__file__).parent, *folders]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def thumbnail(file: str | Path, side: int, quality: int) -> str:
    """An image as a small JPEG in a data URI, its longer side ``side`` px. Raises ImageError."""
    image = open_image(file)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    image.save(content, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()


def chart(operator: str, scores: Mapping[str, Any]) -> dict[str, Any]:
    """The geometry, in px, of one statistic's `histogram`: kept and dropped rows stacked, thresholds as lines."""
    low, high = scores["low"], scores["high"]
    totals = [kept + dropped for kept, dropped in zip(scores["kept"], scores["dropped"], strict=True)]
    step, tallest = _WIDTH / len(totals), max(totals)
    bars = []
    for position, (kept, total) in enumerate(zip(scores["kept"], totals, strict=True)):
        top, middle = (_FLOOR - _TALLEST * count / tallest for count in (total, kept))
        for state, start, end in (("kept", middle, _FLOOR), ("dropped", top, middle)):
            if end > start:
                bar = {"x": position * step, "y": start, "width": step - 0.7, "height": end - start}
                bars.append(bar | {"state": state})
    lines = []
    for order, (name, threshold) in enumerate(scores["limits"].items()):
        if low <= threshold <= high:
            x = _WIDTH * (threshold - low) / (high - low)
            lines.append({"x": x, "y": 12 + 12 * order, "is_right": x > _WIDTH / 2, "text": f"{name} {threshold:g}"})
    return {
        "stat": scores["stat"],
        "operator": operator,
        "width": _WIDTH,
        "height": _HEIGHT,
        "floor": _FLOOR,
        "bars": bars,
        "thresholds": lines,
        "low": low,
        "high": high,
        "rows": sum(totals),
    }
