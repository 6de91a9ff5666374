"""The same work again and again, in one place: memory, processes, files and shared memory stay as they are.

Ports and open files end with the processes that hold them.
Two rounds in the suite; `python -m tests.faults --minutes 120` works that long and prints what it saw.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.faults.harness import LEAVES_WITHIN, Command, Run

MINUTES = float(os.environ.get("FAULTS_MINUTES", "0"))
# One command of every kind: workers and a score store, a data loader's workers, answers, an archive.
CHOSEN = ("recipe, np 2", "train pretrain", "eval textvqa", "pack online", "check")
INTERVAL = 0.2  # seconds between two looks at a run's processes
MORE_MEMORY = 1.25  # times the median of the first rounds


@dataclass
class Left:
    """What a finished round left behind, and the most memory that its processes held together."""

    memory: int
    processes: list[str]
    files: set[str]
    shared: set[str]


def run_round(command: Command) -> Left:
    """Run a command where earlier rounds ran."""
    shared = shared_memory()
    run = Run(command)
    memory = 0
    while run.process.poll() is None:
        memory = max(memory, sum(map(resident, run.family())))
        time.sleep(INTERVAL)
    assert run.process.returncode == 0, run.said
    left = run.end()
    files = {path.relative_to(command.folder).as_posix() for path in command.folder.rglob("*")}
    deadline = time.monotonic() + LEAVES_WITHIN
    # Other processes of the machine make names of their own, which they remove or use within a moment.
    while (stayed := shared_memory() - shared) and time.monotonic() < deadline:
        time.sleep(INTERVAL)
    return Left(memory, left, files, stayed)


def resident(process: psutil.Process) -> int:
    """Bytes of memory that no other process shares."""
    try:
        return process.memory_info().rss - process.memory_info().shared
    except psutil.NoSuchProcess:
        return 0


def shared_memory() -> set[str]:
    """Names in /dev/shm that no living process uses: nobody will remove them."""
    names, used = {path.name for path in Path("/dev/shm").iterdir()}, ""
    for process in psutil.process_iter():
        with contextlib.suppress(OSError):
            used += Path(f"/proc/{process.pid}/maps").read_text(errors="replace")
    return {name for name in names if f"/dev/shm/{name}" not in used}


def again(command: Command) -> None:
    """Have the next round do all of its work: what a finished one would only look at goes, other files stay."""
    for name in ("run.json", "processed_data.jsonl", "submit.zip", "report.json", "answers.jsonl"):
        for path in command.folder.rglob(name):
            path.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("command", CHOSEN if MINUTES else ["recipe, np 2"], indirect=True)
def test_rounds_leave_no_more_than_the_first(command: Command, record_property: Callable[[str, object], None]) -> None:
    command.empty()
    first = run_round(command)
    until = time.monotonic() + 60 * MINUTES / len(CHOSEN)
    rounds = [first]
    while len(rounds) < 3 or time.monotonic() < until:
        again(command)
        rounds.append(run_round(command))
        found = rounds[-1]
        assert (found.processes, found.shared) == ([], set())
        # TensorBoard writes a file for each start, the score store one for each run that asked for something.
        more = {name for name in found.files - first.files if "tfevents" not in name and "scores/" not in name}
        assert more == set()
    memory = [found.memory / 2**20 for found in rounds]
    early, late = statistics.median(memory[:3]), statistics.median(memory[-3:])
    record_property("rounds", len(rounds))
    record_property("memory", f"{early:.0f} -> {late:.0f}")
    assert late < MORE_MEMORY * early


def test_a_leak_would_be_seen() -> None:
    """A name in shared memory that is nobody's; one that is mapped is somebody's."""
    names = [f"leak-{os.getpid()}", f"used-{os.getpid()}"]
    files = [Path("/dev/shm", name) for name in names]
    try:
        for file in files:
            file.write_bytes(b"0" * mmap.PAGESIZE)
        with files[1].open("r+b") as file, mmap.mmap(file.fileno(), 0):
            assert shared_memory() & set(names) == {names[0]}
    finally:
        for file in files:
            file.unlink()
