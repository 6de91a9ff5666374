"""The plots of a lab's page."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial

from experiments.lab.comparison.results import Estimate, RankAgreement
from experiments.lab.pages.findings import NAMES, Found, recipes_of
from experiments.lab.pages.markup import STAGE_NAMES
from experiments.lab.pages.page_tables import cost_of, kinds_of, samples, score_of
from experiments.lab.pages.plots import Dot, Line, Plot, curves, dots, scatter


def plots_of(found: Found, ranks: Sequence[RankAgreement] = ()) -> Iterator[Plot]:
    """All that there are figures for, in the page's order; `ranks` of the ladder's sizes."""
    analysis, ranked = found.analysis, found.ranked
    scores = {
        name: [_dot(arm, score) for arm in ranked if (score := found.arms[arm].scores.get(name))]
        for name in analysis.measures
    }
    yield dots("leaderboard", "Mean scores of all trainings with their 95 % intervals.", _named(scores), "points")
    differences = {
        name: [_dot(arm, one.difference) for arm in ranked if (one := analysis.comparison(arm, name))]
        for name in analysis.measures
    }
    if any(differences.values()):
        caption = f"Differences to {analysis.baseline} with their 95 % intervals."
        yield dots("differences", caption, _named(differences), "points", zero=True)
    yield _cost(found)
    if ranks:
        panels: dict[str, list[tuple[str, float, float, float | None, float | None]]] = {
            f"{one.small}, points; above: {one.large}": [
                (arm, small, large, None, None) for arm, (small, large) in zip(one.arms, one.points, strict=True)
            ]
            for one in ranks
        }
        caption = "Mean scores of the arms, both benchmarks, in two sizes of the lab."
        yield scatter("ladder", caption, panels, "the larger size, points", order=ranked)
    if lines := list(_losses(found)):
        caption = "Training loss: each training's moving mean (faint), and the mean of an arm's trainings."
        if without := [arm for arm in ranked if arm not in {line.series for line in lines}]:
            caption += f" No curve was recorded for {', '.join(without)}."
        yield curves("loss", caption, lines, "logged step", "loss", order=ranked)
    if kinds := kinds_of(found):
        means = [
            Dot(label, arm, 100 * mean)
            for (benchmark, kind), label in kinds.items()
            for arm in ranked
            if (mean := found.mean(arm, partial(score_of, benchmark, kind))) is not None
        ]
        yield dots("categories", "Mean scores by category, over all trainings.", {"": means}, "per cent", order=ranked)
    if kept := list(_kept(found)):
        yield dots("kept", "Rows kept after each operator, by recipe.", {"": kept}, "rows", order=ranked)


def _dot(row: str, estimate: Estimate) -> Dot:
    return Dot(row, "", estimate.value, estimate.low, estimate.high)


def _named(panels: dict[str, list[Dot]]) -> dict[str, list[Dot]]:
    return {NAMES.get(name, name): values for name, values in panels.items()}


def _cost(found: Found) -> Plot:
    """Score against samples, and against GPU hours or CPU time."""
    panels = {}
    for label, cost in (("pre-training samples", partial(samples, "pretrain")), cost_of(found)):
        panels[label] = [
            (arm, place, score.value, score.low, score.high)
            for arm in found.ranked
            if (place := found.mean(arm, cost)) is not None and (score := found.arms[arm].scores.get(found.deciding))
        ]
    caption = "Score against what one training costs; points of equal cost stand side by side."
    return scatter("cost", caption, panels, f"{NAMES.get(found.deciding, found.deciding)}, points")


def _losses(found: Found) -> Iterator[Line]:
    """Histories of both stages; records of before the lab hold one number each, which is no curve."""
    for stage, label in STAGE_NAMES.items():
        for arm in found.ranked:
            for record in found.records[arm]:
                history = record.get("loss", {}).get(stage)
                if isinstance(history, list) and history:
                    training = f"draw {record['draw']} seed {record['seed']}"
                    losses = [math.nan if loss is None else loss for loss in history]  # JSON has no infinity
                    yield Line(label, arm, range(1, len(losses) + 1), losses, training)


def _kept(found: Found) -> Iterator[Dot]:
    """Rows by operator; the second use of an operator in a recipe has a row of its own."""
    for recipe in recipes_of(found):
        used: Counter[str] = Counter()
        for step in recipe["steps"]:
            used[step["name"]] += 1
            again = f" ({used[step['name']]})" if used[step["name"]] > 1 else ""
            yield Dot(step["name"] + again, recipe["name"], step["kept"])
