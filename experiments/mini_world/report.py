"""The mini world's table: arms against raw, with intervals, from the records of its trials.

A trial is a cell of a lab (`experiments/lab/`), which runs those that have no record; then all records are printed.
Scores are tolerant for MMBench, soft for TextVQA.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy.special import stdtrit

from experiments.lab.cells import read_record
from experiments.lab.labfile import WORLD_CONTROLS, Lab, lab_of
from toolkit.errors import UserError, positive
from toolkit.files import REPOSITORY

MAIN_SEEDS, MAIN_DRAWS = 5, 2
DEFECT_SEEDS, DEFECT_DRAWS = 3, 1
QUESTIONS = 600
RECORDS = REPOSITORY / "experiments" / "mini_world" / "records"
RECIPE = REPOSITORY / "solution" / "recipes" / "mini.yaml"
MAIN_ARMS = ("none", "raw", "random", "reversed", "recipe", "clean")
DEFECT_ARMS = tuple(name for name in WORLD_CONTROLS if name.startswith("no_"))
# Inputs that all trials of one table must share; their own rows differ.
SHARED = ("models", "finetune", "evaluation", "figures")

Record = dict[str, Any]
Measure = Callable[[Record], float]


def both(record: Record) -> float:
    """Mean of both benchmarks, per cent."""
    return (textvqa(record) + mmbench(record)) / 2


def textvqa(record: Record) -> float:
    """Soft accuracy, per cent."""
    return 100 * record["scores"]["textvqa"]["all"]


def mmbench(record: Record) -> float:
    """Tolerant accuracy of circular groups, per cent."""
    return 100 * record["scores"]["mmbench"]["all"]


@dataclass(frozen=True)
class Estimate:
    """The mean of some values, their standard deviation, and half the width of the mean's 95 % interval.

    Deviation and width are None for a single value.
    """

    mean: float
    deviation: float | None
    half_width: float | None
    count: int


def estimate(values: Sequence[float]) -> Estimate:
    """Mean with Student's 95 % interval.

    Args:
        values: at least one.
    """
    count, mean = len(values), sum(values) / len(values)
    if count == 1:
        return Estimate(mean, None, None, 1)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1))
    quantile = stdtrit(count - 1, 0.975)  # Student's t
    return Estimate(mean, deviation, float(quantile * deviation / math.sqrt(count)), count)


def paired(records: Sequence[Record], baseline: Sequence[Record], measure: Measure) -> Estimate | None:
    """Difference to a baseline over the (draw, seed) pairs that both have; None if they share none."""
    other = {(record["draw"], record["seed"]): measure(record) for record in baseline}
    shared = [record for record in records if (record["draw"], record["seed"]) in other]
    differences = [measure(record) - other[record["draw"], record["seed"]] for record in shared]
    return estimate(differences) if differences else None


def pooled_deviation(arms: Sequence[Sequence[Record]], measure: Measure) -> float | None:
    """Within-arm standard deviation over several arms, each weighted by its degrees of freedom."""
    squares, freedom = 0.0, 0
    for records in arms:
        found = estimate([measure(record) for record in records])
        if found.deviation is not None:
            squares += found.deviation**2 * (found.count - 1)
            freedom += found.count - 1
    return math.sqrt(squares / freedom) if freedom else None


def read_records(folder: Path, arms: Sequence[str]) -> dict[str, list[Record]]:
    """Records by arm, in the given order of arms; arms without any are left out.

    Raises:
        UserError: two records do not belong to the same world.
    """
    found: dict[str, list[Record]] = {}
    first: Record | None = None
    for arm in arms:
        for file in sorted(folder.glob(f"{arm}-draw*-seed*.json")):
            record = read_record(file)
            first = first or record
            differing = [key for key in SHARED if record["inputs"][key] != first["inputs"][key]]
            if differing:
                raise UserError(
                    f"{file}: its {differing[0]} differ from the other records'; remove it and run the report again"
                )
            found.setdefault(arm, []).append(record)
    return found


def table(records: dict[str, list[Record]], main: Sequence[str]) -> list[str]:
    """The report's lines, in Markdown: main arms, single defects, kinds of question."""
    raw = records.get("raw", [])
    lines = _arm_table({arm: found for arm, found in records.items() if arm in main}, raw)
    deviation = pooled_deviation([found for arm, found in records.items() if arm in main], both)
    gain = paired(records.get("recipe", []), raw, both)
    if gain and deviation:
        lines += [
            "",
            f"recipe - raw: {gain.mean / deviation:+.1f} pooled within-arm standard deviations ({deviation:.2f})",
        ]
    defects = {arm: found for arm, found in records.items() if arm not in main}
    if defects:
        lines += ["", "One defect alone removed from raw:", "", *_arm_table(defects, raw)]
        changes = {arm: change.mean for arm, found in defects.items() if (change := paired(found, raw, both))}
        if changes and gain and gain.mean > 0:
            largest = max(changes, key=lambda arm: changes[arm])
            lines += ["", f"largest: {largest}, {100 * changes[largest] / gain.mean:.0f} % of the recipe's gain"]
    return [*lines, "", "Kinds of question, mean per cent:", "", *_kind_table(records)]


