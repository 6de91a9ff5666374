"""A lab's results as text that fits a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from experiments.lab.comparison.results import Analysis, Comparison, Estimate

WIDTH = 80
NAMES = {"textvqa": "TextVQA", "mmbench": "MMBench"}
SHORT = {"better": "better", "worse": "worse", "tie": "tie", "undecided": "not decided"}


def lines_of(analysis: Analysis) -> list[str]:
    """The table of scores, best arm first; that of differences to the baseline; notes and warnings."""
    deciding = analysis.measures[-1]
    arms = sorted(analysis.arms, key=lambda arm: -found.value if (found := arm.scores.get(deciding)) else float("inf"))
    heads = ["points, 95 %", "runs", *(NAMES.get(name, name) for name in analysis.measures)]
    lines = _columns(
        heads,
        [
            [arm.arm, str(arm.trainings), *(interval(arm.scores.get(name)) for name in analysis.measures)]
            for arm in arms
        ],
    )
    heads = [f"against {analysis.baseline}", *(NAMES.get(name, name) for name in analysis.measures), "p", "verdict"]
    heads.append("seeds")
    rows = []
    for arm in arms:
        found = [analysis.comparison(arm.arm, name) for name in analysis.measures]
        if arm.arm != analysis.baseline and (last := found[-1]):
            singles = [f"{one.difference.value:+.1f}" if one else "-" for one in found[:-1]]
            rows.append(
                [arm.arm, *singles, interval(last.difference, "+"), _p(last), SHORT[last.verdict], _seeds(last)]
            )
    if rows:
        lines += ["", *_columns(heads, rows)]
        gains = [found.detectable for found in analysis.comparisons if found.measure == deciding and found.detectable]
        if gains:
            several = f" to {max(gains):.1f}" if round(max(gains), 1) > round(min(gains), 1) else ""
            lines.append(f"smallest gain that four of five such labs find: {min(gains):.1f}{several} points")
    for text in (*analysis.notes, *(f"warning: {warning}" for warning in analysis.warnings)):
        lines += textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return lines


def interval(estimate: Estimate | None, sign: str = "", digits: int = 1) -> str:
    """`57.9 [51.5, 64.2]`, or `-` where there is nothing."""
    if estimate is None:
        return "-"
    form = f"{sign}.{digits}f"
    if estimate.low is None:
        return f"{estimate.value:{form}}"
    return f"{estimate.value:{form}} [{estimate.low:{form}}, {estimate.high:{form}}]"


def _p(found: Comparison) -> str:
    return "-" if found.holm is None else "<.001" if found.holm < 0.001 else f"{found.holm:.3f}"


def _seeds(found: Comparison) -> str:
    """How many seeds of each arm would settle it."""
    if found.verdict != "undecided":
        return ""
    return str(found.seeds_needed) if found.seeds_needed else "?" if found.holm is None else "> 50"


def _columns(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(cell) for cell in column) for column in zip(heads, *rows, strict=True)]
    return [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (heads, *rows)
    ]
