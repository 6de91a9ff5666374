"""Which arms differ: means, intervals and verdicts of a lab's trainings, as `results.py` describes them.

Input is a table of scores, and one of single answers where the records hold them; nothing here knows a file. The noise
of trainings and of questions is measured in `noise.py`; docs/lab.md says why so, and how well the intervals hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy import optimize, special

from experiments.lab.comparison.measures import Cell, EarlierNoise, Measure, measures_of
from experiments.lab.comparison.noise import BORROWED_FREEDOM, Noise, Variance, moderated, of_questions
from experiments.lab.comparison.results import Analysis, ArmResult, Comparison, Estimate
from toolkit.errors import UserError

LEVEL = 0.05
POWER = 0.8
MOST_SEEDS = 50  # of each arm; nobody trains more
TIE = 2.0  # points; arms that are surely closer than this are a tie


def analyse(
    scores: pd.DataFrame,
    baseline: str,
    answers: pd.DataFrame | None = None,
    earlier: EarlierNoise | None = None,
    warnings: Sequence[str] = (),
) -> Analysis:
    """Compare every arm of a lab with one of them.

    Args:
        scores: columns SCORES, a row for each benchmark of each training; one that is not a number counts as missing.
        baseline: name of the arm to compare with.
        answers: columns ANSWERS, for all trainings or some; None where the records have none.
        earlier: for labs whose arms have one seed each.
        warnings: what is odd about the cells, to be handed on.

    Raises:
        UserError: there is no such arm, or a training occurs twice.
    """
    arms = list(dict.fromkeys(scores["arm"]))
    if baseline not in arms:
        raise UserError(f"baseline {baseline}: no training of that name; expected one of {', '.join(map(str, arms))}")
    measures = measures_of(scores, answers, earlier)
    comparisons: list[Comparison] = []
    for measure in measures:
        others = [arm for arm in measure.cells if arm != baseline and baseline in measure.cells]
        comparisons += _with_verdicts(measure, [_compare(measure, arm, baseline) for arm in others])
    return Analysis(
        baseline,
        tuple(measure.name for measure in measures),
        [_arm_result(measures, arm) for arm in arms],
        comparisons,
        _notes(measures, comparisons, earlier),
        list(warnings),
    )


def _sizes(cells: Iterable[Cell]) -> tuple[int, int, int]:
    """How many different draws and seeds, and how many cells."""
    cells = list(cells)
    return len({draw for draw, _ in cells}), len({seed for _, seed in cells}), len(cells)


def _scatter(points: Iterable[float]) -> float:
    """The variance among values; 0 for one."""
    points = list(points)
    return float(np.var(points, ddof=1)) if len(points) > 1 else 0.0


def _mean(cells: Mapping[Cell, float]) -> float:
    return sum(cells.values()) / len(cells)


def _arm_result(measures: Sequence[Measure], arm: str) -> ArmResult:
    scores, deviation = {}, {}
    for measure in measures:
        if cells := measure.cells.get(arm):
            found = _estimate(_mean(cells), _variance_of_mean(measure, arm))
            if found.low is not None and found.high is not None:  # no score lies outside 0 to 100
                found = replace(found, low=max(0.0, found.low), high=min(100.0, found.high))
            scores[measure.name] = found
            deviation[measure.name] = _scatter(cells.values()) ** 0.5 if len(cells) > 1 else None
    draws, seeds, trainings = max(
        (_sizes(measure.cells.get(arm, ())) for measure in measures), key=lambda size: size[2]
    )
    return ArmResult(arm, trainings, seeds, draws, scores, deviation)


def _estimate(value: float, variance: Variance | None) -> Estimate:
    if variance is None:
        return Estimate(value)
    error = variance.value**0.5
    half = _bound(variance.freedom) * error
    return Estimate(value, value - half, value + half, error, variance.freedom)


def _bound(freedom: float, level: float = LEVEL) -> float:
    """Of Student's t, two-sided."""
    return float(special.stdtrit(min(freedom, 1e9), 1 - level / 2))


def _variance_of_mean(measure: Measure, arm: str) -> Variance | None:
    cells = measure.cells[arm]
    trainings = None
    if measure.noise:
        size = _sizes(cells)
        expected, scatter = measure.noise.scatter_of_scores(*size), _scatter(cells.values())
        trainings = moderated(measure.noise.of_mean(*size), expected, scatter, len(cells) - 1)
    return _sum(trainings, _variance_of_questions(measure, {arm: list(cells)}, False, trainings))


