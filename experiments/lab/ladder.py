"""The sizes of a lab's ladder: how well each ranks the arms as the next one does."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from experiments.lab.cells import read_answers, read_lab_records
from experiments.lab.comparison.measures import scores_of_records
from experiments.lab.comparison.ranks import Size, rank_agreement
from experiments.lab.comparison.results import Estimate, RankAgreement
from experiments.lab.labfile import Lab
from toolkit.errors import UserError


def agreements(lab: Lab) -> list[RankAgreement]:
    """Each size that has cells against the next one that has, over the arms that both have."""
    found = []
    for small, large in itertools.pairwise(_sizes(lab)):
        try:
            found.append(rank_agreement(small, large))
        except UserError:  # fewer than two arms in both
            continue
    return found


def _sizes(lab: Lab) -> Iterator[Size]:
    for name, rung in lab.rungs.items():
        by_arm = read_lab_records(rung.records, rung.arms)
        # Arms with the same data are one: they tie by design, which says nothing of the sizes.
        distinct = {tuple(record["key"] for record in records): records for records in reversed(by_arm.values())}
        if records := [record for own in reversed(distinct.values()) for record in own]:
            answers = read_answers(rung.records, records)
            yield name, scores_of_records(records), answers if len(answers) else None


def missing_sizes(lab: Lab) -> list[str]:
    """Sizes without any cell."""
    return [name for name, rung in lab.rungs.items() if not read_lab_records(rung.records, rung.arms)]


def lines_of(lab: Lab) -> list[str]:
    """The ranks' agreement for the terminal."""
    lines = []
    for found in agreements(lab):
        told = f"Spearman {interval(found.spearman)}, Kendall {interval(found.kendall)}"
        lines += [f"ranks of {len(found.arms)} arms in {found.small} and {found.large}: {told}", f"  {found.words}"]
    return lines


def interval(found: Estimate) -> str:
    """A correlation as `0.86 [0.55, 0.96]`."""
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"
