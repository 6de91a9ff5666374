"""How much trainings scatter, and what that leaves unknown of a mean or a difference.

A score depends on three things of chance: the training's seed, the draw of the raw data (where a lab has several) and
the questions asked. They are crossed: all arms share seeds, draws and questions. So the variance of a mean or of a
difference is a sum of mean squares of a table arm x draw x seed, and of the questions' (Scheffe, The Analysis of
Variance, 1959, chapter 7), and its degrees of freedom are Satterthwaite's (Biometrics Bulletin 2, 1946).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

FACTORS = ("seed", "draw", "rest")
# An arm's own scatter, of two or four degrees of freedom, is mixed with that of all arms, which counts as so many more
# degrees. Chosen by coverage, see docs/lab.md.
BORROWED_FREEDOM = 4


@dataclass(frozen=True)
class Variance:
    """Of an estimate, in points squared.

    Args:
        value: at least 0.
        freedom: degrees of freedom.
    """

    value: float
    freedom: float

    def __add__(self, other: Variance) -> Variance:
        return _satterthwaite([(self.value, self.freedom), (other.value, other.freedom)])


def _satterthwaite(terms: Iterable[tuple[float, float]]) -> Variance:
    """The sum of variances, each a multiple of a mean square with its degrees of freedom; some may be subtracted."""
    terms = [(value, freedom) for value, freedom in terms if value]
    total = sum(value for value, _ in terms)
    if total <= 0:
        return Variance(0.0, np.inf)
    return Variance(total, total**2 / sum(value**2 / freedom for value, freedom in terms))


@dataclass(frozen=True)
class Noise:
    """Mean squares of a complete table arm x draw x seed, in points squared.

    Args:
        arms, draws, seeds: the table's size.
        shared: by factor, of the mean over arms: luck that all arms have in common.
        own: by factor, of what is left in each arm. Zero for one arm.
        tables: how many tables of one draw these are the mean squares of.
    """

    arms: int
    draws: int
    seeds: int
    shared: dict[str, float]
    own: dict[str, float]
    tables: int = 1

    @classmethod
    def of(cls, table: np.ndarray, crossed: bool = True) -> Noise | None:
        """Measure a table.

        Args:
            table: scores [arms, draws, seeds], points.
            crossed: arms share their seeds; if not, nothing is shared and all mean squares are of one kind.

        Returns:
            None for a single draw and seed, which do not scatter.
        """
        arms, draws, seeds = table.shape
        if draws * seeds == 1:
            return None
        mean = table.mean(0)
        rest = table - table.mean((1, 2), keepdims=True) - (mean - mean.mean())
        found = cls(arms, draws, seeds, _mean_squares(mean[None] * np.sqrt(arms)), _mean_squares(rest, arms - 1))
        return found if crossed else cls(arms, draws, seeds, found._within, found._within)

    @property
    def _within(self) -> dict[str, float]:
        """Mean squares within arms, by factor."""
        return {factor: self.shared[factor] / self.arms + self.own[factor] * (1 - 1 / self.arms) for factor in FACTORS}

    def within_draws(self) -> Noise:
        """The noise of trainings on one and the same draw."""
        if self.draws == 1 or self.seeds == 1:
            return self
        shared, own = (
            {"seed": (squares["seed"] + (self.draws - 1) * squares["rest"]) / self.draws, "draw": 0.0, "rest": 0.0}
            for squares in (self.shared, self.own)
        )
        return Noise(self.arms, 1, self.seeds, shared, own, self.draws)

    def of_difference(self, draws: int, seeds: int, cells: int) -> Variance:
        """Of the difference of two arms' means over the same cells (draw and seed)."""
        terms = self._terms(self.own, draws, seeds, cells, self.arms - 1)
        return _satterthwaite((2 * value, freedom) for value, freedom in terms)

    def of_mean(self, draws: int, seeds: int, cells: int) -> Variance:
        """Of one arm's mean over so many cells."""
        terms = [
            (share * value, freedom)
            for squares, share, arms in ((self.shared, 1 / self.arms, 1), (self.own, 1 - 1 / self.arms, self.arms - 1))
            for value, freedom in self._terms(squares, draws, seeds, cells, arms)
        ]
        return _satterthwaite(terms)

    def scatter_of_difference(self, draws: int, seeds: int, cells: int) -> float:
        """The variance that the differences of two arms should have among so many cells."""
        return 2 * self._scatter(self.own, draws, seeds, cells)

    def scatter_of_scores(self, draws: int, seeds: int, cells: int) -> float:
        """The variance that the scores of one arm should have among so many cells."""
        return self._scatter(self._within, draws, seeds, cells)

    def _terms(
        self, squares: dict[str, float], draws: int, seeds: int, cells: int, arms: int
    ) -> list[tuple[float, float]]:
        """The variance of a mean over cells as multiples of mean squares with their degrees of freedom."""
        if self.draws == 1:
            return [(squares["seed"] / seeds, self.tables * arms * (self.seeds - 1))]
        if self.seeds == 1:
            return [(squares["draw"] / draws, arms * (self.draws - 1))]
        by_seed, by_draw = 1 / (self.draws * seeds), 1 / (self.seeds * draws)
        freedom = (self.seeds - 1, self.draws - 1, (self.seeds - 1) * (self.draws - 1))
        weights = (by_seed, by_draw, 1 / cells - by_seed - by_draw)
        terms: list[tuple[float, float]] = [
            (weight * squares[factor], arms * degrees)
            for factor, weight, degrees in zip(FACTORS, weights, freedom, strict=True)
        ]
        # Where seeds and draws scatter less than their cells, the estimate would be too small, even below 0.
        least = squares["rest"] / cells
        if sum(value for value, _ in terms) > least:
            return terms
        return [(least, arms * freedom[2])]

    def _scatter(self, squares: dict[str, float], draws: int, seeds: int, cells: int) -> float:
        if self.draws == 1 or self.seeds == 1:
            return squares["seed"] + squares["draw"]
        by_seed = max(0.0, squares["seed"] - squares["rest"]) / self.draws * (1 - 1 / seeds)
        by_draw = max(0.0, squares["draw"] - squares["rest"]) / self.seeds * (1 - 1 / draws)
        return squares["rest"] + (by_seed + by_draw) * cells / max(1, cells - 1)


