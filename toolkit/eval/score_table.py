"""Scores as the table that `python -m toolkit score` prints: a row for each benchmark and category."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NO_STRICT = "MMBench strict: 0 (no right answer is the bare letter); figures are tolerant."


@dataclass(frozen=True)
class ScoredRun:
    """A column, or with strict scores two: a name, and scores as `score_answers` gives them."""

    name: str
    score: dict[str, Any]

    def cells(self, label: str, strict: bool) -> list[str]:
        """Per cent of a row, strict before tolerant; TextVQA's one score stands in the last column."""
        values = [None, None]
        if label == "TextVQA" and self.score["textvqa"]:
            values[1] = self.score["textvqa"]["accuracy"]
        elif label == "both" and self.score["textvqa"] and self.score["mmbench"]:
            values[1] = (self.score["textvqa"]["accuracy"] + self.score["mmbench"]["tolerant"]) / 2
        elif label not in ("TextVQA", "both") and self.score["mmbench"]:
            part = self.score["mmbench"] if label == "MMBench" else self.score["mmbench"]["categories"].get(label)
            values = [part["strict"], part["tolerant"]] if part else values
        return ["-" if value is None else f"{100 * value:.2f}" for value in values][0 if strict else 1 :]

    def unanswered(self, benchmark: str) -> str:
        """As `3/600`."""
        part = self.score[benchmark]
        return f"{part['unanswered']}/{part['questions']}" if part else "-"


def table(runs: Sequence[ScoredRun], blind: ScoredRun | None, differences: Mapping[str, str]) -> list[str]:
    """Lines of the table, per cent.

    Args:
        runs: the run, and its baseline if there is one: a column for each, two where any strict score is not 0.
        blind: the score of answers given without images, a column of tolerant scores; None for no such column.
        differences: the last column's cells by row (`TextVQA`, `MMBench`, `both`); shown with a baseline.
    """
    shares = [run.score["mmbench"] for run in runs if run.score["mmbench"]]
    strict = any(part["strict"] for share in shares for part in (share, *share["categories"].values()))
    before = [""] if strict else []  # of a cell that stands for both columns of a run
    labels = _labels(runs)
    rows = {
        text: [
            *(cell for run in runs for cell in run.cells(label, strict)),
            *(blind.cells(label, False) if blind else []),
            *([differences.get(label, "")] if len(runs) > 1 else []),
        ]
        for label, text in labels.items()
    }
    for benchmark, text in (("textvqa", "TextVQA unanswered"), ("mmbench", "MMBench unanswered")):
        if any(run.score[benchmark] and run.score[benchmark]["unanswered"] for run in runs):
            rows[text] = [cell for run in runs for cell in (*before, run.unanswered(benchmark))]
    names = [cell for run in runs for cell in (*before, run.name)]
    last = (["blind"] if blind else []) + (["difference"] if len(runs) > 1 else [])
    heads = {"": names, "per cent": ["strict", "tolerant"] * len(runs) + last} if strict else {"per cent": names + last}
    lines = _aligned([*heads.items(), *rows.items()])
    return lines if strict or not shares else [*lines, NO_STRICT]


def _labels(runs: Sequence[ScoredRun]) -> dict[str, str]:
    """The rows' texts by what `ScoredRun.cells` calls them."""
    shares = [run.score["mmbench"] for run in runs if run.score["mmbench"]]
    scored = any(run.score["textvqa"] for run in runs)
    labels = {"TextVQA": "TextVQA soft accuracy"} if scored else {}
    if shares:
        sizes = {name: part["groups"] for share in reversed(shares) for name, part in share["categories"].items()}
        labels |= {"MMBench": "MMBench"} | {name: f"  {name} ({size})" for name, size in sizes.items() if name}
    if scored and shares and len(runs) > 1:
        labels["both"] = "both, mean"
    return labels


def _aligned(rows: Iterable[tuple[str, list[str]]]) -> list[str]:
    """Rows with their cells below each other, figures to the right."""
    rows = list(rows)
    count = max(len(cells) for _, cells in rows)
    cells = [[*cells, *[""] * (count - len(cells))] for _, cells in rows]
    width = max(len(label) for label, _ in rows)
    widths = [max(6, *(len(cell) for cell in column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join([f"{label:{width}}", *(f"{cell:>{w}}" for cell, w in zip(line, widths, strict=True))]).rstrip()
        for (label, _), line in zip(rows, cells, strict=True)
    ]
