"""A lab's two tables, of scores and of single answers, as one measure after the other, each with its noise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from experiments.lab.comparison.noise import Noise
from experiments.lab.comparison.results import BOTH, NoiseSource
from toolkit.errors import UserError

# Columns of the two tables, both long, one row per value.
CELL = ["arm", "draw", "seed"]
SCORES = (*CELL, "benchmark", "score")  # score: 0 to 1
# correct: 0 to 1. A column `image` makes the questions about one image count as one draw; others are ignored.
ANSWERS = (*CELL, "benchmark", "question", "correct")

Cell = tuple[Any, Any]  # draw and seed
Cells = dict[str, dict[Cell, float]]  # points by arm


@dataclass(frozen=True)
class EarlierNoise:
    """The noise of trainings as earlier labs of the preset showed it.

    Args:
        by_measure: of each benchmark and of both together.
        source: for the note under the table: which labs.
    """

    by_measure: dict[str, Noise]
    source: str


@dataclass(frozen=True)
class Answers:
    """Answers to one benchmark.

    Args:
        rows: of `correct`, by arm and cell.
        correct: points [trainings, questions]; NaN where a training has no answer.
        images: of the questions, as numbers; None where none are given [questions].
    """

    rows: dict[tuple[str, Cell], int]
    correct: np.ndarray
    images: np.ndarray | None


@dataclass(frozen=True)
class Measure:
    """One benchmark, or both together.

    Args:
        name: as results call it.
        cells: points of all trainings.
        answers: to each benchmark that it is the mean of; empty where there are no single answers.
        noise: of trainings; None where it is not known.
        source: where it comes from.
    """

    name: str
    cells: Cells
    answers: list[Answers]
    noise: Noise | None
    source: NoiseSource


def measures_of(scores: pd.DataFrame, answers: pd.DataFrame | None, earlier: EarlierNoise | None) -> list[Measure]:
    """Each benchmark, and both together where there are two.

    Args:
        scores, answers, earlier: as `statistics.analyse` takes them.

    Raises:
        UserError: a training occurs twice.
    """
    by_measure = _cells(scores)
    single = {} if answers is None else {str(name): _table(rows) for name, rows in answers.groupby("benchmark")}
    found = []
    for name, cells in by_measure.items():
        noise = _noise(cells)
        source: NoiseSource = "this lab"
        if noise is None:
            noise = earlier.by_measure.get(name) if earlier else None
            if noise and len({draw for done in cells.values() for draw, _ in done}) == 1:
                noise = noise.within_draws()
            source = "earlier labs" if noise else "unknown"
        parts = [part for part in by_measure if part != BOTH and name in (part, BOTH)]
        given = [single[part] for part in parts] if all(part in single for part in parts) else []
        found.append(Measure(name, cells, given, noise, source))
    return found


def measured_noise(scores: pd.DataFrame, source: str) -> EarlierNoise | None:
    """The noise of a lab's trainings, for later labs that have one seed an arm; None where nothing is repeated."""
    found = {name: _noise(cells) for name, cells in _cells(scores).items()}
    by_measure = {name: noise for name, noise in found.items() if noise}
    return EarlierNoise(by_measure, source) if by_measure else None


def scores_of(answers: pd.DataFrame) -> pd.DataFrame:
    """The table SCORES of a table ANSWERS: means over all questions."""
    means = answers.groupby([*CELL, "benchmark"], sort=False)["correct"].mean()
    return means.rename("score").reset_index()


def scores_of_records(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """The table SCORES of records of finished trainings (`arm, draw, seed, scores` with `all` by benchmark)."""
    rows = [
        (record["arm"], record.get("draw", 0), record["seed"], benchmark, scores["all"])
        for record in records
        for benchmark, scores in record["scores"].items()
    ]
    return pd.DataFrame(rows, columns=list(SCORES))


def _cells(scores: pd.DataFrame) -> dict[str, Cells]:
    """Points of every training by measure."""
    found: dict[str, Cells] = {}
    for row in scores[list(SCORES)].dropna(subset="score").itertuples(index=False):
        cells = found.setdefault(str(row.benchmark), {}).setdefault(str(row.arm), {})
        if (row.draw, row.seed) in cells:
            raise UserError(f"arm {row.arm}, draw {row.draw}, seed {row.seed}: two scores of {row.benchmark}")
        cells[row.draw, row.seed] = 100 * float(row.score)
    if len(found) > 1:
        first, *others = found.values()
        together: Cells = {}
        for arm, cells in first.items():
            shared = [cell for cell in cells if all(cell in other.get(arm, ()) for other in others)]
            if shared:
                means = {cell: (cells[cell] + sum(other[arm][cell] for other in others)) for cell in shared}
                together[arm] = {cell: total / len(found) for cell, total in means.items()}
        found[BOTH] = together
    return found


def _table(answers: pd.DataFrame) -> Answers:
    """Answers to one benchmark, from rows of ANSWERS."""
    table = answers.pivot(index=CELL, columns="question", values="correct")
    images = None
    if "image" in answers:
        of_question = answers.drop_duplicates("question").set_index("question")["image"]
        images = pd.factorize(of_question.loc[table.columns])[0]
    rows = {(str(arm), (draw, seed)): number for number, (arm, draw, seed) in enumerate(table.index)}
    return Answers(rows, 100 * table.to_numpy(float), images)


def _noise(cells: Cells) -> Noise | None:
    """Of the largest complete table arm x draw x seed among a measure's trainings."""
    best = _largest_table(cells)
    if len(best) == 1:  # no two arms share a seed, so which of them stand side by side does not matter
        return Noise.of(_largest_table({arm: _renumbered(found) for arm, found in cells.items()}), crossed=False)
    return Noise.of(best)


def _renumbered(cells: dict[Cell, float]) -> dict[Cell, float]:
    """The cells of one arm with its seeds counted from 0 in each draw."""
    counts: dict[Any, int] = {}
    found = {}
    for (draw, _), points in sorted(cells.items()):
        found[draw, counts.get(draw, 0)] = points
        counts[draw] = counts.get(draw, 0) + 1
    return found


def _largest_table(cells: Cells) -> np.ndarray:
    """Points [arms, draws, seeds] of the arms and grid of draws and seeds that repeat most."""
    grids = set()
    for done in cells.values():
        draws = frozenset(draw for draw, _ in done)
        seeds = {draw: frozenset(seed for other, seed in done if other == draw) for draw in draws}
        grids |= {(frozenset([draw]), seeds[draw]) for draw in draws}
        grids.add((draws, frozenset.intersection(*seeds.values())))
    size, best = -1, np.zeros((1, 1, 1))
    for draws, seeds in sorted(grids, key=lambda grid: (sorted(grid[0]), sorted(grid[1]))):
        wanted = [(draw, seed) for draw in sorted(draws) for seed in sorted(seeds)]
        found = [[done[cell] for cell in wanted] for done in cells.values() if done.keys() >= set(wanted)]
        if wanted and len(found) * (len(wanted) - 1) > size:
            size = len(found) * (len(wanted) - 1)
            # The same trainings under two names say no more of the noise than under one.
            best = np.unique(np.array(found), axis=0).reshape(-1, len(draws), len(seeds))
    return best
