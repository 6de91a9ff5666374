"""What `python -m toolkit score EXP --baseline EXP` says of the difference, remembered while nothing behind it changes.

pandas and SciPy, which find it out, take a second to start.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from experiments.lab.comparison.earlier import record_files
from experiments.lab.finished import FinishedRun
from experiments.lab.pages.markup import hash_of
from toolkit.errors import UserError
from toolkit.files import REPOSITORY, read_json, write_json

KNOWN = REPOSITORY / "output" / ".compared.json"
KEPT = 16
ROWS = {"textvqa": "TextVQA", "mmbench": "MMBench"}  # of the score table


def differences(experiment: str, baseline: str, preset: str) -> tuple[dict[str, str], list[str]]:
    """Differences of two runs with their intervals, by row of the score table; and what to say of them.

    Args:
        experiment, baseline: as `find_answers` takes them.
        preset: name or path.

    Returns:
        the verdict is the last of what is to be said.

    Raises:
        UserError: as `find_answers` and `outcomes` do.
    """
    runs = [FinishedRun(name, preset) for name in (experiment, baseline)]
    code = sorted(Path(__file__).parents[1].glob("**/*.py"))
    made_from = [file for run in runs for file in run.files] + record_files() + code
    signature = hash_of(made_from, *(f"{run.preset} {run.folder.resolve()}" for run in runs))
    known = _known()
    if signature not in known:
        from experiments.lab.comparison.against import compare

        analysis = compare(runs)
        cells = {}
        for found in analysis.comparisons:
            value = found.difference
            ends = "" if value.low is None else f" [{value.low:+.1f}, {value.high:+.1f}]"
            cells[ROWS.get(found.measure, found.measure)] = f"{value.value:+.2f}{ends}"
        known[signature] = [cells, [*analysis.notes, *(found.words for found in analysis.comparisons[-1:])]]
        with contextlib.suppress(OSError):  # it only saves time
            write_json(KNOWN, dict(list(known.items())[-KEPT:]))
    cells, said = known[signature]
    return cells, said


def _known() -> dict[str, list]:
    """What earlier comparisons said, by signature; what is damaged is not known."""
    try:
        known = read_json(KNOWN) if KNOWN.is_file() else {}
    except UserError:
        return {}
    return {key: value for key, value in known.items() if _is_whole(value)} if isinstance(known, dict) else {}


def _is_whole(value: Any) -> bool:
    match value:
        case [dict(cells), list(said)]:
            return all(isinstance(text, str) for text in [*cells.values(), *said])
    return False
