"""One owner per folder; children end with their parent; files of killed processes are removed."""

from __future__ import annotations

import fcntl
import importlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from toolkit.files import REPOSITORY
from toolkit.processes import InUseError, owner_of, temporary_files, unfinished

OWN = """
import sys, time, pathlib
from toolkit import processes
with processes.owner_of(pathlib.Path(sys.argv[1])):
    print("owned", flush=True)
    time.sleep(100)
"""
WRITE = """
import sys, time, pathlib
from toolkit import processes
with processes.unfinished(pathlib.Path(sys.argv[1])) as file:
    file.write_text("half")
    print("written", flush=True)
    time.sleep(100)
"""
FORK = """
import os, time
from {package} import processes
processes.end_forks_with_this_process()
child = os.fork()
if child == 0:
    time.sleep(100)
print(child, flush=True)
time.sleep(100)
"""
TEMPORARY = """
import pathlib, subprocess, sys, tempfile, time
from toolkit import processes
@processes.temporary_files()
def main():
    folder = pathlib.Path(tempfile.mkdtemp(prefix="pymp-"))
    (folder / "listener").touch()
    child = ["import tempfile; from toolkit import processes", "with processes.temporary_files():"]
    child += [" print(tempfile.gettempdir())"]
    print(folder, subprocess.check_output([sys.executable, "-c", "\\n".join(child)], text=True).strip(), flush=True)
    time.sleep(float(sys.argv[1]))
main()
"""


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen]]:
    """Processes that a test started; killed after it."""
    processes: list[subprocess.Popen] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def start(started: list[subprocess.Popen], code: str, *words: object) -> tuple[subprocess.Popen, str]:
    """A Python at work in the repository, and the line that it printed first."""
    command = [sys.executable, "-c", code, *map(str, words)]
    started.append(subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True))
    return started[-1], started[-1].stdout.readline().strip()


@pytest.mark.parametrize("name", ["processes.py", "arguments.py", "terminal.py", "attempts.py"])
def test_both_folders_have_the_same_module(name: str) -> None:
    assert (REPOSITORY / "toolkit" / name).read_bytes() == (REPOSITORY / "solution" / name).read_bytes()


def test_a_second_process_is_told_who_owns_the_folder(tmp_path: Path, started: list[subprocess.Popen]) -> None:
    owner, _ = start(started, OWN, tmp_path)
    with pytest.raises(InUseError, match=rf"process {owner.pid} on \S+ \(since 20"), owner_of(tmp_path):
        pass
    with owner_of(tmp_path, "1-of-2"):  # a part has an owner of its own
        pass


def test_a_dead_owners_lock_is_taken_over_and_none_is_left(tmp_path: Path, started: list[subprocess.Popen]) -> None:
    owner, _ = start(started, OWN, tmp_path)
    owner.kill()
    owner.wait()
    assert (tmp_path / ".lock").exists()
    with owner_of(tmp_path):
        assert str(os.getpid()) in (tmp_path / ".lock").read_text()
    assert not list(tmp_path.iterdir())


def test_a_lock_whose_file_its_owner_has_removed_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opened just before its owner ended: the file that is locked then is no longer the folder's."""
    import toolkit.processes as processes

    lock = processes._lock
    first = iter([True])

    def late(file: int) -> bool:
        if next(first, False):
            (tmp_path / ".lock").unlink()
        return lock(file)

    monkeypatch.setattr(processes, "_lock", late)
    with owner_of(tmp_path):
        assert (tmp_path / ".lock").exists()


def test_a_file_that_the_owner_misses_is_its_own_affair(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"rows\.jsonl"), owner_of(tmp_path / "out"):
        (tmp_path / "rows.jsonl").read_text()
    assert not (tmp_path / "out").exists()


def test_a_refusal_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="refused"), owner_of(tmp_path / "output" / "run"):
        raise ValueError("refused")
    assert not list(tmp_path.iterdir())
    with owner_of(tmp_path / "output" / "run"):
        (tmp_path / "output" / "run" / "result").touch()
    assert (tmp_path / "output" / "run" / "result").exists()


def test_what_a_killed_writer_left_goes_with_the_next_one_and_a_live_ones_file_stays(
    tmp_path: Path, started: list[subprocess.Popen]
) -> None:
    result = tmp_path / "r[1].json"
    writer, _ = start(started, WRITE, result)
    (other,) = tmp_path.iterdir()
    with unfinished(result) as file:
        assert file != other
        assert other.exists()
    writer.kill()
    writer.wait()
    assert list(tmp_path.iterdir()) == [other]
    with unfinished(result) as file:
        assert list(tmp_path.iterdir()) == [file]
    assert not list(tmp_path.iterdir())


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A TMPDIR with a short path."""
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


def test_temporary_files_go_with_their_process_or_with_the_next_one(
    short: Path, started: list[subprocess.Popen]
) -> None:
    killed, told = start(started, TEMPORARY, 100)
    made, shared = map(Path, told.split())
    assert made.parent == shared  # by the processes of one command
    assert shared.parent == short
    working, _ = start(started, TEMPORARY, 1)
    assert (made / "listener").exists()
    assert working.wait() == 0
    assert list(short.iterdir()) == [shared]
    (short / "synth-of-a-user").mkdir()
    killed.kill()
    killed.wait()
    last, told = start(started, TEMPORARY, 0)
    assert last.wait() == 0
    assert not shared.exists()
    assert [path.name for path in short.iterdir()] == ["synth-of-a-user"]


def test_a_long_or_unusable_tmpdir_stays(
    tmp_path: Path, short: Path, monkeypatch: pytest.MonkeyPatch, started: list[subprocess.Popen]
) -> None:
    """Sockets in it may have paths of 107 bytes."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    _, told = start(started, TEMPORARY, 0)
    assert Path(told.split()[0]).parent == tmp_path
    monkeypatch.setattr(tempfile, "tempdir", str(short))
    monkeypatch.setattr(fcntl, "flock", lambda *_: os.close(-1))  # as on file systems that lack it
    with temporary_files():
        assert os.environ["TMPDIR"] == str(tmp_path)
    assert not list(short.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's signal at a parent's death is Linux's")
@pytest.mark.parametrize("package", ["toolkit", "solution"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_forked_workers_end_with_a_killed_parent(
    package: str, number: signal.Signals, started: list[subprocess.Popen]
) -> None:
    parent, child = start(started, FORK.format(package=package))
    parent.send_signal(number)
    parent.wait()
    for _ in range(100):
        if not is_running(int(child)):
            return
        time.sleep(0.1)
    pytest.fail(f"process {child} outlives its parent")


def is_running(process: int) -> bool:
    """Whether it exists and is no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_forked_workers_leave_ctrl_c_to_their_parent(started: list[subprocess.Popen]) -> None:
    """A terminal sends it to all; a pool whose workers have ended waits for them for ever."""
    _, child = start(started, FORK.format(package="solution"))
    for _ in range(100):
        if int(status_of(int(child))["SigIgn"], 16) & 1 << (signal.SIGINT - 1):
            break
        time.sleep(0.1)
    else:
        pytest.fail("SIGINT is not ignored")


def status_of(process: int) -> dict[str, str]:
    """What the kernel says of a process."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines)


@pytest.mark.parametrize("package", ["toolkit", "solution"])
def test_no_file_takes_the_place_of_a_pipe(tmp_path: Path, package: str) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    opened = importlib.import_module(f"{package}.processes").unfinished
    with pytest.raises(OSError, match="a device or a pipe"), opened(pipe):
        pass
    assert list(tmp_path.iterdir()) == [pipe]
    assert pipe.is_fifo()
