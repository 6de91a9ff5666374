"""Running a lab: which cells are there, which are trained next, and the table at the end."""

from __future__ import annotations

from pathlib import Path

from experiments.lab.cells import cells_of
from experiments.lab.labfile import read_lab


def run_lab(file: Path, plan: bool) -> int:
    """Run a lab file, or print its plan; returns the exit status.

    Raises:
        UserError: the lab file is wrong.
    """
    lab = read_lab(file)
    for cell in cells_of(lab):
        print(cell.name)
    return 0


def run_ladder(file: Path, plan: bool) -> int:
    """Run a lab at each of its sizes; see `run_lab`."""
    return max(run_lab(file, plan) for _ in read_lab(file).rungs)