def _arm_table(records: dict[str, list[Record]], raw: list[Record]) -> list[str]:
    heads = ["arm", "trials", "rows (distinct)", "TextVQA (sd)", "MMBench (sd)", "both (sd)"]
    heads += ["TextVQA - raw", "MMBench - raw", "both - raw", "s per trial (CPU)"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for arm, found in records.items():
        columns = [arm, str(len(found)), f"{found[0]['counts']['rows']} ({found[0]['counts']['distinct_rows']})"]
        for measure in (textvqa, mmbench, both):
            value = estimate([measure(record) for record in found])
            columns.append(f"{value.mean:.1f}" + ("" if value.deviation is None else f" ({value.deviation:.1f})"))
        for measure in (textvqa, mmbench, both):
            columns.append("" if arm == "raw" else _interval(paired(found, raw, measure)))
        seconds = (sum(record[key] for record in found) / len(found) for key in ("seconds", "cpu_seconds"))
        columns.append("{:.0f} ({:.0f})".format(*seconds))
        lines.append(f"| {' | '.join(columns)} |")
    return lines


def _interval(difference: Estimate | None) -> str:
    if difference is None:
        return "-"
    if difference.half_width is None:
        return f"{difference.mean:+.1f}"
    low, high = difference.mean - difference.half_width, difference.mean + difference.half_width
    return f"{difference.mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def _kind_table(records: dict[str, list[Record]]) -> list[str]:
    some = next(iter(records.values()))[0]["scores"]
    kinds = [(benchmark, kind) for benchmark in some for kind in some[benchmark] if kind != "all"]
    lines = [
        f"| arm | {' | '.join(f'{benchmark} {kind}' for benchmark, kind in kinds)} |",
        "|---" * (len(kinds) + 1) + "|",
    ]
    for arm, found in records.items():
        means = (sum(record["scores"][b][k] for record in found) / len(found) for b, k in kinds)
        lines.append(f"| {arm} | {' | '.join(f'{100 * mean:.1f}' for mean in means)} |")
    return lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m toolkit mini report`."""
    parser.add_argument("--split", choices=("dev", "test"), default="dev", help="dev for choices, test for the table")
    parser.add_argument("--arms", nargs="+", metavar="ARM", help="these arms only (two shells can share the work so)")
    parser.add_argument("--seeds", type=positive, help=f"TRAIN_SEEDs (default {MAIN_SEEDS}, defects {DEFECT_SEEDS})")
    parser.add_argument("--draws", type=positive, help=f"draws (default {MAIN_DRAWS}, defects {DEFECT_DRAWS})")
    parser.add_argument("--no-run", action="store_true", help="print the existing records, run nothing")
    parser.add_argument(
        "--stochastic-depth",
        action="store_true",
        help="encode every image in every step, as the scripts do; no cached features",
    )
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="of the arm `recipe` (default: the mini recipe)")
    parser.add_argument("--records", type=Path, help="folder of the records (default: records/SPLIT beside this file)")


def run(args: argparse.Namespace) -> int:
    """Run missing trials, print the table; returns 1 where a trial is missing that was asked for.

    Raises:
        UserError: an unknown arm, no record at all, or those of the lab and of `read_records`.
    """
    known = (*MAIN_ARMS, *DEFECT_ARMS)
    for arm in args.arms or ():
        if arm not in known:
            raise UserError(f"--arms {arm}: expected some of {', '.join(known)}")
    folder = args.records or RECORDS / args.split
    missing = []
    if not args.no_run:
        from experiments.lab.run import make, missing_lines, say

        lab = lab_of_report(args, folder, [arm for arm in known if not args.arms or arm in args.arms])
        missing = [outcome for outcome in make(lab) if not outcome.key]
        for line in missing_lines(missing):
            say(line)
    records = read_records(folder, known)
    if not records:
        raise UserError(f"{folder}: no records; run the report without --no-run")
    print("\n".join(table(records, MAIN_ARMS)))
    return 1 if missing else 0


def lab_of_report(args: argparse.Namespace, folder: Path, names: Sequence[str]) -> Lab:
    """The lab whose cells are the report's trials. Main arms get more seeds and draws than single defects.

    Raises:
        UserError: the recipe is missing.
    """
    sized = not {"random", "reversed"}.isdisjoint(names)
    arms: dict[str, Any] = {}
    for name in MAIN_ARMS + DEFECT_ARMS:
        if name in names or (name == "recipe" and sized):
            few = name in DEFECT_ARMS
            arms[name] = {"recipe": str(args.recipe.resolve())} if name == "recipe" else {"control": name}
            arms[name]["seeds"] = args.seeds or (DEFECT_SEEDS if few else MAIN_SEEDS)
            arms[name]["draws"] = args.draws or (DEFECT_DRAWS if few else MAIN_DRAWS)
    values = {
        "preset": "mini", "seeds": 1, "arms": arms, "records": str(folder.resolve()),
        "features": "none" if args.stochastic_depth else "cached",
        "world": {"draws": args.draws or MAIN_DRAWS, "split": args.split, "questions": QUESTIONS},
    }  # fmt: skip
    lab = lab_of(values, "mini_world", "mini report")
    if "recipe" in arms and "recipe" not in names:  # it only gives others their size
        lab.arms["recipe"] = dataclasses.replace(lab.arms["recipe"], seeds=())
    return lab
