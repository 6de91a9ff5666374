"""Running a lab: what is there, what is trained next, what is missing, and the table at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from pathlib import Path

from experiments.lab import ladder
from experiments.lab.bench import Bench
from experiments.lab.cells import SUMMARY, cells_of, write_record
from experiments.lab.comparison import table
from experiments.lab.labfile import Lab, read_lab
from experiments.lab.pages.findings import findings, same_data
from experiments.lab.plan import earlier_cells, lines_of, plan_of
from experiments.lab.workers import Outcome, make_cells, visible_gpus
from toolkit.errors import UserError, advised


def run_lab(file: Path, plan: bool) -> int:
    """Run a lab file, or print its plan; returns the exit status: 1 where a cell is missing, or is known to fail.

    Raises:
        UserError: the lab file is wrong; its preset needs a GPU and none is visible.
    """
    lab = read_lab(file)
    return _print_plan(lab) if plan else finish(lab, make(lab))


def print_table(file: Path) -> int:
    """Print the table of a lab's records as they are; returns the exit status: 1 where a cell has none.

    Raises:
        UserError: the lab file is wrong, or there is no record at all.
    """
    lab = read_lab(file)
    found = findings(lab, file)
    print("\n".join([*table.lines_of(found.analysis), *same_data(found)]))
    there = {
        (record["arm"], record["draw"], record["seed"]) for records in found.records.values() for record in records
    }
    missing = [cell.name for cell in cells_of(lab) if (cell.arm.name, cell.draw, cell.seed) not in there]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        say(f"error: {missing[0]}{more} missing: {advised('lab', 'run', file)}")
    return 1 if missing else 0


def run_ladder(file: Path, plan: bool) -> int:
    """Run a lab at each of its sizes, cheapest first; see `run_lab`."""
    lab = read_lab(file)
    if not lab.rungs:
        raise UserError(f"{file}: no ladder in it; benchmarks/lab/example.yaml shows one")
    status = 0
    for name, rung in lab.rungs.items():
        print(f"{name}:")
        status |= _print_plan(rung) if plan else finish(rung, make(rung))
    if not plan:
        print("\n".join(ladder.lines_of(lab)))
    return status


def _print_plan(lab: Lab) -> int:
    """Print what a lab would do, and each fault once; returns the exit status: 1 where a cell is known to fail."""
    plan = plan_of(lab)
    print("\n".join(lines_of(lab, plan)))
    cells = {cell.name: cell for cell in cells_of(lab)}
    failed = (Outcome(cells[name], "failed", text=fault) for name, fault in plan.faults.items())
    for line in missing_lines(failed, "cannot be trained"):
        say(line)
    return 1 if plan.faults else 0


def make(lab: Lab) -> list[Outcome]:
    """Make every cell of a lab, with a line of progress for each that is trained; returns all outcomes.

    Raises:
        UserError: the preset needs a GPU and none is visible.
    """
    gpus = visible_gpus()
    if lab.preset.needs_gpu and not gpus:
        raise UserError(f"preset {lab.preset.name} needs a CUDA GPU and none is visible; `preset: mini` runs without")
    for folder in (lab.output, lab.records):  # a system may refuse what it seems to allow
        folder.mkdir(parents=True, exist_ok=True)
    cells = cells_of(lab)
    budget = 3600 * lab.budget_hours or float("inf")
    found: list[Outcome] = []
    started, trained = time.monotonic(), 0
    earlier = [record["seconds"] for record in earlier_cells(lab)]
    guess = sum(earlier) / len(earlier) if earlier else 0.0
    for outcome in make_cells(lab, cells, gpus, budget, guess):
        found.append(outcome)
        trained += outcome.state == "trained"
        if outcome.state in ("trained", "failed"):
            left = (len(cells) - len(found)) * (time.monotonic() - started) / max(trained, 1)
            about = f"; at most {_duration(left)} left" if trained and len(found) < len(cells) else ""
            took = f", {outcome.seconds:.0f} s" if outcome.seconds else ""
            say(f"[{len(found)} of {len(cells)}] {outcome.cell.name}: {outcome.text}{took}{about}")
    return found


def say(line: str) -> None:
    """Tell the user how it goes, apart from the result."""
    print(line, file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def finish(lab: Lab, outcomes: list[Outcome]) -> int:
    """Write `lab.json`, print the table and what is missing; returns the exit status."""
    write_summary(lab, outcomes)
    if any(outcome.key for outcome in outcomes):
        found = findings(lab, lab.records)
        print("\n".join([*table.lines_of(found.analysis), *same_data(found)]))
    missing = [outcome for outcome in outcomes if not outcome.key]
    for line in missing_lines(missing):
        say(line)
    return 1 if missing else 0


def missing_lines(missing: Iterable[Outcome], what: str = "missing") -> list[str]:
    """One line for all cells that are missing for one reason; `what` says so."""
    reasons: dict[str, list[str]] = {}
    for outcome in missing:
        reasons.setdefault(_reason(outcome), []).append(outcome.cell.name)
    return [
        f"error: {names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''} {what}: {reason}"
        for reason, names in reasons.items()
    ]


def _reason(outcome: Outcome) -> str:
    return "over budget; raise budget_hours" if outcome.state == "over budget" else outcome.text


def write_summary(lab: Lab, outcomes: list[Outcome]) -> None:
    """Write `lab.json`: all that a table or page needs beside the records."""
    bench = Bench(lab)
    arms = {name: vars(arm) | bench.about(arm) for name, arm in lab.arms.items()}
    missing = [
        {"arm": outcome.cell.arm.name, "draw": outcome.cell.draw, "seed": outcome.cell.seed, "reason": _reason(outcome)}
        for outcome in outcomes
        if not outcome.key
    ]
    summary = {
        "name": lab.name, "preset": lab.preset.name, "split": lab.split, "baseline": lab.baseline,
        "arms": arms,
        "cells": {outcome.cell.name: outcome.key for outcome in outcomes if outcome.key},
        "missing": missing,
    }  # fmt: skip
    write_record(lab.records / SUMMARY, summary)
