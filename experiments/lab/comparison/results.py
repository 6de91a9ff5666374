"""What a comparison of arms says: the values that the table prints and the page draws. All scores are points, 0 to 100.

`experiments/lab/comparison/statistics.py` makes them; they hold nothing but numbers and texts, so that whoever shows
them needs neither the records nor a statistics library.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

BOTH = "both"  # the mean of all benchmarks, which decides
Verdict = Literal["better", "worse", "tie", "undecided"]
# Where the noise of training in an interval comes from: scatter of this lab's own trainings, of earlier labs of the
# preset, or nowhere, so that the interval holds the questions' noise alone.
NoiseSource = Literal["this lab", "earlier labs", "unknown"]


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval.

    Args:
        value: points.
        low, high: ends of the interval; None where nothing is known of the noise.
        error: standard error, points.
        freedom: degrees of freedom of the error.
    """

    value: float
    low: float | None = None
    high: float | None = None
    error: float | None = None
    freedom: float | None = None


@dataclass(frozen=True)
class ArmResult:
    """One arm.

    Args:
        arm: its name.
        trainings: how many there are.
        seeds, draws: how many different ones.
        scores: by measure: each benchmark's name, and `both`.
        deviation: standard deviation between trainings by measure, points; None with one training.
    """

    arm: str
    trainings: int
    seeds: int
    draws: int
    scores: dict[str, Estimate]
    deviation: dict[str, float | None]


@dataclass(frozen=True)
class Comparison:
    """An arm against the baseline in one measure.

    Args:
        arm, baseline: names.
        measure: a benchmark's name, or `both`.
        pairs: trainings of equal draw and seed on both sides; 0 where there are none and all of both sides count.
        difference: arm - baseline.
        p: two-sided, of no difference; None where the noise is unknown.
        holm: p after Holm's correction over all arms in this measure.
        verdict: by `holm` at 5 %.
        words: the verdict in a few words, such as "not decided: about 9 seeds each would settle it".
        detectable: the smallest true gain that this design finds in four of five labs (80 % power at 5 %).
        seeds_needed: seeds of each arm with which a true gain as large as the one seen would be found in four of five
            labs; None where it is found already, or more seeds do not help.
        noise: where the noise of training comes from.
    """

    arm: str
    baseline: str
    measure: str
    pairs: int
    difference: Estimate
    p: float | None
    holm: float | None
    verdict: Verdict
    words: str
    detectable: float | None
    seeds_needed: int | None
    noise: NoiseSource


@dataclass(frozen=True)
class Analysis:
    """A whole lab.

    Args:
        baseline: name of the arm that the others are compared with.
        measures: in the order to show them; the last is `both` where there are several benchmarks.
        arms: in the order of the table given.
        comparisons: of every other arm in every measure.
        notes: sentences that belong under the table, such as where the noise comes from.
        warnings: what is odd about the cells.
    """

    baseline: str
    measures: tuple[str, ...]
    arms: list[ArmResult]
    comparisons: list[Comparison]
    notes: list[str]
    warnings: list[str]

    def comparison(self, arm: str, measure: str = BOTH) -> Comparison | None:
        """The one of this arm and measure; None for the baseline."""
        return next((found for found in self.comparisons if (found.arm, found.measure) == (arm, measure)), None)


@dataclass(frozen=True)
class RankAgreement:
    """How well one size of a lab ranks the arms as another does.

    Args:
        small, large: names of the two sizes.
        arms: those that both have.
        points: the mean score of each arm in both.
        spearman, kendall: rank correlation of the arms' scores, -1 to 1, with the 95 % interval of a bootstrap over
            seeds and questions.
        words: what it means for a user of the small size.
    """

    small: str
    large: str
    arms: list[str]
    points: list[tuple[float, float]]
    spearman: Estimate
    kendall: Estimate
    words: str
