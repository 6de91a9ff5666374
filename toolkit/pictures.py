"""Looks at many picture files at once: does each decode to its last byte, and is there anything odd about it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import ExifTags
from tqdm import tqdm

from toolkit.errors import RowFault

# Below the first, the reference's data path takes the height for the channels; beyond the others, preparing one
# picture costs as much memory as preparing hundreds.
TINY_SIDE = 3
LONG_RATIO = 20
HUGE_PIXELS = 50_000_000
FILES_A_TASK = 32

NOTES = {
    "oriented": "carry an EXIF orientation, which training ignores",
    "tiny": f"have a side of at most {TINY_SIDE} pixels",
    "long": f"are more than {LONG_RATIO} times as long as wide",
    "huge": f"have more than {HUGE_PIXELS // 1_000_000} million pixels",
}


@dataclass(frozen=True, slots=True)
class Picture:
    """What is known of a sound picture: its size in pixels, and whether its EXIF says it must be turned."""

    width: int
    height: int
    oriented: bool

    @property
    def notes(self) -> list[str]:
        """Keys of NOTES that hold for this picture."""
        short, long = sorted((self.width, self.height))
        holds = {
            "oriented": self.oriented,
            "tiny": short <= TINY_SIDE,
            "long": long > LONG_RATIO * short,
            "huge": short * long > HUGE_PIXELS,
        }
        return [name for name in NOTES if holds[name]]


def inspect_pictures(paths: Sequence[Path]) -> dict[Path, Picture | RowFault]:
    """Decode every file whole, on all cores, with a progress bar on a terminal.

    Args:
        paths: different files.

    Returns:
        For each path its picture, or the fault `missing_image` or `unreadable_image`.
    """
    tasks = [paths[start : start + FILES_A_TASK] for start in range(0, len(paths), FILES_A_TASK)]
    found: dict[Path, Picture | RowFault] = {}
    # Threads suffice: Pillow lets go of the interpreter while it decodes.
    with (
        warnings.catch_warnings(),
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(total=len(paths), unit=" pictures", desc="pictures", disable=None, leave=False) as progress,
    ):
        warnings.filterwarnings("ignore", module="PIL")  # corrupt EXIF, large pictures: counted, not shouted
        for task, pictures in zip(tasks, pool.map(_inspect_task, tasks), strict=True):
            found.update(zip(task, pictures, strict=True))
            progress.update(len(task))
    return found


def _inspect_task(paths: Sequence[Path]) -> list[Picture | RowFault]:
    return [_inspect(path) for path in paths]


def _inspect(path: Path) -> Picture | RowFault:
    # Imported here: it brings torch, which `--help` need not wait for.
    from toolkit.mgm.images import open_image

    try:
        image = open_image(path)
    except RowFault as fault:
        return fault
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except SyntaxError:  # Pillow's word for EXIF that is none
        orientation = 1
    return Picture(*image.size, oriented=orientation != 1)
