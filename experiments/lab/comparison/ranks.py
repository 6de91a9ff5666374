"""Does a cheap size of a lab rank the arms as a dear one does?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from experiments.lab.comparison.measures import CELL
from experiments.lab.comparison.results import Estimate, RankAgreement
from toolkit.errors import UserError

RESAMPLES = 1000
FEWEST_ARMS = 4  # of fewer, every order is likely
CLOSE = 0.8  # a correlation from here on is called close

Size = tuple[str, pd.DataFrame, pd.DataFrame | None]  # name, table of scores, table of answers where there is one
Means = Callable[[np.random.Generator | None], np.ndarray]


def rank_agreement(small: Size, large: Size) -> RankAgreement:
    """Rank correlation of the arms' scores, over all benchmarks, between two sizes of a lab.

    Args:
        small, large: two sizes; tables as `statistics.analyse` takes them.

    Returns:
        correlations with percentile intervals of a bootstrap that draws seeds, draws and questions again. Resampled
        scores are noisier than the measured ones, so the intervals lean to the low side.

    Raises:
        UserError: they share fewer than two arms.
    """
    theirs = set(large[1]["arm"])
    arms = [arm for arm in dict.fromkeys(small[1]["arm"]) if arm in theirs]
    if len(arms) < 2:
        raise UserError(f"{small[0]} and {large[0]}: fewer than two arms in both; nothing to rank")
    sides = [_means(arms, scores, answers) for _, scores, answers in (small, large)]
    measured = [side(None) for side in sides]
    random = np.random.default_rng(0)
    drawn = [[side(random) for side in sides] for _ in range(RESAMPLES)]
    spearman, kendall = (_correlation(function, measured, drawn) for function in (stats.spearmanr, stats.kendalltau))
    points = [(float(100 * ours), float(100 * theirs)) for ours, theirs in zip(*measured, strict=True)]
    words = _words(small[0], large[0], arms, spearman)
    return RankAgreement(small[0], large[0], arms, points, spearman, kendall, words)


def _correlation(
    function: Callable[..., Any], measured: Sequence[np.ndarray], drawn: Sequence[Sequence[np.ndarray]]
) -> Estimate:
    """A rank correlation with its interval; scores that are all equal order nothing, which counts as 0."""

    def value(sides: Sequence[np.ndarray]) -> float:
        if any(np.ptp(side) == 0 for side in sides):
            return 0.0
        return round(float(function(*sides).statistic), 9)  # 0 is 0

    low, high = np.quantile([value(sides) for sides in drawn], [0.025, 0.975])
    return Estimate(value(measured), float(low), float(high))


def _means(arms: Sequence[str], scores: pd.DataFrame, answers: pd.DataFrame | None) -> Means:
    """A function that gives the arms' scores, as measured or of seeds, draws and questions drawn again [arms]."""
    scores = scores[scores["arm"].isin(arms)]
    if answers is not None and not set(map(tuple, scores[CELL].to_numpy())) <= set(
        map(tuple, answers[CELL].to_numpy())
    ):
        answers = None
    tables = [
        rows.pivot(index=CELL, columns="question", values="correct").dropna(axis=1)
        for _, rows in (answers[answers["arm"].isin(arms)] if answers is not None else scores.assign(question=0)
            .rename(columns={"score": "correct"})).groupby("benchmark")
    ]  # fmt: skip
    cells = [table.index.to_frame(index=False) for table in tables]
    # Which rows of a table are an arm's, as weights [arms, trainings].
    members = [np.array([(frame["arm"] == arm).to_numpy(float) for arm in arms]) for frame in cells]
    factors = [[pd.factorize(frame[factor])[0] for factor in ("draw", "seed")] for frame in cells]
    values = [table.to_numpy() for table in tables]

    def means(random: np.random.Generator | None) -> np.ndarray:
        found = []
        drawn = [_counts(random, 1 + max(int(codes[number].max()) for codes in factors)) for number in (0, 1)]
        for table, member, codes in zip(values, members, factors, strict=True):
            asked = _counts(random, table.shape[1])
            weights = member * drawn[0][codes[0]] * drawn[1][codes[1]]
            # An arm of which no training was drawn keeps those it has.
            weights = np.where(weights.sum(1, keepdims=True) > 0, weights, member)
            found.append(weights @ (table @ asked / asked.sum()) / weights.sum(1))
        return np.mean(found, axis=0)

    return means


def _counts(random: np.random.Generator | None, count: int) -> np.ndarray:
    """How often each of `count` things is drawn; once where nothing is drawn at random."""
    return np.ones(count) if random is None else random.multinomial(count, np.full(count, 1 / count)).astype(float)


def _words(small: str, large: str, arms: Sequence[str], spearman: Estimate) -> str:
    if len(arms) < FEWEST_ARMS:
        return f"{len(arms)} arms are too few to say whether {small} ranks as {large} does"
    if spearman.high is not None and spearman.high < 0:
        return f"{small} ranks the arms the other way round than {large} does"
    if spearman.low is None or spearman.low <= 0:
        return f"not decided whether {small} ranks as {large} does: more arms or seeds would tell"
    return f"{small} ranks the arms {'much as' if spearman.value >= CLOSE else 'partly as'} {large} does"
