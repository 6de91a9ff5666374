"""The lab's statistics: intervals that hold what they promise, pairs of equals called equal, verdicts by hand."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from experiments.lab.comparison.measures import SCORES, measured_noise, scores_of, scores_of_records
from experiments.lab.comparison.results import Analysis, Comparison
from experiments.lab.comparison.statistics import analyse, holm, smallest_gain
from tests.experiments.lab.simulation import BASELINE, MEAN, labs
from toolkit.errors import UserError
from toolkit.files import REPOSITORY

RECORDS = REPOSITORY / "experiments" / "mini_world" / "records" / "test"
# Arms with ten trainings each, five seeds on two draws; `none` uses no draw.
ARMS = ("raw", "random", "reversed", "recipe", "clean", "no_mismatched", "no_half_wrong")


def scores_table(points: dict[str, Iterable[float]], benchmark: str = "textvqa") -> pd.DataFrame:
    """Scores of arms by seed 0, 1, ..., from points."""
    rows = [(arm, 0, seed, benchmark, value / 100) for arm, row in points.items() for seed, value in enumerate(row)]
    return pd.DataFrame(rows, columns=list(SCORES))


def only(analysis: Analysis) -> Comparison:
    """Its one comparison."""
    assert len(analysis.comparisons) == 1
    return analysis.comparisons[0]


@pytest.fixture(scope="module")
def records() -> pd.DataFrame:
    """Scores of the mini world's committed records."""
    return scores_of_records([json.loads(file.read_text()) for file in sorted(RECORDS.glob("*.json"))])


@dataclass(frozen=True)
class Held:
    """Shares of simulated comparisons and means whose interval holds the truth, and of comparisons called different."""

    differences: float
    means: float
    found: float
    detectable: float  # mean of the gains said to be detectable


def held(count: int, gain: float, single: bool, **design: Any) -> Held:
    """Analyse simulated labs, with or without their single answers."""
    differences, means, found, detectable = [], [], [], []
    for scores, answers in labs(count, gain=gain, **design):
        analysis = analyse(scores, BASELINE, answers if single else None)
        for comparison in analysis.comparisons:
            differences.append(comparison.difference.low <= gain <= comparison.difference.high)
            found.append(comparison.p < 0.05)
            detectable.append(comparison.detectable)
        for arm in analysis.arms:
            truth = 100 * MEAN + gain * (arm.arm != BASELINE)
            means.append(arm.scores["textvqa"].low <= truth <= arm.scores["textvqa"].high)
    return Held(*(float(np.mean(values)) for values in (differences, means, found, detectable)))


@pytest.mark.parametrize(
    ("single", "count", "design"),
    [
        (True, 120, {"arms": 6, "seeds": 3}),
        (False, 400, {"arms": 2, "seeds": 3, "questions": 200}),
        (False, 150, {"arms": 4, "seeds": 3, "draws": 2, "questions": 200}),
        (False, 200, {"arms": 4, "seeds": 3, "shared": False, "questions": 200}),
    ],
    ids=["six arms", "two arms", "two draws", "seeds not shared"],
)
def test_intervals_and_detectable_gain_hold_in_simulated_labs(single: bool, count: int, design: dict[str, Any]) -> None:
    null = held(count, 0, single, **design)
    assert 0.92 <= null.differences <= 0.98
    assert 0.92 <= null.means <= 0.98
    gain = held(count, null.detectable, single, **design)
    assert 0.92 <= gain.differences <= 0.98
    assert 0.75 <= gain.found <= 0.85


Sides = tuple[list[pd.DataFrame], list[pd.DataFrame]]


def one_against_one(ours: pd.DataFrame) -> list[Sides]:
    """Every pair of trainings on one draw."""
    by_draw = [[rows for _, rows in draw.groupby("seed")] for _, draw in ours.groupby("draw")]
    return [([first], [second]) for draw in by_draw for first, second in itertools.combinations(draw, 2)]


