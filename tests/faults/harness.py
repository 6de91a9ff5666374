"""Commands that are disturbed at random moments and run again, compared with a run that nobody disturbed."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import psutil

from tests.faults.contents import contents_of
from toolkit.files import REPOSITORY

# Every process that a run starts inherits it, whatever session it moves to or parent it loses.
MARK = "BETTER_SYNTH_FAULTS_RUN"
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
TARGETS = ("parent", "child", "group")
ENDS_WITHIN = 60  # seconds from a signal to the end of a run that it ends: what is slower hangs
LEAVES_WITHIN = 20  # seconds from a command's end to that of its last process


@dataclass
class Command:
    """A command, and the folder that holds everything it may change.

    Args:
        words: of the command line.
        folder: made by `fill`, removed before each first run.
        fill: puts into the folder what a first run finds there.
        environment: more variables.
        unequal: names (parts of a path below the folder) of files whose content may differ from run to run; that they
            exist is still compared.
    """

    words: Sequence[str]
    folder: Path
    fill: Callable[[], object] = lambda: None
    environment: dict[str, str] = field(default_factory=dict)
    cwd: Path = REPOSITORY
    unequal: tuple[str, ...] = ()

    @property
    def temporary(self) -> Path:
        """Its TMPDIR, one for each folder; short, as the paths of sockets may have 107 bytes."""
        return Path(tempfile.gettempdir(), f"f-{zlib.crc32(bytes(self.folder)):08x}")

    def contents(self) -> dict[str, object]:
        """What the folder holds, and its TMPDIR."""
        left = {str(path): "a temporary file" for path in self.temporary.glob("*")}
        return contents_of(self.folder, self.unequal) | left

    def empty(self) -> None:
        """The folder as a first run finds it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(self.temporary, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)  # where a disk of its own is mounted it stays
        self.fill()


