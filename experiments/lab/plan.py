"""What a lab would do: its cells, what is already there, and what the rest costs. Starts and writes nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from experiments.lab.bench import Bench
from experiments.lab.cells import Cell, Record, cells_of, read_record, record_files
from experiments.lab.labfile import Lab
from toolkit.errors import UserError


@dataclass(frozen=True)
class Plan:
    """A lab before it runs.

    Args:
        states: by cell name: `there`, `to train`, `same as CELL`, or why its rows are not known yet.
        seconds: of one cell, the mean of earlier ones; None where there is none.
        earlier: how many those are.
        to_train: cells to train at most.
    """

    states: dict[str, str]
    seconds: float | None
    earlier: int
    to_train: int


def plan_of(lab: Lab) -> Plan:
    """Look what is there."""
    bench = Bench(lab)
    states, first = {}, {}
    for cell in cells_of(lab):
        states[cell.name] = _state(bench, cell, first)
    earlier = earlier_cells(lab)
    seconds = sum(record["seconds"] for record in earlier) / len(earlier) if earlier else None
    to_train = sum(state != "there" and not state.startswith("same") for state in states.values())
    return Plan(states, seconds, len(earlier), to_train)


def _state(bench: Bench, cell: Cell, first: dict[str, str]) -> str:
    if not bench.is_ready(cell):
        own = bench.store.records / f"{cell.name}.json"
        return (
            "to be checked: its record is there, its data are not" if own.is_file() else _what_is_missing(bench, cell)
        )
    try:
        key = bench.key_of(cell, start=False)
    except UserError as error:
        return f"fails: {error}"
    if bench.store.knows(cell, key):
        return "there"
    if key in first:
        return f"same as {first[key]}"
    first[key] = cell.name
    return "to train"


def _what_is_missing(bench: Bench, cell: Cell) -> str:
    source = bench.lab.arms[cell.arm.size_of].source if cell.arm.size_of else cell.arm.source
    return f"to train after {source}" if source.endswith((".yaml", ".yml")) else "to train after its seed is drawn"


def earlier_cells(lab: Lab) -> list[Record]:
    """Records of cells of the same size that were trained in the same way, in this lab and others."""
    bench = Bench(lab)
    folders = (lab.records, *lab.reuse)
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
        return [*lines, "", f"{plan.to_train} cells to train; no earlier cell of this size tells how long one takes"]
    hours = plan.to_train * plan.seconds / 3600
    cost = f"{60 * hours:.0f} min" if hours < 2 else f"{hours:.1f} h"
    told = (
        f"at most {plan.to_train} cells to train, {cost} on one core or GPU ({plan.seconds:.0f} s a cell, the mean of "
    )
    lines += ["", f"{told}{plan.earlier} earlier ones); recipes that have not run come on top"]
    if lab.budget_hours and hours > lab.budget_hours:
        lines.append(f"budget_hours is {lab.budget_hours:g}: the last cells will not be trained")
    return lines
