"""Two of the same command at the same time: the second waits or is refused in a line, and the result is one run's."""

from __future__ import annotations

import pytest

from tests.faults.harness import Command, Run, differences, run_whole


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
