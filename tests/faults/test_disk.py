"""A full or read-only disk ends a command in one line; afterwards the same command ends as on a sound disk."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.harness import Command, Run, differences, rerun, run_whole

WRITING = ("prepare", "convert", "download", "pack offline", "train pretrain")
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


@pytest.mark.slow
@pytest.mark.parametrize("command", ["prepare", "pack offline"], indirect=True)
def test_a_read_only_disk_is_one_line_and_costs_nothing(command: Command, disk_of: Callable[[Path, int], None]) -> None:
    whole = run_whole(command)
    command.empty()
    disk_of(command.folder, 1 << 24)
    subprocess.run(["mount", "-o", "remount,ro", str(command.folder)], check=True)
    run = Run(command)
    assert run.process.wait(120) == 1, run.said
    assert run.end() == []
    assert run.said.splitlines()[-1].startswith("error: ")
    assert "Read-only file system" in run.said.splitlines()[-1]
    assert "Traceback" not in run.said
    subprocess.run(["mount", "-o", "remount,rw", str(command.folder)], check=True)
    assert rerun(command, whole) == []
