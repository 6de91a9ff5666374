"""The tries of a stage, in a file while it is not finished: when each began, its seconds, and how it ended.

`toolkit/attempts.py` and `solution/attempts.py` are equal, because neither folder imports the other.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .entry import is_interrupt
from .processes import unfinished

# Of a stage that is not finished: its inputs, versions and tries; its record takes the tries over. Parts of a stage
# that are run beside each other have one each.
ATTEMPTS = "attempts.json"
_OF_PARTS = "attempts-*.json"
KILLED = "killed"  # in place of an exit status, where nothing was left that could write one


@contextlib.contextmanager
def attempt(
    folder: Path, identity: dict[str, Any], about: dict[str, Any], explained: type[Exception], part: str = ""
) -> Iterator[None]:
    """Record a try of a stage while the block runs, and how it ends; the next one tells which was killed.

    Args:
        folder: of the stage, owned.
        identity: what decides the stage's result; tries of another one are forgotten.
        about: what else the file says of it.
        explained: exceptions whose text is for the user; of others the file names the kind.
        part: name of what is run beside other parts of the stage.
    """
    file = folder / _OF_PARTS.replace("*", part) if part else folder / ATTEMPTS
    started = time.perf_counter()
    this: dict[str, Any] = {"started": time.strftime("%Y-%m-%d %H:%M:%S"), "seconds": None, "exit": None}
    record = identity | about | {"attempts": [*_tries_in(file, identity), this]}
    _write(file, record)
    try:
        yield
    except BaseException as error:
        lines = str(error).splitlines() if isinstance(error, (explained, OSError)) else []
        why = {"error": lines[0] if lines else type(error).__name__}
        this |= _ended(started, 130 if is_interrupt(error) else 1)
        with contextlib.suppress(OSError):  # a full disk, which may be what has failed
            _write(file, record | why)
        raise
    if file.is_file():
        this |= _ended(started, 0)
        _write(file, record)


def finished_attempts(folder: Path, identity: dict[str, Any], seconds: float) -> list[dict[str, Any]]:
    """All tries of a stage whose last one is about to end well after so many seconds; first those of its parts."""
    tries = _tries_in(folder / ATTEMPTS, identity)
    for this in tries[-1:]:  # none where the file was removed by hand
        this |= {"seconds": round(seconds, 1), "exit": 0}
    return [past for file in sorted(folder.glob(_OF_PARTS)) for past in _tries_in(file, identity)] + tries


def remove_attempts(folder: Path) -> None:
    """Remove the tries of a stage whose record has them; a try that still runs writes none then."""
    for file in (folder / ATTEMPTS, *folder.glob(_OF_PARTS)):
        file.unlink(missing_ok=True)


def _tries_in(file: Path, identity: dict[str, Any]) -> list[dict[str, Any]]:
    try:
        record = json.loads(file.read_bytes())
        tries = record["attempts"] if all(record[key] == value for key, value in identity.items()) else []
        return [past | ({} if past["exit"] is not None else {"exit": KILLED}) for past in tries]
    except (OSError, ValueError, KeyError, TypeError):  # none, or edited by hand
        return []


def _ended(started: float, status: int) -> dict[str, Any]:
    return {"seconds": round(time.perf_counter() - started, 1), "exit": status}


def _write(file: Path, record: dict[str, Any]) -> None:
    with unfinished(file) as temporary:
        temporary.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        temporary.replace(file)
