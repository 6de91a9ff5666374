"""Where a path of a recipe leads, and the known name that is nearest to a wrong one."""

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path

from solution.missing import way_to
from solution.runner.configuration.keys import clipped
from solution.runner.files import ROOT, shown


def candidates(name: str) -> list[Path]:
    """Where a path may be, first as Data-Juicer reads it: from the working directory, then from the repository."""
    path = Path(name).expanduser()
    return list(dict.fromkeys([path.absolute(), ROOT / path]))


def find(name: str, also: Sequence[Path] = ()) -> Path | None:
    """The first of the candidates, and of further ones, that exists."""
    try:
        return next((path for path in (*candidates(name), *also) if path.exists()), None)
    except (OSError, ValueError):  # a name too long for a path, or with a NUL character
        return None


def missing(name: str) -> str:
    """`X and Y is missing; ...`: every path that was tried, and what helps."""
    places = candidates(name)
    tried = " and ".join(clipped(shown(path), 300) for path in places)
    try:
        ways = [way_to(place) for place in places]
        known = (way for way in ways if way.startswith(("did you mean", "`")))
        return f"{tried} is missing; {next(known, ways[0])}"
    except (OSError, ValueError):  # as above
        return f"{tried} is no path that a file can have"


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?` where a known name is near, else `; known: ...` for a short list, else nothing."""
    known = sorted(known)
    match = difflib.get_close_matches(name[:200], known, n=1, cutoff=0.5)
    if match:
        return f"; did you mean {match[0]}?"
    return f"; known: {', '.join(known)}" if len(known) <= 20 else ""
