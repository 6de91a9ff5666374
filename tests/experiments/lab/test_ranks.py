"""Rank correlation of a lab's arms between two sizes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from experiments.lab.comparison import ranks
from experiments.lab.comparison.ranks import rank_agreement
from experiments.lab.comparison.results import RankAgreement
from toolkit.errors import UserError


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "RESAMPLES", 100)


def size(name: str, points: dict[str, float], noise: float, questions: int = 0) -> tuple:
    """Scores of arms with three seeds, and answers to so many questions."""
    random = np.random.default_rng(len(name))
    cells = [(arm, 0, seed) for arm in points for seed in range(3)]
    scores = [points[arm] / 100 + noise / 100 * random.standard_normal() for arm, _, _ in cells]
    table = pd.DataFrame(
        [(*cell, "textvqa", score) for cell, score in zip(cells, scores, strict=True)],
        columns=["arm", "draw", "seed", "benchmark", "score"],
    )
    if not questions:
        return name, table, None
    answers = table.loc[np.repeat(table.index, questions)].reset_index(drop=True)
    answers["question"] = np.tile(np.arange(questions), len(cells))
    answers["correct"] = (random.random(len(answers)) < answers["score"]).astype(float)
    table["score"] = answers.groupby(["arm", "draw", "seed"], sort=False)["correct"].mean().to_numpy()
    return name, table, answers


def width(found: RankAgreement) -> float:
    return found.spearman.high - found.spearman.low


FAR = {"a": 20.0, "b": 30.0, "c": 40.0, "d": 50.0, "e": 60.0}


def test_arms_far_apart_are_ranked_alike() -> None:
    found = rank_agreement(size("small", FAR, 1), size("large one", FAR | {"other": 9.0}, 1))
    assert found.arms == list(FAR)
    assert (found.spearman.value, found.kendall.value) == (1, 1)
    assert found.spearman.low > 0.8
    assert found.words == "small ranks the arms much as large one does"


def test_a_reversed_order_is_minus_one() -> None:
    turned = dict(zip(FAR, reversed(FAR.values()), strict=True))
    found = rank_agreement(size("small", FAR, 1), size("large", turned, 1))
    assert found.spearman.value == -1
    assert found.words == "small ranks the arms the other way round than large does"


def test_noise_of_seeds_and_of_questions_widens_the_interval() -> None:
    close = {arm: 40 + number for number, arm in enumerate("abcde")}
    found = rank_agreement(size("small", close, 4), size("large size", close, 4))
    assert width(found) > 0.4
    assert found.words.startswith("not decided")
    few = rank_agreement(size("small", FAR, 0, questions=20), size("large", FAR, 0, questions=20))
    many = rank_agreement(size("small", FAR, 0, questions=2000), size("large", FAR, 0, questions=2000))
    assert width(few) > width(many) + 0.1


def test_too_few_arms() -> None:
    three = {arm: FAR[arm] for arm in "abc"}
    assert "too few" in rank_agreement(size("small", three, 1), size("large", three, 1)).words
    with pytest.raises(UserError, match="small and large: fewer than two arms in both"):
        rank_agreement(size("small", {"a": 1.0, "b": 2.0}, 1), size("large", {"b": 1.0, "c": 2.0}, 1))
