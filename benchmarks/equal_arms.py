"""How often a lab calls trainings of one and the same arm different: an A/A test on finished cells.

    python -m benchmarks.equal_arms [FOLDER ...]

FOLDERs hold labs' records (default: the leaderboard's). Trainings of an arm differ in their seeds alone, so a
comparison at 5 % should call few of their pairs different. Each arm is split in every possible way into one training
against one, and into two against the three others where it has five.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from experiments.lab.cells import read_answers, read_lab_records
from experiments.lab.comparison.measures import measured_noise, scores_of_records
from experiments.lab.comparison.results import Analysis
from experiments.lab.comparison.statistics import LEVEL, analyse
from toolkit.files import REPOSITORY

RECORDS = REPOSITORY / "benchmarks" / "lab" / "records"
ONE, OTHER = "one", "other"  # the two sides of an arm
SINGLE, ALONE, AMONG = "1 v 1, noise of the other arms", "2 v 3, own noise", "2 v 3, in a lab with the other arms"


def main() -> None:
    """Compare and count, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="*", metavar="FOLDER", help="a lab's records")
    table = pd.concat(map(called_different, parser.parse_args().folders or [RECORDS]))
    measures = [name for name in table if name not in ("arm", "how")]
    print(f"| trainings of one arm | arms | pairs | {' | '.join(measures)} |")
    print("|---" * (3 + len(measures)) + "|")
    for how, rows in table.groupby("how", sort=False):
        counts = [rows["arm"].nunique(), len(rows), *(int(rows[measure].sum()) for measure in measures)]
        print(f"| {how} | {' | '.join(map(str, counts))} |")


def called_different(folder: Path) -> pd.DataFrame:
    """Whether each pair is called different.

    Args:
        folder: a lab's records; trainings without answers to single questions are left out, and so are arms that have
            the same data as an earlier one.

    Returns:
        columns `arm`, `how` the pair is compared, and a truth value for each measure.
    """
    by_key = {record["key"]: record for records in read_lab_records(folder).values() for record in reversed(records)}
    answers = read_answers(folder, by_key.values())
    answered = set(answers[["arm", "draw", "seed"]].itertuples(index=False, name=None))
    records = [record for record in by_key.values() if (record["arm"], record["draw"], record["seed"]) in answered]
    found = []
    for arm, own in itertools.groupby(records, key=lambda record: record["arm"]):
        for how, analysis in _analyses(list(own), records, answers):
            different = {
                measure: bool(one.p is not None and one.p < LEVEL)
                for measure in analysis.measures
                if (one := analysis.comparison(OTHER, measure))
            }
            found.append({"arm": arm, "how": how, **different})
    return pd.DataFrame(found)


def _analyses(own: list[dict], records: list[dict], answers: pd.DataFrame) -> Iterator[tuple[str, Analysis]]:
    """Every way to compare trainings of one arm.

    Args:
        own: the arm's records.
        records, answers: of all arms.
    """
    arm = own[0]["arm"]
    others = [record for record in records if record["arm"] != arm]
    noise = measured_noise(scores_of_records(others), "the other arms")
    mine = answers[answers["arm"] == arm]
    for pair in itertools.combinations(own, 2):
        yield SINGLE, analyse(*_sides(pair[:1], pair[1:], mine), earlier=noise)
    if len(own) != 5:
        return
    for two in itertools.combinations(own, 2):
        scores, baseline, given = _sides(two, [record for record in own if record not in two], mine)
        yield ALONE, analyse(scores, baseline, given)
        lab = pd.concat([scores, scores_of_records(others)]), pd.concat([given, answers[answers["arm"] != arm]])
        yield AMONG, analyse(lab[0], baseline, lab[1])


def _sides(one: Sequence[dict], other: Sequence[dict], answers: pd.DataFrame) -> tuple[pd.DataFrame, str, pd.DataFrame]:
    """Two sets of an arm's trainings as two arms: their scores, the baseline, their answers."""
    side = {(record["draw"], record["seed"]): name for name, side in ((ONE, one), (OTHER, other)) for record in side}
    names = pd.Series([side.get(cell) for cell in zip(answers["draw"], answers["seed"], strict=True)], answers.index)
    scores = scores_of_records(record | {"arm": side[record["draw"], record["seed"]]} for record in (*one, *other))
    return scores, ONE, answers.assign(arm=names).dropna(subset="arm")


if __name__ == "__main__":
    main()
