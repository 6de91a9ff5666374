"""The page of a lab: which arm is better, by how much, at what cost, and on which questions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.lab.cells import cells_of
from experiments.lab.comparison.results import BOTH, RankAgreement
from experiments.lab.comparison.table import interval
from experiments.lab.labfile import Lab, read_lab
from experiments.lab.ladder import agreements, missing_sizes
from experiments.lab.pages.browser import browser
from experiments.lab.pages.findings import NAMES, Found, entries_of, findings, recipes_of, same_data
from experiments.lab.pages.markup import PAGES, duration, hash_of, is_current, render, write_page
from experiments.lab.pages.page_tables import categories, cost, differences, ladder, leaderboard
from toolkit.errors import advised
from toolkit.files import display_path

if TYPE_CHECKING:
    from experiments.lab.pages.plots import Plot

NAMED = 3  # missing cells of an arm that are named one by one


def write_lab_page(file: Path, target: Path | None) -> tuple[Path, bool]:
    """Write the page of a lab, and its plots into a folder beside it; nothing is done where both are up to date.

    Args:
        file: the lab file.
        target: of the page; None for its place in output/pages.

    Returns:
        the page's path, and whether it was written now.

    Raises:
        UserError: the lab file is wrong, or none of its cells is there yet.
    """
    lab = read_lab(file)
    path = target or PAGES / f"lab-{lab.name}.html"
    folders = dict.fromkeys([lab.records, *(rung.records for rung in lab.rungs.values())])
    made_from = [
        name for folder in folders for name in sorted(folder.glob("*.json")) + sorted(folder.glob("*.parquet"))
    ]
    inputs = hash_of([file, *made_from], str(path), str(lab.records))
    if is_current(path, inputs) and path.with_suffix("").is_dir():
        return path, False
    found = findings(lab, file)
    from experiments.lab.pages.page_plots import plots_of

    ranks = agreements(lab)
    drawn = list(plots_of(found, ranks))
    for plot in drawn:
        plot.write(path.with_suffix(""))
    write_page(path, _page(found, ranks, drawn, path.stem, inputs, file))
    return path, True


def _page(found: Found, ranks: list[RankAgreement], drawn: list[Plot], folder: str, inputs: str, file: Path) -> str:
    shown = browser(found.answered, list(entries_of(found)))
    shown.data.update(_first_pair(found))
    return render(
        "lab.html.j2",
        inputs,
        title=f"Lab {found.lab.name}",
        lead=_lead(found),
        tiles=_tiles(found),
        missing=list(_missing(found)),
        warnings=list(_warnings(found)),
        leaderboard=leaderboard(found),
        differences=differences(found),
        notes=[*found.analysis.notes, *(f"{line}." for line in same_data(found))],
        plots={plot.name: plot for plot in drawn},
        folder=folder,
        ladder=ladder(ranks) if found.lab.rungs else None,
        ladder_missing=_ladder_missing(found.lab, file),
        categories=categories(found),
        cost=cost(found),
        recipes=list(recipes_of(found)),
        browser=shown,
        answers_note=_answers_note(found),
        about=f"Made by {advised('lab', 'page', display_path(file))} from the records in "
        f"{display_path(found.lab.records)}.",
    )


def _ladder_missing(lab: Lab, file: Path) -> str:
    """Which sizes of the ladder have no cell, and the command for them."""
    missing = missing_sizes(lab)
    command = advised("lab", "ladder", display_path(file))
    return f"No cell is there yet of {', '.join(missing)}: {command}" if missing else ""


def _first_pair(found: Found) -> dict[str, int]:
    """The arms whose answers stand side by side at first, as places in `Found.answered`: the best and the baseline."""
    arms = found.answered
    if not arms:
        return {}
    best, *others = [arm for arm in found.ranked if arm in arms]
    right = found.analysis.baseline if found.analysis.baseline in arms else (others or [best])[-1]
    left = others[-1] if best == right and others else best
    return {"left": arms.index(left), "right": arms.index(right)}


def _answers_note(found: Found) -> str:
    note = (
        "Every question with what each arm answered in its trainings: how often, and whether it is right. A percentage "
        "is the mean of the trainings whose answers are kept"
    )
    trained = found.answers[["arm", "draw", "seed"]].drop_duplicates()["arm"].value_counts()
    partly = [
        f"{arm} {trained[arm]} of {len(found.records[arm])}"
        for arm in found.answered
        if trained[arm] < len(found.records[arm])
    ]
    note += f" ({', '.join(partly)})." if partly else "."
    if without := [arm for arm in found.records if arm not in found.answered]:
        note += f" Scores alone are kept of {', '.join(without)}."
    return note


def _lead(found: Found) -> str:
    """The first sentence: what the lab says."""
    baseline = found.analysis.baseline
    compared = [one for arm in found.ranked if (one := found.comparison(arm))]
    told = []
    for verdict in ("better", "worse"):
        each = [f"{one.arm} ({interval(one.difference, '+')})" for one in compared if one.verdict == verdict]
        if each:
            told.append(f"{verdict} than {baseline}: {', '.join(each)}")
    if rest := [one.arm for one in compared if one.verdict not in ("better", "worse")]:
        told.append(f"not told apart from {baseline}: {', '.join(rest)}")
    what = "mean of both benchmarks" if found.deciding == BOTH else NAMES.get(found.deciding, found.deciding)
    return f"In points of the {what}, {'; '.join(told) or 'one arm alone: there is nothing to compare'}."


def _tiles(found: Found) -> list[tuple[str, str]]:
    every = [record for records in found.records.values() for record in records]
    wanted = len(cells_of(found.lab))
    tiles = [(f"{len(found.records)}", "arms"), (f"{len(every)} of {wanted}", "cells are there")]
    draws, seeds = (len({record[key] for record in every}) for key in ("draw", "seed"))
    tiles.append((f"{draws} x {seeds}", "draws x seeds") if draws > 1 else (f"{seeds}", "seeds"))
    hours = sum(record.get("gpu_hours", 0) for record in every)
    seconds = sum(record["seconds"] for record in every)
    tiles.append((f"{hours:.1f}", "GPU hours") if hours else (duration(seconds), "of training, all cells"))
    return [*tiles, (found.lab.preset.name, f"preset, {found.lab.split} questions" if found.lab.world else "preset")]


def _missing(found: Found) -> Iterator[str]:
    """Every cell without a record, with the reason if one is known."""
    reasons = {(cell["arm"], cell["draw"], cell["seed"]): cell["reason"] for cell in found.summary.get("missing", [])}
    there = {(arm, record["draw"], record["seed"]) for arm, records in found.records.items() for record in records}
    by_reason: dict[str, dict[str, list[str]]] = {}
    for cell in cells_of(found.lab):
        place = cell.arm.name, cell.draw, cell.seed
        if place not in there:
            of_arm = by_reason.setdefault(reasons.get(place, "not run yet"), {})
            of_arm.setdefault(cell.arm.name, []).append(cell.name)
    for reason, arms in by_reason.items():
        told = [
            ", ".join(names) if len(names) <= NAMED else f"{len(names)} cells of {arm}" for arm, names in arms.items()
        ]
        yield f"Missing: {', '.join(told)}: {reason}"


def _warnings(found: Found) -> Iterator[str]:
    """What is odd about cells and comparisons."""
    yield from found.analysis.warnings
    if found.lab.baseline != found.analysis.baseline:
        yield f"The baseline {found.lab.baseline} has no cell yet; arms are compared with {found.analysis.baseline}."
    for key, words in (("device", "devices"), ("fixed_part", "versions of the toolkit"), ("versions", "packages")):
        values = {str(record.get(key)) for records in found.records.values() for record in records}
        if len(values) > 1:
            yield f"Cells were trained on different {words}, which may move scores."