def five_against_five(ours: pd.DataFrame) -> list[Sides]:
    """Ten random halves of trainings, each of its own seed: which draw it saw is part of its luck."""
    trainings = [rows for _, rows in ours.groupby(["draw", "seed"])]
    trainings = [rows.assign(draw=0, seed=number) for number, rows in enumerate(trainings)]
    orders = [np.random.default_rng(number).permutation(10) for number in range(10)]
    return [([trainings[n] for n in order[:5]], [trainings[n] for n in order[5:]]) for order in orders]


@pytest.mark.parametrize("split", [one_against_one, five_against_five], ids=["1 v 1", "5 v 5"])
def test_trainings_of_one_arm_are_not_called_different(records: pd.DataFrame, split: Any) -> None:
    called: dict[str, list[bool]] = {"textvqa": [], "mmbench": [], "both": []}
    for arm in ARMS:
        # One training a side knows its noise from the other arms only.
        earlier = measured_noise(records[(records["arm"] != arm) & records["arm"].isin(ARMS)], "the other arms")
        ours = records[records["arm"] == arm]
        for sides in split(ours):
            scores = pd.concat([rows.assign(arm=name) for name, side in zip("ab", sides, strict=True) for rows in side])
            for comparison in analyse(scores, "a", earlier=earlier).comparisons:
                assert comparison.pairs == 0
                called[comparison.measure].append(comparison.p < 0.05)
    for found in called.values():
        assert len(found) >= 70
        assert sum(found) <= len(found) * 3 / 40


def test_arms_of_the_records_that_differ_are_told_apart(records: pd.DataFrame) -> None:
    verdicts = {
        comparison.arm: comparison.verdict
        for comparison in analyse(records[records["arm"].isin([*ARMS, "none"])], "raw").comparisons
        if comparison.measure == "both"
    }
    assert {arm: verdicts[arm] for arm in ("none", "reversed", "recipe", "clean", "random")} == {
        "none": "worse", "reversed": "worse", "recipe": "better", "clean": "better", "random": "undecided",
    }  # fmt: skip


def test_two_arms_with_the_same_seeds_are_compared_in_pairs_as_students_t_does() -> None:
    raw, recipe = [40.0, 46, 35, 44, 41], [48.0, 55, 42, 50, 52]
    comparison = only(analyse(scores_table({"raw": raw, "recipe": recipe}), "raw"))
    expected = stats.ttest_rel(recipe, raw)
    assert comparison.pairs == 5
    assert comparison.p == pytest.approx(expected.pvalue)
    low, high = expected.confidence_interval()
    assert (comparison.difference.low, comparison.difference.high) == pytest.approx((low, high))
    assert comparison.verdict == "better"


def test_other_seeds_are_compared_unpaired_as_students_t_does() -> None:
    raw, recipe = [40.0, 46, 35, 44], [48.0, 55, 42, 50]
    scores = scores_table({"raw": raw, "recipe": recipe})
    scores.loc[scores["arm"] == "recipe", "seed"] += 10
    comparison = only(analyse(scores, "raw"))
    expected = stats.ttest_ind(recipe, raw)
    assert comparison.pairs == 0
    assert comparison.difference.error == pytest.approx(expected.statistic**-1 * comparison.difference.value)
    assert comparison.p == pytest.approx(expected.pvalue)


def test_only_pairs_count_where_most_have_one() -> None:
    scores = scores_table({"raw": [40, 46, 35, 44], "recipe": [48, 55, 42]})
    comparison = only(analyse(scores, "raw"))
    assert comparison.pairs == 3
    assert comparison.difference.value == pytest.approx(np.mean([48, 55, 42]) - np.mean([40, 46, 35]))


