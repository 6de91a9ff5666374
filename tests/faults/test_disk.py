"""A full or read-only disk ends a command in one line; afterwards the same command ends as on a sound disk."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import warm
from tests.faults.conftest import COMMANDS
from tests.faults.harness import Command, Run, differences, rerun, run_whole

PAGE = 4096  # bytes that a tmpfs takes at least for a file


@pytest.fixture
def disk_of() -> Iterator[Callable[[Path, int], None]]:
    """disk_of(folder, size) mounts a disk of `size` bytes there, or changes the size of the one that is mounted."""
    mounted: list[Path] = []

    def mount(folder: Path, size: int) -> None:
        options = f"size={size}" if folder not in mounted else f"remount,size={size}"
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True)
        if done.returncode != 0:
            pytest.skip("no disk can be mounted here")
        mounted.append(folder)

    if os.geteuid() != 0:
        pytest.skip("only root may mount a disk")
    yield mount
    for folder in set(mounted):
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    ["prepare", "convert", "check", "download", "pack offline", "train pretrain", "eval textvqa"],
    indirect=True,
)
def test_a_full_disk_is_one_line_and_costs_nothing(command: Command, disk_of: Callable[[Path, int], None]) -> None:
    whole = run_whole(command)
    used = sum(-(-path.stat().st_size // PAGE) * PAGE for path in command.folder.rglob("*") if path.is_file())
    command.empty()
    disk_of(command.folder, used)
    filler = command.folder / "filler"
    filler.write_bytes(bytes(-(-used // (2 * PAGE)) * PAGE))  # a disk of no page at all cannot be mounted
    run = Run(command)
    assert run.process.wait(120) == 1, run.said
    assert run.end() == []
    *_, last = run.said.splitlines()
    assert last.startswith("error: ")
    assert "Traceback" not in run.said
    filler.unlink()
    disk_of(command.folder, 10 * used + 100 * PAGE)
    assert rerun(command, whole) == []
    assert differences(command.contents(), whole.contents) == []


# Others stand for those that are left out: one process, one stage, one benchmark, each step of the script.
LEFT_OUT = ("recipe, np 2", "recipe, Ray", "report", "train finetune", "eval mmbench", "eval all", "train script")
WRITING = [name for name in COMMANDS if name not in LEFT_OUT]


@pytest.mark.slow
@pytest.mark.parametrize("command", WRITING, indirect=True)
@pytest.mark.parametrize("disk", ["full", "read-only"])
def test_a_disk_that_takes_nothing_is_one_line(
    command: Command, disk: str, disk_of: Callable[[Path, int], None]
) -> None:
    """And nothing is left there, no lock either."""
    command.folder.mkdir(exist_ok=True)
    disk_of(command.folder, 1 << 24)
    command.fill()
    if disk == "full":
        used = sum(-(-path.stat().st_size // PAGE) * PAGE for path in command.folder.rglob("*") if path.is_file())
        disk_of(command.folder, used + PAGE)
        (command.folder / "filler").write_bytes(bytes(PAGE))
    else:
        subprocess.run(["mount", "-o", "remount,ro", str(command.folder)], check=True)
    before = sorted(path for path in command.folder.rglob("*") if path.is_file())
    done = warm.run(command.words, command.cwd, os.environ | {"OMP_NUM_THREADS": "1"} | command.environment)
    assert done.returncode == 1, done.stdout + done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert re.search({"full": "No space left on device", "read-only": "Read-only|cannot be written to"}[disk], last)
    assert "Traceback" not in done.stderr, done.stderr
    assert [path for path in sorted(command.folder.rglob("*")) if path.is_file()] == before
