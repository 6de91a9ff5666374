"""Plots: equal figures give equal files, names of any kind are drawn, and the CSV holds what is drawn."""

from __future__ import annotations

import csv
import io
import math
import warnings

import pytest
from PIL import Image

from experiments.lab.pages.plots import Dot, Line, Plot, curves, dots, scatter

HOSTILE = ["$x^{$", "</svg><script>alert(1)</script>", "中文", "a\nb\x00", "=1+1", "x" * 300, "", "_hidden"]


def drawn(kind: str) -> Plot:
    names = [f"{number} {name}" for number, name in enumerate(HOSTILE)]
    if kind == "dots":
        panels = {"TextVQA": [Dot(name, name, 1.0, 0.5, 2.0) for name in names], "MMBench": [Dot(names[0], "raw", 3.0)]}
        return dots("plot", "caption", panels, "points", zero=True)
    if kind == "curves":
        return curves(
            "plot", "c", [Line("stage", name, [1, 2, 3], [1.0, math.nan, 0.5]) for name in names], "step", "loss"
        )
    return scatter("plot", "c", {"samples": [(name, 10.0, 50.0, 45.0, 55.0) for name in names]}, "score")


@pytest.mark.parametrize("kind", ["dots", "curves", "scatter"])
def test_equal_figures_give_equal_files(kind: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one, other = drawn(kind), drawn(kind)
    assert (one.svg, one.png, one.table) == (other.svg, other.png, other.table)
    assert b"<dc:date>" not in one.svg
    assert b"<script" not in one.svg
    with Image.open(io.BytesIO(one.png)) as image:
        assert image.width > 1000
        assert "Software" not in image.info


def test_the_table_holds_what_is_drawn() -> None:
    rows = list(csv.reader(io.StringIO(drawn("dots").table)))
    assert rows[0] == ["panel", "row", "series", "value", "low", "high"]
    assert rows[-1] == ["MMBench", "0 $x^{$", "raw", "3.0", "", ""]


def test_a_plot_is_three_files(tmp_path) -> None:
    drawn("curves").write(tmp_path / "plots")
    assert {file.name for file in (tmp_path / "plots").iterdir()} == {"plot.svg", "plot.png", "plot.csv"}