class Run:
    """One start of a command, in a session of its own as a terminal has it; output goes to files beside the folder."""

    def __init__(self, command: Command):
        self.command, self.mark = command, uuid.uuid4().hex
        base = command.folder.parent
        command.temporary.mkdir(exist_ok=True)
        self._said = base / f"{command.folder.name}.{self.mark}.said"
        with self._said.open("wb") as said:
            self.process = subprocess.Popen(
                list(command.words),
                cwd=command.cwd,
                env=os.environ
                | {MARK: self.mark, "TMPDIR": str(command.temporary), "OMP_NUM_THREADS": "1"}
                | command.environment,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
                # A suite in a shell's background inherits that Ctrl-C is ignored, and would hand it down.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    @property
    def said(self) -> str:
        """What it has written to stdout and stderr."""
        return self._said.read_text(errors="replace")

    def wait(self, timeout: float) -> int | None:
        """Exit status, or None where it is still at work after so many seconds."""
        try:
            return self.process.wait(max(timeout, 0))
        except subprocess.TimeoutExpired:
            return None

    def family(self) -> list[psutil.Process]:
        """Its living processes, the first one included."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
        return found

    def send(self, number: int, target: str, random: Random) -> bool:
        """Send a signal to one process or to all; False where the run has ended."""
        if self.process.poll() is not None:
            return False
        children = [process for process in self.family() if process.pid != self.process.pid]
        try:
            if target == "group":
                os.killpg(self.process.pid, number)
            elif target == "child" and children:
                random.choice(children).send_signal(number)
            else:
                self.process.send_signal(number)
        except (ProcessLookupError, psutil.NoSuchProcess):
            return False
        return True

    def end(self) -> list[str]:
        """Wait until none of its processes lives; the command lines of those that stayed, which are killed."""
        deadline = time.monotonic() + LEAVES_WITHIN
        while (alive := self.family()) and time.monotonic() < deadline:
            time.sleep(0.1)
        left = []
        for process in alive:
            try:
                left.append(" ".join(process.cmdline())[:200])
                process.kill()
            except psutil.NoSuchProcess:
                continue
        return left


@dataclass
class Whole:
    """An undisturbed run: how long it took and what it left."""

    seconds: float
    contents: dict[str, object]


def run_whole(command: Command) -> Whole:
    """Run a command from the start, undisturbed."""
    command.empty()
    run = Run(command)
    started = time.monotonic()
    status = run.process.wait()
    seconds = time.monotonic() - started
    assert status == 0, run.said
    assert run.end() == []
    return Whole(seconds, command.contents())


@dataclass
class Trial:
    """A disturbed run and what was wrong with it."""

    what: str
    met: bool
    faults: list[str] = field(default_factory=list)


def disturb(command: Command, whole: Whole, random: Random) -> Trial:
    """Start a command in an empty folder, send one or two of its runs a signal, run it to its end, compare."""
    command.empty()
    trial = Trial("", met=False)
    for _ in range(random.choice((1, 1, 1, 2))):
        number, target, share = random.choice(SIGNALS), random.choice(TARGETS), random.uniform(0.02, 0.98)
        what = f"{number.name} to {target} at {share:.2f}"
        trial.what += f"{', then ' * bool(trial.what)}{what}"
        run = Run(command)
        if run.wait(share * whole.seconds) is None:
            trial.met |= run.send(number, target, random)
        status = run.wait(ENDS_WITHIN + whole.seconds)
        if status is None:
            trial.faults.append(f"{what}: it hangs")
            run.process.kill()
            run.process.wait()
        trial.faults += [f"{what}: left at work: {process}" for process in run.end()]
        trial.faults += [f"{what}: {fault}" for fault in faults_of(run, status, command, whole)]
    trial.faults += [f"{trial.what}: {fault}" for fault in rerun(command, whole)]
    return trial


def faults_of(run: Run, status: int | None, command: Command, whole: Whole) -> list[str]:
    """What a disturbed run must not do: say a trace, or end well without its result."""
    faults = []
    # While Python itself starts, Ctrl-C ends it in traces of its own: no line of ours has run.
    ours = re.search(r'File "[^"]*/(toolkit|solution)/', run.said)
    if "Traceback (most recent call last)" in run.said and ours:
        faults.append(f"a trace: ...{run.said[-1500:]}")
    if status == 0:
        faults += [f"status 0, but {fault}" for fault in differences(command.contents(), whole.contents)]
    return faults


def rerun(command: Command, whole: Whole) -> list[str]:
    """Run the command once more, to its end: what differs from the undisturbed run."""
    run = Run(command)
    status = run.wait(ENDS_WITHIN + 5 * whole.seconds)
    if status is None:
        run.process.kill()
    faults = [f"rerun left at work: {process}" for process in run.end()]
    if status != 0:
        faults.append(f"the rerun ends with {status}: {run.said[-1500:]}")
    faults += differences(command.contents(), whole.contents)
    return faults


def differences(found: dict[str, object], expected: dict[str, object]) -> list[str]:
    """Names that one of two folders lacks, or that differ, with the first place where they do."""
    return [
        f"{name} is left"
        if name not in expected
        else f"{name} is missing"
        if name not in found
        else f"{name} differs: {difference(found[name], expected[name])}"
        for name in sorted(found.keys() | expected.keys())
        if name not in found or name not in expected or found[name] != expected[name]
    ]


def difference(found: object, expected: object, place: str = "") -> str:
    """Where two JSON values differ first, and in what."""
    if isinstance(found, dict) and isinstance(expected, dict) and found.keys() == expected.keys():
        key = next(key for key in found if found[key] != expected[key])
        return difference(found[key], expected[key], f"{place}.{key}")
    if isinstance(found, list | tuple) and isinstance(expected, list | tuple) and len(found) == len(expected):
        key = next(key for key in range(len(found)) if found[key] != expected[key])
        return difference(found[key], expected[key], f"{place}[{key}]")
    return f"{place} {found!r:.300} instead of {expected!r:.300}"
