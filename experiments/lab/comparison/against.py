"""One finished run against another: what `python -m toolkit score EXP --baseline EXP` adds to the two scores."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from experiments.lab.comparison.earlier import earlier_noise
from experiments.lab.comparison.measures import scores_of
from experiments.lab.comparison.results import Analysis
from experiments.lab.comparison.statistics import analyse
from experiments.lab.finished import FinishedRun

RUN, BASELINE = "run", "baseline"
QUESTIONS_ONLY = (
    "Intervals (95 %) hold the luck of the questions alone. That of the training is mostly larger and not known for "
    "preset {preset}, so nothing is decided: train both again with other seeds (TRAIN_SEED=1), or let "
    "`python -m toolkit lab run` do so."
)
WITH_TRAINING = "Intervals (95 %) hold the luck of questions and of trainings, the latter as in {source}."


def compare(runs: Sequence[FinishedRun]) -> Analysis:
    """The difference of two runs by benchmark and of both together, question by question.

    Args:
        runs: the run and its baseline; all questions of both are scored.

    Returns:
        of the arms RUN and BASELINE; its notes say what is missing and which luck the intervals hold.

    Raises:
        UserError: as `outcomes` does.
    """
    seeds = [run.record("finetune").get("configuration", {}).get("order_seed") for run in runs]
    if None in seeds:  # answers of another kit: whether trainings share a seed is not known, unless they are one
        seeds = [0, 0] if runs[0].outcomes == runs[1].outcomes else [0, 1]
    answers = pd.DataFrame(
        [
            (arm, 0, seed, outcome.benchmark, "\0".join(outcome.key), outcome.question_id, outcome.tolerant)
            for arm, seed, run in zip((RUN, BASELINE), seeds, runs, strict=True)
            for outcome in run.outcomes
        ],
        columns=["arm", "draw", "seed", "benchmark", "question", "image", "correct"],
    )
    both = answers.groupby("benchmark")["arm"].nunique()
    answers = answers[answers["benchmark"].isin(both.index[both == len(runs)])]
    if answers.empty:
        return Analysis(BASELINE, (), [], [], ["No benchmark is scored for both: nothing to compare."], [])
    earlier = earlier_noise(runs[0].preset.name)
    analysis = analyse(scores_of(answers), BASELINE, answers, earlier)
    note = WITH_TRAINING.format(source=earlier.source) if earlier else QUESTIONS_ONLY.format(preset=runs[0].preset.name)
    notes = [note]
    if missing := sorted(set(both.index) - set(answers["benchmark"])):
        notes.insert(0, f"Compared without {' and '.join(missing)}, which is not scored for both.")
    return Analysis(analysis.baseline, analysis.measures, analysis.arms, analysis.comparisons, notes, [])
