"""The same work again and again, in one place: memory, processes, files and shared memory stay as they are.

Ports and open files end with the processes that hold them.
Two rounds in the suite; `python -m tests.faults --minutes 120` works that long and prints what it saw.
"""

from __future__ import annotations

import dataclasses
import os
import re
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.faults.harness import Command, Run

MINUTES = float(os.environ.get("FAULTS_MINUTES", "0"))
# One command of every kind: workers and a score store, a data loader's workers, answers, an archive.
CHOSEN = ("recipe, np 2", "train pretrain", "eval textvqa", "pack online", "check")
INTERVAL = 0.2  # seconds between two looks at a run's processes
# unshare: a mount of its own; what is left in it is listed in the file that the next word names.
CAN_UNSHARE = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0
_SCRIPT = 'mount -t tmpfs shm /dev/shm && "${@:2}"; status=$?; ls /dev/shm >"$1"; exit $status'
OWN_SHARED_MEMORY = ("unshare", "-m", "bash", "-c", _SCRIPT, "bash")
MORE_MEMORY = 1.25  # times the median of the first rounds


@dataclass
class Left:
    """What a finished round left behind, and the most memory that its processes held together."""

    memory: int
    processes: list[str]
    files: set[str]
    shared: set[str]


def run_round(command: Command, report: Path) -> Left:
    """Run a command where earlier rounds ran, with shared memory of its own, as others use the machine's too."""
    command = dataclasses.replace(command, words=[*OWN_SHARED_MEMORY, str(report), *command.words])
    run = Run(command)
    memory = 0
    while run.process.poll() is None:
        memory = max(memory, sum(map(resident, run.family())))
        time.sleep(INTERVAL)
    assert run.process.returncode == 0, run.said
    left = run.end()
    files = {path.relative_to(command.folder).as_posix() for path in command.folder.rglob("*")}
    return Left(memory, left, files, set(report.read_text().split()))


def resident(process: psutil.Process) -> int:
    """Bytes of memory that no other process shares."""
    try:
        return process.memory_info().rss - process.memory_info().shared
    except psutil.NoSuchProcess:
        return 0


def again(command: Command) -> None:
    """Have the next round do all of its work: what a finished one would only look at goes, other files stay."""
    for name in ("run.json", "processed_data.jsonl", "submit.zip", "report.json", "answers.jsonl"):
        for path in command.folder.rglob(name):
            path.unlink()


@pytest.mark.slow
@pytest.mark.skipif(not CAN_UNSHARE, reason="needs the right to mount")
@pytest.mark.parametrize("command", CHOSEN if MINUTES else ["recipe, np 2"], indirect=True)
def test_rounds_leave_no_more_than_the_first(
    command: Command, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    command.empty()
    first = run_round(command, tmp_path / "report")
    until = time.monotonic() + 60 * MINUTES / len(CHOSEN)
    rounds = [first]
    while len(rounds) < 3 or time.monotonic() < until:
        again(command)
        rounds.append(run_round(command, tmp_path / "report"))
        found = rounds[-1]
        assert (found.processes, found.shared) == ([], set())
        # TensorBoard writes a file for each start, the score store one for each run that asked for something.
        more = {name for name in found.files - first.files if not re.search("(^|/)runs/|scores/", name)}
        assert more == set()
    memory = [found.memory / 2**20 for found in rounds]
    early, late = statistics.median(memory[:3]), statistics.median(memory[-3:])
    record_property("rounds", len(rounds))
    record_property("memory", f"{early:.0f} -> {late:.0f}")
    assert late < MORE_MEMORY * early


@pytest.mark.skipif(not CAN_UNSHARE, reason="needs the right to mount")
def test_a_leak_would_be_seen(tmp_path: Path) -> None:
    """A name in shared memory; one that is removed in time is no leak."""
    script = "touch /dev/shm/stays /dev/shm/goes; rm /dev/shm/goes"
    found = run_round(Command(["bash", "-c", script], tmp_path / "out", cwd=tmp_path), tmp_path / "report")
    assert found.shared == {"stays"}
    assert not Path("/dev/shm/stays").exists()