def test_one_recipe_under_two_names_is_a_tie_and_says_nothing_of_the_noise() -> None:
    points = {"raw": [40.0, 46, 35], "recipe": [48.0, 55, 42], "other": [44.0, 50, 47]}
    twice = analyse(scores_table(points | {"again": points["recipe"]}), "recipe")
    comparison = twice.comparison("again", "textvqa")
    assert comparison
    assert (comparison.verdict, comparison.words) == ("tie", "tie: the very same scores")
    assert (comparison.difference.low, comparison.difference.high) == (0, 0)
    once = analyse(scores_table(points), "recipe").comparison("raw", "textvqa")
    found = twice.comparison("raw", "textvqa")
    assert once
    assert found
    assert found.difference == once.difference


def test_equal_scores_of_other_answers_are_no_tie() -> None:
    ((scores, answers),) = labs(1, arms=2, seeds=1, questions=50)
    first = answers["arm"] == BASELINE
    answers.loc[~first, "correct"] = answers.loc[first, "correct"].to_numpy()[::-1]
    scores["score"] = scores["score"].iloc[0]
    earlier = measured_noise(scores_table({"a": [40, 46, 35, 44], "b": [41, 46, 36, 43]}), "x")
    assert only(analyse(scores, BASELINE, answers, earlier)).verdict == "undecided"
    assert only(analyse(scores, BASELINE, None, earlier)).verdict == "undecided"
    answers.loc[~first, "correct"] = answers.loc[first, "correct"].to_numpy()
    assert only(analyse(scores, BASELINE, answers, earlier)).verdict == "tie"


def test_arms_that_are_surely_close_are_a_tie() -> None:
    scores = scores_table({"raw": [40, 45, 50, 42], "recipe": [40.2, 44.9, 50.3, 42.3]})
    comparison = only(analyse(scores, "raw"))
    assert (comparison.verdict, comparison.words) == ("tie", "tie: less than 2 points apart")


def test_seeds_that_would_settle_it_do() -> None:
    rng = np.random.default_rng(5)
    difference = np.array([9.0, -2, 5, 1])
    base = np.array([40.0, 45, 50, 42])
    comparison = only(analyse(scores_table({"raw": base, "recipe": base + difference}), "raw"))
    assert comparison.verdict == "undecided"
    needed = comparison.seeds_needed
    assert needed
    assert comparison.words == f"not decided: about {needed} seeds each would settle it"
    samples = rng.normal(difference.mean(), difference.std(ddof=1), (2000, needed))
    settled = (stats.ttest_1samp(samples, 0, axis=1).pvalue < 0.05).mean()
    assert 0.75 <= settled <= 0.9


def test_a_difference_too_small_to_settle_says_so() -> None:
    comparison = only(analyse(scores_table({"raw": [40, 45, 50], "recipe": [41, 40, 54.5]}), "raw"))
    assert comparison.seeds_needed is None
    assert comparison.words == "not decided: more than 50 seeds each to settle it"


def test_one_seed_an_arm_decides_nothing_by_itself() -> None:
    scores = scores_table({"raw": [40], "recipe": [60]})
    analysis = analyse(scores, "raw")
    comparison = only(analysis)
    assert (comparison.verdict, comparison.noise, comparison.p) == ("undecided", "unknown", None)
    assert "is unknown" in comparison.words
    assert any("nothing is decided" in note for note in analysis.notes)
    # With earlier labs' noise it is decided, and the note says by what.
    earlier = measured_noise(scores_table({"a": [40, 46, 35, 44], "b": [41, 46, 36, 43]}), "four trainings of two arms")
    analysis = analyse(scores, "raw", earlier=earlier)
    comparison = only(analysis)
    assert (comparison.verdict, comparison.noise) == ("better", "earlier labs")
    assert any("four trainings of two arms" in note for note in analysis.notes)
    assert measured_noise(scores, "x") is None


def test_an_arm_with_one_seed_borrows_the_other_arms_noise() -> None:
    points = {"raw": [40.0, 46, 35, 44], "recipe": [48.0, 55, 42, 50], "single": [43.0]}
    comparison = analyse(scores_table(points), "raw").comparison("single", "textvqa")
    assert comparison
    assert (comparison.pairs, comparison.noise) == (1, "this lab")
    assert comparison.p is not None


