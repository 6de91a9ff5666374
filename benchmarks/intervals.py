"""How often intervals of a difference hold the truth, by method, in simulated labs whose truth is known.

    python -m benchmarks.intervals [--labs 400]

Prints for each size of lab the share of 95 % intervals that hold the true difference of two arms (0 here), half their
mean width in points, and for the lab's own how often a true gain of the size it calls detectable is found.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from experiments.lab.comparison.statistics import analyse
from tests.experiments.lab.simulation import BASELINE, labs

DESIGNS: tuple[dict[str, Any], ...] = (
    {"arms": 2, "seeds": 3}, {"arms": 4, "seeds": 3}, {"arms": 6, "seeds": 3}, {"arms": 6, "seeds": 5},
    {"arms": 2, "seeds": 10}, {"arms": 4, "seeds": 3, "draws": 2}, {"arms": 4, "seeds": 3, "shared": False},
)  # fmt: skip
RESAMPLES = 500
LAB = "lab"  # the method that labs use

Interval = tuple[float, float]


def main() -> None:
    """Simulate, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labs", type=int, default=400, help="simulated labs of each size (%(default)s)")
    count = parser.parse_args().labs
    print("| lab | questions alone | pairs alone (t) | bootstrap | own noise | all arms' noise | gain found |")
    print("|---" * 7 + "|")
    for design in DESIGNS:
        held: dict[str, list[bool]] = defaultdict(list)
        halves: dict[str, list[float]] = defaultdict(list)
        gains: list[float] = []
        for scores, answers in labs(count, **design):
            for method, (low, high) in _intervals(scores, answers, gains, design.get("shared", True)):
                held[method].append(low <= 0 <= high)
                halves[method].append((high - low) / 2)
        found = [
            comparison.p is not None and comparison.p < 0.05
            for scores, answers in labs(count, gain=float(np.mean(gains)), **design)
            for comparison in analyse(scores, BASELINE, answers).comparisons
        ]
        cells = [
            f"{100 * np.mean(held[method]):.1f} % ({np.mean(halves[method]):.1f})" if held[method] else "-"
            for method in ("questions", "pairs", "bootstrap", "own", LAB)
        ]
        name = ", ".join(f"{value} {key}" for key, value in design.items() if key != "shared")
        name += "" if design.get("shared", True) else ", not shared"
        print(f"| {name} | {' | '.join(cells)} | {100 * np.mean(found):.0f} % of {np.mean(gains):.1f} |", flush=True)


def _intervals(
    scores: pd.DataFrame, answers: pd.DataFrame, gains: list[float], shared: bool
) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Method and interval of each comparison; gains called detectable are added to `gains`."""
    for comparison in analyse(scores, BASELINE, answers).comparisons:
        gains.append(comparison.detectable or 0.0)
        yield LAB, (comparison.difference.low, comparison.difference.high)
    if not shared or scores["draw"].nunique() > 1:
        return
    arms = list(dict.fromkeys(scores["arm"]))
    correct = 100 * answers["correct"].to_numpy().reshape(len(arms), scores["seed"].nunique(), -1)
    for number, difference in enumerate(correct[1:] - correct[0], 1):
        mean, count = difference.mean(), difference.shape[1]
        asked = difference.mean(0)
        yield "questions", stats.norm.interval(0.95, mean, asked.std(ddof=1) / count**0.5)
        pairs = difference.mean(1)
        yield "pairs", stats.t.interval(0.95, len(pairs) - 1, mean, pairs.std(ddof=1) / len(pairs) ** 0.5)
        yield "bootstrap", _bootstrap(difference)
        two = scores["arm"].isin([arms[0], arms[number]]), answers["arm"].isin([arms[0], arms[number]])
        (alone,) = analyse(scores[two[0]], BASELINE, answers[two[1]]).comparisons
        yield "own", (alone.difference.low, alone.difference.high)


def _bootstrap(difference: np.ndarray) -> Interval:
    """Percentile interval of seeds and questions drawn again, each for all of the other."""
    random = np.random.default_rng(0)
    seeds, questions = difference.shape
    seed_counts = random.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES)
    question_counts = random.multinomial(questions, np.full(questions, 1 / questions), RESAMPLES)
    means = ((seed_counts @ difference) * question_counts).sum(1) / (seeds * questions)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


if __name__ == "__main__":
    main()
