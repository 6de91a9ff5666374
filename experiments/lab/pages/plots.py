"""The plots of a page, as one would put them in a paper: SVG for the page, SVG, PNG and CSV beside it.

Equal figures give equal bytes: no dates, fixed ids, text as outlines of the font that comes with matplotlib.
"""

from __future__ import annotations

import contextlib
import csv
import io
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import get_font_names
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation

from experiments.lab.pages.markup import visible
from toolkit.processes import unfinished

# Okabe and Ito's palette without its yellow: told apart by colour-blind readers; lines also differ by their dashes.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#444444")
DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK, FAINT = "#1d2330", "#d0d5dd"
STYLE: Any = {
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#98a2b3",
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#eaecf0",
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "svg.hashsalt": "better-synth",
    "svg.fonttype": "path",
    "text.parse_math": False,  # a "$" in a name is a "$"
    "axes.unicode_minus": True,
}
WIDTH, PANEL = 7.6, 3.2  # inches of a figure, and at least of one of its two panels
DPI = 200  # of the PNG
APART = 0.075  # inches between points of equal cost
LONGEST = 28  # characters of a name
LEGEND = 105  # characters in a line of the legend
SHOWN = 200  # points of a faint curve
# Fonts with Chinese characters, which matplotlib's own lacks; the first that this machine has draws them.
CHINESE = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "SimHei",
    "Microsoft YaHei",
)


@dataclass(frozen=True)
class Plot:
    """One plot in all its formats.

    Args:
        name: of its files.
        caption: what it shows, for readers and for screen readers.
        svg, png: files.
        table: the figures drawn, as CSV.
    """

    name: str
    caption: str
    svg: bytes
    png: bytes
    table: str

    def write(self, folder: Path) -> None:
        """Write the three files into a folder."""
        for ending, content in (("svg", self.svg), ("png", self.png), ("csv", self.table.encode())):
            path = folder / f"{self.name}.{ending}"
            with unfinished(path) as temporary:
                temporary.write_bytes(content)
                temporary.replace(path)


@dataclass(frozen=True)
class Dot:
    """A value with its interval; `low` and `high` are None where it has none."""

    row: str
    series: str
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Line:
    """A curve in one panel.

    Args:
        panel: its title.
        series: lines of one series share a colour and one entry of the legend.
        x, y: of equal length.
        training: which of the series.
    """

    panel: str
    series: str
    x: Sequence[float]
    y: Sequence[float]
    training: str = ""