def _mean_squares(table: np.ndarray, arms: int = 1) -> dict[str, float]:
    """Mean squares by factor of a table [arms, draws, seeds] whose arms have means of 0, or of one arm."""
    table = table - table.mean((1, 2), keepdims=True)
    _, draws, seeds = table.shape
    by_seed, by_draw = table.mean(1, keepdims=True), table.mean(2, keepdims=True)
    sums = {
        "seed": (draws * (by_seed**2).sum(), seeds - 1),
        "draw": (seeds * (by_draw**2).sum(), draws - 1),
        "rest": (((table - by_seed - by_draw) ** 2).sum(), (seeds - 1) * (draws - 1)),
    }
    return {
        factor: float(total / (arms * freedom)) if arms * freedom else 0.0 for factor, (total, freedom) in sums.items()
    }


def moderated(variance: Variance, expected: float, scatter: float, degrees: int) -> Variance:
    """A variance from all arms, corrected by how much the arms in question scatter themselves.

    Their own scatter weighs by its degrees of freedom against `BORROWED_FREEDOM` (as in Smyth, Statistical Applications
    in Genetics and Molecular Biology 3, 2004, with a fixed prior).

    Args:
        variance: from all arms.
        expected: scatter of the arms in question, were it as that of all arms, points squared.
        scatter: what it is.
        degrees: its degrees of freedom; 0 for single trainings, which tell nothing of it.
    """
    ratio = scatter / expected if expected > 0 and degrees else 1.0
    value = variance.value * (BORROWED_FREEDOM + degrees * ratio) / (BORROWED_FREEDOM + degrees)
    return Variance(value, min(variance.freedom, BORROWED_FREEDOM + degrees))


def of_questions(
    correct: Sequence[np.ndarray], groups: np.ndarray | None = None, trainings: float = np.inf
) -> Variance:
    """What the choice of questions adds to the variance of a mean, or of a difference of means.

    Args:
        correct: tables [cells, questions] in points, whose means are added up: one of a mean or of paired differences;
            two of unpaired arms, the second with its sign changed.
        groups: of the questions, as numbers from 0: those on one image count as one draw [questions]; None for each
            by itself.
        trainings: the variance that the trainings' scatter is known to have. It holds how answers to single questions
            change between trainings, which is taken off here, but no more than is in it.

    Returns:
        0 where questions scatter no more than answers to them do between trainings.
    """
    count = correct[0].shape[1]
    groups = np.arange(count) if groups is None else groups
    draws = int(groups.max()) + 1
    scale = draws / max(1, draws - 1) / count**2
    mean = sum(table.mean(0) for table in correct)
    between = scale * (np.bincount(groups, mean - mean.mean()) ** 2).sum()
    within = 0.0
    for table in correct:
        cells = len(table)
        if cells > 1:
            rest = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
            sums = np.array([np.bincount(groups, row) for row in rest])
            within += scale * (sums**2).sum() / (cells - 1) / cells
    return Variance(max(0.0, float(between - min(within, trainings))), max(1, draws - 1))
