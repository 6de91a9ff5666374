"""What helps where a data set or a model folder is missing: the name that was meant, or the command that brings it."""

import difflib
import os
from functools import cache
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
DOWNLOADS = ROOT / "toolkit" / "download" / "resources.yaml"
SCRIPTS = {"full": "bash download.sh", "10k": "bash download_10k_baseline.sh"}  # by the kit that a download belongs to
CLOSE = 0.7  # share of equal characters from which a name counts as mistyped


def way_to(path: Path) -> str:
    """The next step for a path where nothing usable lies, as the end of a sentence.

    In this order: the nearest existing path, the command that fetches what belongs there, the nearest path that the
    kit's downloads know, what does lie in the folder.
    """
    path = Path(os.path.abspath(path))
    if not path.exists() and (meant := _mistyped(path)):
        return f"did you mean {_shown(meant)}?"
    if "mini" in path.parts and path.is_relative_to(ROOT) and not path.parent.is_dir():
        return "`python -m toolkit mini build` makes the mini world"
    places = {ROOT / entry["destination"]: (name, entry["kits"]) for name, entry in _downloads().items()}
    for folder, (name, kits) in sorted(places.items(), key=lambda place: len(place[0].parts), reverse=True):
        if path.is_relative_to(folder):
            script = next((SCRIPTS[kit] for kit in kits if kit in SCRIPTS), "python -m toolkit download")
            return f"`{script} --only {name}` fetches it"
    beside = [folder.name for folder in places if folder.parent == path.parent]
    if near := difflib.get_close_matches(path.name, beside, n=1, cutoff=CLOSE):
        return f"did you mean {_shown(path.with_name(near[0]))}, which `python -m toolkit download` fetches?"
    if not path.exists() and path.parent.is_dir():
        found = sorted(entry.name for entry in path.parent.iterdir() if not entry.name.startswith("."))
        return (
            f"{_shown(path.parent)} holds {', '.join(found[:5])}{' ...' * (len(found) > 5)}"
            if found
            else "put it there"
        )
    return "none of the kit's downloads brings it: put it there by hand"


def _mistyped(path: Path) -> Path | None:
    """The existing path that differs from this one by a close name in one folder."""
    there = next(parent for parent in path.parents if parent.is_dir())
    name, *below = path.relative_to(there).parts
    for near in difflib.get_close_matches(name, os.listdir(there), n=3, cutoff=CLOSE):
        if there.joinpath(near, *below).exists():
            return there.joinpath(near, *below)
    return None


@cache
def _downloads() -> dict:
    """The kit's downloads by name; none where a participant has taken `solution/` alone."""
    return yaml.safe_load(DOWNLOADS.read_text(encoding="utf-8"))["resources"] if DOWNLOADS.is_file() else {}


def _shown(path: Path) -> Path:
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
