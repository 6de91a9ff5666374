"""Faults of a submission's fixed part, which its logs, records and training script name."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from toolkit.fixed_part import LOG_LINE, FixedPart, read_fixed_part, script_change
from toolkit.presets import PRESETS, load_preset
from toolkit.submission.layout import Experiment

DEFAULT = "default"  # EXP_NAME of a script that nobody edited
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
    written: dict[str, list[str]] = defaultdict(list)  # members by what tells their fixed part from this one
    named: dict[str, list[str]] = {}
    for name, content in sorted(logs.items()):
        lines = content.decode("utf-8", errors="replace").splitlines()
        named[name] = [line.removeprefix(LOG_LINE) for line in lines if line.startswith(LOG_LINE)]
        if not lines or not lines[0].startswith(LOG_LINE):
            faults.append(f"{name} does not begin with {LOG_LINE!r}")
        elif others := [sha256 for sha256 in named[name] if sha256 != current.sha256]:
            hashes = f"fixed part {others[0][:SHOWN]}, here {current.sha256[:SHOWN]}"
            written[f"{_changes(name, others[0], current, records)} ({hashes})"].append(name)
    known = {PurePosixPath(name).parent for name, hashes in named.items() if set(hashes) - {current.sha256}}
    for name, record in sorted(records.items()):
        if (
            name.endswith("/run.json")
            and PurePosixPath(name).parent not in known
            and (changes := current.changes(record))
        ):
            same = next((text for text in written if text.startswith(f"{changes} (")), changes)
            written[same].append(name)
    for changes, names in written.items():
        were = "were" if len(names) > 1 else "was"
        faults.append(f"{', '.join(names)} {were} written by another fixed part than this toolkit: {changes}")
    if len({sha256 for hashes in named.values() for sha256 in hashes}) > 1:
        parts = [
            f"{PurePosixPath(name).name} by {sha256[:SHOWN]}"
            for name, hashes in named.items()
            for sha256 in dict.fromkeys(hashes)
        ]
        faults.append(f"one experiment was trained by different fixed parts: {', '.join(parts)}; train it again")
    return faults


def _changes(log: str, sha256: str, current: FixedPart, records: Mapping[str, dict[str, Any]]) -> str:
    """What differs between this toolkit and the fixed part of a hash that a log names."""
    for record in records.values():
        part = record.get("fixed_part")
        if isinstance(part, dict) and part.get("sha256") == sha256 and (changes := current.changes(record)):
            return changes
    own = records.get(str(PurePosixPath(log).with_name("run.json")))
    return (current.changes(own) if own else None) or UNKNOWN


def script_faults(script: bytes, name: str, experiment: Experiment) -> list[str]:
    """What is wrong with the script a run was started with: its fixed lines, or another experiment's name in it."""
    if change := script_change(script):
        return [f"{name} was changed outside its editable part: {change}"]
    written = script_experiment(script)
    if written and written.name not in (experiment.name, DEFAULT):
        return [f"{name} is the script of experiment {written.name}, not of {experiment.name}"]
    return []


def script_experiment(script: bytes) -> Experiment | None:
    """The experiment that a training script names; None where it is none."""
    text = script.decode("utf-8", errors="replace")
    name, preset = (
        re.search(r"^EXP_NAME=\$\{EXP_NAME:-([\w.-]+)\}", text, re.M),
        re.search(r"^PRESET=(\w+)", text, re.M),
    )
    if not name or not preset or preset[1] not in PRESETS:
        return None
    return Experiment(load_preset(preset[1]).run_name, name[1])