def test_both_is_the_mean_of_the_benchmarks_and_decides() -> None:
    scores = pd.concat([
        scores_table({"raw": [40, 46, 35], "recipe": [50, 56, 45]}),
        scores_table({"raw": [60, 62, 58], "recipe": [61, 62, 59]}, "mmbench"),
    ])  # fmt: skip
    analysis = analyse(scores, "raw")
    assert analysis.measures == ("textvqa", "mmbench", "both")
    assert analysis.arms[0].scores["both"].value == pytest.approx(np.mean([40, 46, 35, 60, 62, 58]))
    assert [comparison.measure for comparison in analysis.comparisons] == ["textvqa", "mmbench", "both"]


def test_questions_widen_an_interval_and_those_on_one_image_more() -> None:
    ((scores, answers),) = labs(1, arms=2, seeds=3)
    alone = only(analyse(scores, BASELINE))
    with_questions = only(analyse(scores, BASELINE, answers))
    assert with_questions.difference.value == pytest.approx(alone.difference.value)
    assert with_questions.difference.error > alone.difference.error
    # Twice the same question about an image is one question's worth of information.
    twice = pd.concat([answers, answers.assign(question=answers["question"] + 600)]).assign(
        image=lambda table: table["question"] % 600
    )
    grouped = only(analyse(scores_of(twice), BASELINE, twice))
    assert grouped.difference.error == pytest.approx(with_questions.difference.error, rel=0.02)
    single = only(analyse(scores_of(twice), BASELINE, twice.drop(columns="image")))
    assert single.difference.error < grouped.difference.error


def test_answers_that_some_trainings_lack_leave_the_rest() -> None:
    ((scores, answers),) = labs(1, arms=3, seeds=3, questions=50)
    gone = answers[(answers["arm"] != "arm 2") & (answers["question"] != 7)]
    analysis = analyse(scores, BASELINE, gone)
    assert len(analysis.comparisons) == 2
    assert all(comparison.p is not None for comparison in analysis.comparisons)


def test_a_score_that_is_missing_costs_its_pair_only() -> None:
    comparison = only(analyse(scores_table({"raw": [40, np.nan, 44, 41], "recipe": [45, 47, 50, 44]}), "raw"))
    assert comparison.pairs == 3
    assert comparison.difference.value == pytest.approx(np.mean([5, 6, 3]))


def test_holm() -> None:
    assert holm([0.01, 0.04, None, 0.03]) == [pytest.approx(0.03), pytest.approx(0.06), None, pytest.approx(0.06)]
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([]) == []


def test_verdicts_are_holms() -> None:
    base = np.array([40.0, 46, 35, 44, 41])
    better = base + np.array([4, 6, 5, 3, 8])
    two = analyse(scores_table({"raw": base, "recipe": better}), "raw")
    assert two.comparison("recipe", "textvqa").verdict == "better"
    others = {f"noise {number}": base + np.random.default_rng(number).normal(0, 3, 5) for number in range(30)}
    many = analyse(scores_table({"raw": base, "recipe": better} | others), "raw")
    recipe = many.comparison("recipe", "textvqa")
    assert recipe.holm > recipe.p
    assert any("Holm's correction over the 31 arms" in note for note in many.notes)


def test_smallest_gain_is_the_textbooks() -> None:
    # Two-sided paired t test, ten pairs, 80 % power at 5 %: an effect of 0.996 standard deviations (Cohen 1988).
    unbiased = 0.9727  # of the standard deviation, nine degrees of freedom
    assert smallest_gain(unbiased / 10**0.5, 9) == pytest.approx(0.996, abs=0.003)


def test_faults_are_named() -> None:
    scores = scores_table({"raw": [40, 46], "recipe": [50, 56]})
    with pytest.raises(UserError, match="baseline rwa: no training of that name; expected one of raw, recipe"):
        analyse(scores, "rwa")
    with pytest.raises(UserError, match="arm raw, draw 0, seed 0: two scores of textvqa"):
        analyse(pd.concat([scores, scores]), "raw")