def _sum(*parts: Variance | None) -> Variance | None:
    known = [part for part in parts if part is not None]
    return sum(known[1:], known[0]) if known else None


def _variance_of_questions(
    measure: Measure, trained: dict[str, list[Cell]], paired: bool, trainings: Variance | None
) -> Variance | None:
    """Of the mean of one arm, or the difference of two; None without the answers of these trainings."""
    parts = []
    known = trainings.value if trainings else np.inf
    for answers in measure.answers:
        wanted = [[(arm, cell) for cell in cells] for arm, cells in trained.items()]
        if not all(key in answers.rows for keys in wanted for key in keys):
            return None
        tables = [answers.correct[[answers.rows[key] for key in keys]] for keys in wanted]
        asked = ~np.isnan(np.concatenate(tables)).any(0)
        tables = [sign * table[:, asked] for sign, table in zip((1, -1), tables, strict=False)]
        groups = None if answers.images is None else np.unique(answers.images[asked], return_inverse=True)[1]
        parts.append(of_questions([tables[0] + tables[1]] if paired else tables, groups, len(measure.answers) * known))
    return _sum(*(Variance(part.value / len(parts) ** 2, part.freedom) for part in parts))


def _compare(measure: Measure, arm: str, baseline: str) -> tuple[Comparison, Variance | None, bool]:
    """Compare two arms, without verdict.

    Returns:
        the comparison; the questions' part of its variance; whether both are the same trainings.
    """
    ours, theirs = measure.cells[arm], measure.cells[baseline]
    shared = [cell for cell in ours if cell in theirs]
    paired = 2 * len(shared) >= min(len(ours), len(theirs)) and (measure.noise is None or measure.noise.arms > 1)
    if paired:
        ours, theirs = ({cell: cells[cell] for cell in shared} for cells in (ours, theirs))
    trainings = _variance_of_trainings(measure.noise, ours, theirs, paired) if measure.noise else None
    questions = _variance_of_questions(measure, {arm: list(ours), baseline: list(theirs)}, paired, trainings)
    difference = _estimate(_mean(ours) - _mean(theirs), _sum(trainings, questions))
    p = detectable = None
    if trainings and difference.error:
        p = float(2 * special.stdtr(difference.freedom, -abs(difference.value) / difference.error))
        detectable = smallest_gain(difference.error, difference.freedom or 0.0)
    elif trainings:  # not a trace of noise, as where a training is repeated
        p, detectable = float(difference.value == 0), 0.0
    found = Comparison(
        arm, baseline, measure.name, len(shared) if paired else 0, difference, p, None, "undecided", "",
        detectable, None, measure.source,
    )  # fmt: skip
    return found, questions, paired and _same(measure, arm, baseline, shared)


def _same(measure: Measure, arm: str, baseline: str, cells: Sequence[Cell]) -> bool:
    """Whether two arms have the same trainings: equal answers, or where none are known equal scores of several."""
    if any(measure.cells[arm][cell] != measure.cells[baseline][cell] for cell in cells):
        return False
    known = [
        (table.correct[table.rows[arm, cell]], table.correct[table.rows[baseline, cell]])
        for table in measure.answers
        for cell in cells
        if (arm, cell) in table.rows and (baseline, cell) in table.rows
    ]
    return all(np.array_equal(ours, theirs, equal_nan=True) for ours, theirs in known) if known else len(cells) > 1


def _variance_of_trainings(noise: Noise, ours: dict[Cell, float], theirs: dict[Cell, float], paired: bool) -> Variance:
    if paired:
        size, scatter = _sizes(ours), _scatter(ours[cell] - theirs[cell] for cell in ours)
        return moderated(noise.of_difference(*size), noise.scatter_of_difference(*size), scatter, len(ours) - 1)
    value, expected, scatter = 0.0, 0.0, 0.0
    for cells in (ours, theirs):
        size = _sizes(cells)
        usual = noise.scatter_of_scores(*size)
        value += noise.of_mean(*size).value
        expected += usual / len(cells)
        scatter += (_scatter(cells.values()) if len(cells) > 1 else usual) / len(cells)
    # Both parts come from the same mean squares, so their degrees of freedom do not add up.
    freedom = noise.of_mean(*_sizes(ours)).freedom
    return moderated(Variance(value, freedom), expected, scatter, len(ours) + len(theirs) - 2)


def power(gain: float, error: float, freedom: float, level: float = LEVEL) -> float:
    """How often a two-sided t test finds a true gain."""
    # The square of a non-central t is a non-central F, whose function in scipy knows no arguments that give NaN.
    return float(1 - special.ncfdtr(1, freedom, (gain / error) ** 2, _bound(freedom, level) ** 2))


