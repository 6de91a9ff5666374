"""The same work again and again, in one place: memory, processes, files and shared memory stay as they are.

Ports and open files end with the processes that hold them.
Three rounds of one command in the suite; `python -m tests.faults --minutes 120` takes all commands in turn, works that
long and prints what it saw.
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

import pytest

from tests.faults.conftest import COMMANDS
from tests.faults.harness import Command, Run

MINUTES = float(os.environ.get("FAULTS_MINUTES", "0"))
# Runs a command, and writes what the largest of its processes took to a file. What this process itself takes must not
# count, as it would for its own children.
_MEASURED = """import pathlib, resource, subprocess, sys
status = subprocess.call(sys.argv[2:])
pathlib.Path(sys.argv[1]).write_text(f"{resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss}\\n")
sys.exit(status)
"""
# unshare: a mount of its own; what is left in it is listed in the file that the next word names.
CAN_UNSHARE = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0
_SCRIPT = 'mount -t tmpfs shm /dev/shm && python3 -c "$MEASURED" "$@"; status=$?; ls /dev/shm >>"$1"; exit $status'
OWN_SHARED_MEMORY = ("unshare", "-m", "bash", "-c", _SCRIPT, "bash")
MORE_MEMORY = 1.25  # times the median of the first rounds
# TensorBoard writes a file for each start, the score store one for each run that asked for something.
EACH_ROUND = re.compile("(^|/)runs/|scores/")


@dataclass
class Left:
    """What a finished round left behind, and the most memory that one of its processes held."""

    memory: int
    processes: list[str]
    files: set[str]
    temporary: set[str]
    shared: set[str]


def run_round(command: Command, report: Path) -> Left:
    """Run a command where earlier rounds ran, with shared memory of its own, as others use the machine's too."""
    command = dataclasses.replace(
        command,
        words=[*OWN_SHARED_MEMORY, str(report), *command.words],
        environment=command.environment | {"MEASURED": _MEASURED},
    )
    run = Run(command)
    assert run.process.wait() == 0, run.said
    left = run.end()
    files, temporary = (
        {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
        for folder in (command.folder, command.temporary)
    )
    memory, *shared = report.read_text().split()
    return Left(int(memory), left, files, temporary, set(shared))


def again(command: Command) -> None:
    """Have the next round do all of its work: what is added to in each round stays."""
    for path in sorted(command.folder.rglob("*"), reverse=True):
        if not EACH_ROUND.search(path.relative_to(command.folder).as_posix()):
            if path.is_file():
                path.unlink()
            elif not any(path.iterdir()):
                path.rmdir()
    command.fill()


@pytest.fixture(scope="module")
def until(request: pytest.FixtureRequest) -> Callable[[], float]:
    """until(): when the command whose turn it is has had its share of the time that is left."""
    deadline, turns = time.monotonic() + 60 * MINUTES, len(request.session.items)

    def share() -> float:
        nonlocal turns
        turns -= 1
        now = time.monotonic()
        return now + (deadline - now) / (turns + 1)

    return share


@pytest.mark.slow
@pytest.mark.skipif(not CAN_UNSHARE, reason="needs the right to mount")
@pytest.mark.parametrize("command", COMMANDS if MINUTES else ["recipe, np 2"], indirect=True)
def test_rounds_leave_no_more_than_the_first(
    until: Callable[[], float], command: Command, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    end = until()
    command.empty()
    first = run_round(command, tmp_path / "report")
    rounds = [first]
    while len(rounds) < 3 or time.monotonic() < end:
        again(command)
        rounds.append(run_round(command, tmp_path / "report"))
        found = rounds[-1]
        assert (found.processes, found.temporary, found.shared) == ([], first.temporary, set())
        assert {name for name in found.files ^ first.files if not EACH_ROUND.search(name)} == set()
    memory = [found.memory / 2**10 for found in rounds]
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
