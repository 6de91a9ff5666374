"""Faults of a submission's fixed part, which its logs, records and training script name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from toolkit.fixed_part import LOG_LINE, FixedPart, read_fixed_part, script_change

SHOWN = 12  # characters of a hash that tell it from others in a message
UNKNOWN = "which file changed is not known here; `python -m toolkit pack` finds it in the stages' records"


def fixed_part_faults(logs: Mapping[str, bytes], records: Mapping[str, dict[str, Any]]) -> list[str]:
    """Compare the fixed part that the logs and records name with this toolkit's.

    Args:
        logs: content by name; the first line is the hash, which every resumed run repeats.
        records: `run.json` of stages and evaluations by name, where available; they list the files.

    Returns:
        one short text per fault; it names the files that differ where a record lists them.
    """
    current, faults = read_fixed_part(), []
    named: dict[str, list[str]] = {}
    for name, content in sorted(logs.items()):
        lines = content.decode("utf-8", errors="replace").splitlines()
        named[name] = [line.removeprefix(LOG_LINE) for line in lines if line.startswith(LOG_LINE)]
        if not lines or not lines[0].startswith(LOG_LINE):
            faults.append(f"{name} does not begin with {LOG_LINE!r}")
        elif others := [sha256 for sha256 in named[name] if sha256 != current.sha256]:
            changes = _changes(name, others[0], current, records)
            faults.append(
                f"{name} was written by another fixed part than this toolkit "
                f"({LOG_LINE}{others[0]}, here {current.sha256}): {changes}"
            )
    if len({sha256 for hashes in named.values() for sha256 in hashes}) > 1:
        parts = [
            f"{PurePosixPath(name).name} by {sha256[:SHOWN]}"
            for name, hashes in named.items()
            for sha256 in dict.fromkeys(hashes)
        ]
        faults.append(f"one experiment was trained by different fixed parts: {', '.join(parts)}; train it again")
    known = {PurePosixPath(name).parent for name, hashes in named.items() if set(hashes) - {current.sha256}}
    for name, record in sorted(records.items()):
        if PurePosixPath(name).parent not in known and (changes := current.changes(record)):
            faults.append(f"{name} was written by another fixed part than this toolkit: {changes}")
    return faults


def _changes(log: str, sha256: str, current: FixedPart, records: Mapping[str, dict[str, Any]]) -> str:
    """What differs between this toolkit and the fixed part of a hash that a log names."""
    for record in records.values():
        part = record.get("fixed_part")
        if isinstance(part, dict) and part.get("sha256") == sha256 and (changes := current.changes(record)):
            return changes
    own = records.get(str(PurePosixPath(log).with_name("run.json")))
    return (current.changes(own) if own else None) or UNKNOWN


def script_faults(script: bytes, name: str) -> list[str]:
    """What was changed outside the editable lines of the script a run was started with."""
    change = script_change(script)
    return [f"{name} was changed outside its editable part: {change}"] if change else []