def smallest_gain(error: float, freedom: float) -> float:
    """The true gain that a two-sided t test at 5 % finds four times in five.

    Args:
        error: standard error as the square root of a measured variance, which is too small on average (by 11 % for two
            degrees of freedom): the gain is for the error without this bias.
        freedom: of the error.
    """
    half = min(freedom, 1e6) / 2
    error /= float(np.exp(special.gammaln(half + 0.5) - special.gammaln(half)) / half**0.5)
    most = (2 * _bound(freedom) + 3) * error
    return float(optimize.brentq(lambda gain: power(gain, error, freedom) - POWER, 0, most))


def holm(values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction (Scandinavian Journal of Statistics 6, 1979); None stays and does not count."""
    known = sorted((p, index) for index, p in enumerate(values) if p is not None)
    corrected: list[float | None] = [None] * len(values)
    least = 0.0
    for rank, (p, index) in enumerate(known):
        least = max(least, min(1.0, p * (len(known) - rank)))
        corrected[index] = least
    return corrected


def _with_verdicts(measure: Measure, found: Sequence[tuple[Comparison, Variance | None, bool]]) -> list[Comparison]:
    corrected = holm([comparison.p for comparison, _, _ in found])
    return [
        _with_verdict(replace(comparison, holm=p), questions, same, measure, len(found))
        for (comparison, questions, same), p in zip(found, corrected, strict=True)
    ]


def _with_verdict(
    found: Comparison, questions: Variance | None, same: bool, measure: Measure, compared: int
) -> Comparison:
    difference = found.difference
    if same:
        nothing = Estimate(0.0, 0.0, 0.0, 0.0)
        words = "tie: the very same scores"
        return replace(found, difference=nothing, p=1.0, detectable=None, verdict="tie", words=words)
    if found.holm is None or difference.low is None or difference.high is None:
        return replace(found, words="not decided: how much trainings differ by luck is unknown; train 3 seeds of each")
    if found.holm <= LEVEL:
        verdict = "better" if difference.value > 0 else "worse"
        return replace(found, verdict=verdict, words=verdict)
    if difference.low >= -TIE and difference.high <= TIE:
        return replace(found, verdict="tie", words=f"tie: less than {TIE:.0f} points apart")
    seeds = _seeds_needed(found, questions, measure, LEVEL / compared)
    if seeds:
        return replace(found, seeds_needed=seeds, words=f"not decided: about {seeds} seeds each would settle it")
    return replace(found, words=f"not decided: more than {MOST_SEEDS} seeds each to settle it")


def _seeds_needed(found: Comparison, questions: Variance | None, measure: Measure, level: float) -> int | None:
    """Seeds of each arm that find a gain as large as the one seen; None if more than MOST_SEEDS."""
    draws, seeds, _ = (
        min(sizes) for sizes in zip(*(_sizes(measure.cells[arm]) for arm in (found.arm, found.baseline)), strict=True)
    )
    if measure.noise is None:
        return None
    fixed = questions.value if questions else 0.0
    trainings = max(0.0, (found.difference.error or 0.0) ** 2 - fixed)
    variance = measure.noise.of_difference if found.pairs else measure.noise.of_mean
    now = variance(draws, seeds, draws * seeds).value
    for count in range(seeds + 1, MOST_SEEDS + 1):
        share = variance(draws, count, draws * count).value / now if now else 0.0
        error = (trainings * share + fixed) ** 0.5
        freedom = count * draws - 1 + BORROWED_FREEDOM
        if not error or power(abs(found.difference.value), error, freedom, level) >= POWER:
            return count
    return None


def _notes(measures: Sequence[Measure], comparisons: Sequence[Comparison], earlier: EarlierNoise | None) -> list[str]:
    notes = []
    sources = {measure.source for measure in measures}
    if "earlier labs" in sources and earlier:
        notes.append(
            "One seed an arm: how much trainings differ by luck is unknown in this lab; intervals use what earlier "
            f"labs showed ({earlier.source})."
        )
    if "unknown" in sources:
        notes.append(
            "One seed an arm: how much trainings differ by luck is unknown and in no interval here, so nothing is "
            "decided."
        )
    if not all(measure.answers for measure in measures):
        notes.append("The records hold no single answers: intervals are for these very questions.")
    compared = len({comparison.arm for comparison in comparisons})
    if compared > 1:
        notes.append(f"Verdicts: Holm's correction over the {compared} arms compared, in each column.")
    return notes