@contextlib.contextmanager
def _style() -> Iterator[None]:
    """What all plots share; a character that no font has is drawn as a box, without a word on the terminal."""
    there = set(get_font_names())
    fonts = ["DejaVu Sans", *[font for font in CHINESE if font in there][:1]]
    with mpl.rc_context(STYLE | {"font.family": fonts}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+")
        yield


def dots(
    name: str, caption: str, panels: dict[str, list[Dot]], unit: str, zero: bool = False, order: Sequence[str] = ()
) -> Plot:
    """Values with intervals, one row each, side by side in panels that share their rows.

    Args:
        name, caption: see `Plot`.
        panels: title -> values; several series in one row are set apart.
        unit: label of the axes.
        zero: draw the line of no difference.
        order: of all series of a page, so that each has one colour in all plots.
    """
    rows = list(dict.fromkeys(dot.row for values in panels.values() for dot in values))
    drawn = list(dict.fromkeys(dot.series for values in panels.values() for dot in values))
    series = [one for one in order if one in drawn] or drawn
    with _style():
        of_series = 0.17 if any(dot.low is not None for values in panels.values() for dot in values) else 0.06
        inches = 0.9 + len(rows) * max(0.28, of_series * len(series)) + 0.3 * (len(series) > 1)
        figure = Figure(figsize=(WIDTH, inches), layout="constrained")
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axis, (title, values) in zip(axes, panels.items(), strict=True):
            _dots(axis, values, rows, series, order or series)
            if zero:
                axis.axvline(0, color=INK, linewidth=0.8, dashes=(4, 3))
            axis.set(title=title, xlabel=unit)
        axes[0].set_yticks(range(len(rows)), [_name(row) for row in rows])
        axes[0].set_ylim(len(rows) - 0.5, -0.5)
        _legend(figure, axes[0], len(series))
        cells = [
            [title, dot.row, dot.series, dot.value, dot.low, dot.high]
            for title, values in panels.items()
            for dot in values
        ]
        return _plot(figure, name, caption, ["panel", "row", "series", "value", "low", "high"], cells)


def _dots(axis: Axes, values: Sequence[Dot], rows: Sequence[str], series: Sequence[str], order: Sequence[str]) -> None:
    step = 0.62 / max(1, len(series))
    for number, one in enumerate(series):
        mine = [dot for dot in values if dot.series == one]
        places = [rows.index(dot.row) + (number - (len(series) - 1) / 2) * step for dot in mine]
        look = order.index(one)
        colour = COLOURS[look % len(COLOURS)]
        for dot, place in zip(mine, places, strict=True):
            if dot.low is not None and dot.high is not None:
                axis.plot([dot.low, dot.high], [place, place], color=colour, linewidth=1.6, solid_capstyle="butt")
        axis.plot([dot.value for dot in mine], places, _marker(look), color=colour, markersize=5, label=_name(one))
    axis.grid(axis="x")
    axis.tick_params(axis="y", length=0)
    axis.margins(x=0.08)
    axis.xaxis.set_major_locator(MaxNLocator(5))


def curves(
    name: str, caption: str, lines: Sequence[Line], x: str, y: str, logged: bool = False, order: Sequence[str] = ()
) -> Plot:
    """Curves over training steps: each training's moving mean, faint, and the mean of those of a series.

    Args:
        name, caption: see `Plot`.
        lines: of all panels.
        x, y: labels of the axes.
        logged: draw each training as it was logged instead of its moving mean.
        order: see `dots`.
    """
    panels = list(dict.fromkeys(line.panel for line in lines))
    series = list(order) or list(dict.fromkeys(line.series for line in lines))
    with _style():
        figure = Figure(figsize=(WIDTH, 2.7 + 0.3 * (len(series) > 1)), layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for axis, panel in zip(axes, panels, strict=True):
            for number, one in enumerate(series):
                mine = [line for line in lines if (line.panel, line.series) == (panel, one)]
                colour, dash = COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]
                _curves(axis, mine, logged, {"color": colour, "linestyle": dash, "label": _name(one)})
            axis.grid(axis="y")
            axis.set(title=panel, xlabel=x, ylabel=y if axis is axes[0] else "")
            axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        _legend(figure, axes[0], len(series))
        cells = [
            [line.panel, line.series, line.training, step, value]
            for line in lines
            for step, value in zip(line.x, line.y, strict=True)
        ]
        return _plot(figure, name, caption, ["stage", "series", "training", x, y], cells)


def _curves(axis: Axes, lines: Sequence[Line], logged: bool, look: dict[str, Any]) -> None:
    """One series: each training faint, and their mean."""
    smooth = [_smooth(line.y) for line in lines]
    for line, values in zip(lines, smooth, strict=True):
        every = 1 if logged else len(values) // SHOWN + 1
        faint = line.y if logged else values
        axis.plot(line.x[::every], faint[::every], color=look["color"], linewidth=0.6, alpha=0.3)
    if smooth:
        shortest = min(map(len, smooth))
        mean = np.mean([values[:shortest] for values in smooth], axis=0)
        axis.plot(lines[0].x[:shortest], mean, linewidth=1.5, **look)


def _smooth(values: Sequence[float]) -> np.ndarray:
    """Moving mean over a fifteenth of the curve; what is not finite stays a hole."""
    half = max(1, len(values) // 30)
    array = np.asarray(values, dtype=float)
    finite = np.isfinite(array)
    window = np.ones(2 * half + 1)
    sums, counts = (
        np.convolve(part, window)[half : half + len(array)] for part in (np.where(finite, array, 0), finite)
    )
    return np.where(finite, sums / np.maximum(counts, 1), np.nan)


def scatter(
    name: str,
    caption: str,
    panels: dict[str, list[tuple[str, float, float, float | None, float | None]]],
    y: str,
    order: Sequence[str] = (),
) -> Plot:
    """Points with their names beside them: score against something.

    Args:
        name, caption: see `Plot`.
        panels: label of the x axis -> (name, x, y, low, high) of each point.
        y: label of the y axis.
        order: see `dots`.
    """
    with _style():
        figure = Figure(figsize=(WIDTH, 3.3), layout="constrained")
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        names = list(order) or list(dict.fromkeys(point[0] for points in panels.values() for point in points))
        for axis, (label, points) in zip(axes, panels.items(), strict=True):
            for point, place, value, low, high in points:
                number = names.index(point)
                # Arms often cost the same: side by side, their intervals stay visible.
                level = [name for name, other, *_ in points if other == place]
                aside = ScaledTranslation(
                    (level.index(point) - (len(level) - 1) / 2) * APART, 0, figure.dpi_scale_trans
                )
                look: Any = {"color": COLOURS[number % len(COLOURS)], "transform": axis.transData + aside}
                if low is not None and high is not None:
                    axis.plot([place, place], [low, high], linewidth=1.4, **look)
                axis.plot([place], [value], _marker(number), markersize=5, label=_name(point), **look)
                axis.update_datalim(
                    [(place, low if low is not None else value), (place, high if high is not None else value)]
                )
            axis.grid()
            axis.set(xlabel=label, ylabel=y if axis is axes[0] else "")
            most = max(Counter(place for _, place, *_ in points).values(), default=1)
            aside_inches = 0.1 + (most - 1) / 2 * APART
            axis.margins(x=max(0.12, aside_inches / (PANEL - 2 * aside_inches)), y=0.12)
            axis.autoscale_view()
            axis.xaxis.set_major_locator(MaxNLocator(5))
        _legend(figure, axes[0], len(names))
        cells = [[label, *point] for label, points in panels.items() for point in points]
        return _plot(figure, name, caption, ["against", "name", "x", y, "low", "high"], cells)


def _marker(number: int) -> str:
    """Of a series; where colours repeat, they meet other markers."""
    return MARKERS[(number + number // len(COLOURS)) % len(MARKERS)]


def _legend(figure: Figure, axis: Axes, series: int) -> None:
    """One legend above all panels, each series once."""
    if series > 1:
        handles, labels = [], []
        for other in figure.axes:
            for handle, label in zip(*other.get_legend_handles_labels(), strict=True):
                if label not in labels:
                    handles.append(handle)
                    labels.append(label)
        columns = max(1, LEGEND // (max(map(len, labels), default=0) + 8))
        figure.legend(
            handles, labels, loc="outside upper left", ncols=min(columns, series), fontsize=8, handlelength=1.5
        )


def _name(text: str) -> str:
    """A name as it is drawn; a long one without its middle, because names of one family differ at their ends."""
    text = " ".join(visible(text).split())
    half = LONGEST // 2
    return text if len(text) <= LONGEST else f"{text[: half - 1]}…{text[-half:]}"


def _plot(figure: Figure, name: str, caption: str, header: Sequence[str], cells: Sequence[Sequence[Any]]) -> Plot:
    files = {"svg": io.BytesIO(), "png": io.BytesIO()}
    figure.savefig(files["svg"], format="svg", metadata={"Date": None, "Creator": None})
    figure.set_layout_engine("none")  # everything has its place
    figure.savefig(files["png"], format="png", dpi=DPI, metadata={"Software": None})
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(["" if cell is None else cell for cell in row] for row in cells)
    return Plot(name, caption, files["svg"].getvalue(), files["png"].getvalue(), table.getvalue())
