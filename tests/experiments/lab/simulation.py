"""Labs with a known truth: scores and answers of arms whose true difference is given."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

BASELINE = "arm 0"
MEAN = 0.45
# Standard deviations, as shares of right answers. Seeds' and arms' are near those of the mini world's records (all arms
# of one seed move together; arms differ in how much they scatter); the rest is what questions do.
SEED, ARM_AND_SEED, SPREAD_OF_ARMS = 0.045, 0.035, 0.35
DRAW, ARM_AND_DRAW = 0.02, 0.022
QUESTION, ARM_AND_QUESTION, SEED_AND_QUESTION = 0.15, 0.06, 0.05


def labs(
    count: int, *, arms: int, seeds: int, draws: int = 1, questions: int = 600, gain: float = 0.0, shared: bool = True
) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """Tables of scores and of single answers, the same ones in every run.

    Args:
        count: of labs.
        arms, seeds, draws, questions: size of each.
        gain: true difference of every other arm to the baseline, points.
        shared: arms have the same seeds; otherwise each has its own.
    """
    normal = np.random.default_rng(0).standard_normal
    chance = np.random.default_rng(1).random
    cells = [
        (f"arm {arm}", draw, seed + (0 if shared else 100 * arm), "textvqa")
        for arm in range(arms)
        for draw in range(draws)
        for seed in range(seeds)
    ]
    trainings = pd.DataFrame(cells, columns=["arm", "draw", "seed", "benchmark"])
    rows = trainings.loc[np.repeat(trainings.index, questions)].reset_index(drop=True)
    rows["question"] = np.tile(np.arange(questions), len(cells))
    own = arms if not shared else 1
    several = draws > 1
    for _ in range(count):
        scatter = ARM_AND_SEED * np.exp(SPREAD_OF_ARMS * normal((arms, 1, 1, 1)))
        right = (
            MEAN
            + SEED * normal((own, 1, seeds, 1))
            + DRAW * several * normal((1, draws, 1, 1))
            + scatter * (0.5 * normal((arms, 1, seeds, 1)) + 0.87 * normal((arms, draws, seeds, 1)))
            + ARM_AND_DRAW * several * normal((arms, draws, 1, 1))
            + QUESTION * normal((1, 1, 1, questions))
            + ARM_AND_QUESTION * normal((arms, 1, 1, questions))
            + SEED_AND_QUESTION * normal((own, 1, seeds, questions))
        )
        right[1:] += gain / 100
        correct = (chance(right.shape) < right).astype(float)
        yield trainings.assign(score=correct.mean(3).ravel()), rows.assign(correct=correct.ravel())
