"""Two of the same command at the same time: the second waits or is refused in a line, and the result is one run's."""

from __future__ import annotations

import os

import pytest

from tests import warm
from tests.faults.harness import Command, Run, differences, run_whole
from toolkit.processes import owner_of


@pytest.mark.slow
@pytest.mark.parametrize("command", ["prepare", "train pretrain", "download", "pack online"], indirect=True)
def test_a_second_instance_spoils_nothing(command: Command) -> None:
    whole = run_whole(command)
    command.empty()
    runs = [Run(command), Run(command)]
    statuses = [run.process.wait(300) for run in runs]
    assert 0 in statuses
    for run, status in zip(runs, statuses, strict=True):
        assert run.end() == []
        if status != 0:
            assert status == 1, run.said
            assert "is at work there" in run.said.splitlines()[-1]
    assert differences(command.contents(), whole.contents) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "owned"),
    [
        ("recipe", "processed_data/.lock"),
        ("analyze", "analysis/.lock"),
        ("prepare", "run/.lock"),
        ("train pretrain", "run/.lock"),
        ("eval textvqa", "answers/.lock"),
        ("eval all", "answers/textvqa/.lock"),
        ("judge", ".lock-values"),
        ("download", "input/.downloads/.lock"),
        ("export", ".lock-export-export"),
    ],
    indirect=["command"],
)
def test_a_second_instance_is_told_who_is_at_work_and_writes_nothing(command: Command, owned: str) -> None:
    command.empty()
    lock = command.folder / owned
    with owner_of(lock.parent, lock.name.removeprefix(".lock").removeprefix("-")):
        done = warm.run(command.words, command.cwd, os.environ | command.environment)
        assert done.returncode == 1, done.stdout
        *_, last = done.stderr.splitlines()
        assert last.startswith(f"error: {lock.parent}: process {os.getpid()} on ")
        assert last.endswith(" is at work there; wait for it or stop it")
        assert [path for path in command.folder.rglob("*") if path.is_file()] == [lock]
