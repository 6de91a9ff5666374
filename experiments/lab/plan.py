"""What a lab would do: its cells, what is already there, and what the rest costs. Starts and writes nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from experiments.lab.arms import faults_of
from experiments.lab.bench import Bench
from experiments.lab.cells import Cell, Record, cells_of, read_record, record_files
from experiments.lab.labfile import Lab
from toolkit.errors import UserError
from toolkit.files import REPOSITORY

FAILS = "fails"
KIT_RECORDS = REPOSITORY / "benchmarks" / "lab" / "records"


@dataclass(frozen=True)
class Plan:
    """A lab before it runs.

    Args:
        states: by cell name: `there`, `to train`, `same as CELL`, `fails`, or why its rows are not known yet.
        faults: by cell name, why it fails.
        seconds: of one cell, the mean of earlier ones; None where there is none.
        earlier: how many those are.
        to_train: cells to train at most.
    """

    states: dict[str, str]
    faults: dict[str, str]
    seconds: float | None
    earlier: int
    to_train: int


def plan_of(lab: Lab) -> Plan:
    """Look what is there, and at the recipes that have not run."""
    bench = Bench(lab)
    cells = cells_of(lab)
    recipes = {cell.name: source for cell in cells if (source := _recipe_of(lab, cell)) and not bench.is_ready(cell)}
    wrong = faults_of(tuple(dict.fromkeys(recipes.values())), lab.dataset) if recipes else {}
    faults = {name: wrong[source] for name, source in recipes.items() if source in wrong}
    states, first = {}, {}
    for cell in cells:
        try:
            states[cell.name] = _state(bench, cell, first) if cell.name not in faults else FAILS
        except UserError as error:
            states[cell.name], faults[cell.name] = FAILS, str(error)
    earlier = earlier_cells(lab)
    seconds = sum(record["seconds"] for record in earlier) / len(earlier) if earlier else None
    to_train = sum(state not in ("there", FAILS) and not state.startswith("same") for state in states.values())
    return Plan(states, faults, seconds, len(earlier), to_train)


def _recipe_of(lab: Lab, cell: Cell) -> str | None:
    """The recipe that a cell's rows, or their number, come from."""
    arm = lab.arms[cell.arm.size_of] if cell.arm.size_of else cell.arm
    return arm.source if arm.kind == "recipe" else None


def _state(bench: Bench, cell: Cell, first: dict[str, str]) -> str:
    if not bench.is_ready(cell):
        own = bench.store.records / f"{cell.name}.json"
        return (
            "to be checked: its record is there, its data are not" if own.is_file() else _what_is_missing(bench, cell)
        )
    key = bench.key_of(cell, start=False)
    if bench.store.knows(cell, key):
        return "there"
    if key in first:
        return f"same as {first[key]}"
    first[key] = cell.name
    return "to train"


def _what_is_missing(bench: Bench, cell: Cell) -> str:
    recipe = _recipe_of(bench.lab, cell)
    return f"to train after {recipe}" if recipe else "to train after its seed is drawn"


def earlier_cells(lab: Lab) -> list[Record]:
    """Records of cells of the same size that were trained in the same way, in this lab, others and the kit's own."""
    bench = Bench(lab)
    folders = (lab.records, *lab.reuse, KIT_RECORDS)
    files = [file for folder in folders for file in record_files(folder)] + sorted(bench.store.cells.glob("*.json"))
    found = {}
    for file in files:
        record = read_record(file)
        if record["inputs"]["figures"] == bench.figures:
            found[record["key"]] = record
    return list(found.values())


def lines_of(lab: Lab, plan: Plan) -> list[str]:
    """The plan for people, as Markdown."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in lab.arms}
    for cell in cells_of(lab):
        counts[cell.arm.name][plan.states[cell.name]] += 1
    world = f", {lab.world.split} questions" if lab.world else ""
    lines = [f"{lab.name}: {len(plan.states)} cells of {len(lab.arms)} arms, preset {lab.preset.name}{world}", ""]
    lines += ["| arm | rows | cells | state |", "|---|---|---|---|"]
    for name, arm in lab.arms.items():
        states = counts[name]
        told = "; ".join(f"{count} {state}" if len(states) > 1 else state for state, count in states.items())
        source = f"{arm.source}, as many as {arm.size_of}" if arm.size_of else arm.source
        lines.append(f"| {name} | {source} | {sum(states.values())} | {told} |")
    if not plan.to_train:
        return [*lines, "", "nothing to train"]
    if plan.seconds is None:
        return [*lines, "", f"{_cells(plan.to_train)} to train; no earlier cell of this size tells how long one takes"]
    hours = plan.to_train * plan.seconds / 3600
    cost = f"{60 * hours:.0f} min" if hours < 2 else f"{hours:.1f} h"
    told = f"at most {_cells(plan.to_train)} to train, {cost} on one core or GPU ({plan.seconds:.0f} s a cell, the mean"
    lines += ["", f"{told} of {plan.earlier} earlier ones); recipes that have not run come on top"]
    if lab.budget_hours and hours > lab.budget_hours:
        lines.append(f"budget_hours is {lab.budget_hours:g}: the last cells will not be trained")
    return lines


def _cells(count: int) -> str:
    return f"{count} cell{'s' * (count != 1)}"
