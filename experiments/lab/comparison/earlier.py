"""The noise of trainings that earlier labs of a preset showed, for comparisons with one training a side."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.errors import UserError
from toolkit.files import REPOSITORY, display_path, read_json

if TYPE_CHECKING:
    from experiments.lab.comparison.measures import EarlierNoise

# Where finished labs keep their records: the repository's own, then the user's.
FOLDERS = ("experiments/mini_world/records/test", "benchmarks/lab/records", "output/lab/*")
FIRST_PRESET = "mini"  # of the records that name none


def earlier_noise(preset: str, root: Path = REPOSITORY) -> EarlierNoise | None:
    """The noise in the largest lab of a preset that repeats trainings; None where there is none.

    Args:
        preset: its name.
        root: of the repository.
    """
    from experiments.lab.comparison.measures import measured_noise, scores_of_records  # pandas

    largest, found = 0, None
    for folder, files in itertools.groupby(record_files(root), lambda file: file.parent):
        records = [record for record in map(_record, files) if record]
        ours = [record for record in records if record.get("preset", FIRST_PRESET) == preset]
        if len(ours) > largest:
            arms = len({record["arm"] for record in ours})
            source = f"{len(ours)} trainings of {arms} arms in {display_path(folder)}"
            noise = measured_noise(scores_of_records(ours), source)
            largest, found = (len(ours), noise) if noise else (largest, found)
    return found


def record_files(root: Path = REPOSITORY) -> list[Path]:
    """The records of all labs that it is looked for in, folder by folder."""
    folders = [folder for pattern in FOLDERS for folder in sorted(root.glob(pattern))]
    return [file for folder in folders for file in sorted(folder.glob("*-draw*-seed*.json"))]


def _record(file: Path) -> dict | None:
    """A record; None where the file is another lab's damage, which is no reason to stop here."""
    try:
        record = read_json(file)
    except UserError:
        return None
    whole = isinstance(record, dict) and {"arm", "draw", "seed", "scores"} <= record.keys()
    return record if whole and all("all" in scores for scores in record["scores"].values()) else None
