"""A worker that the machine kills (out of memory, say) ends the command in a line, or costs nothing; it never hangs."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.faults.conftest import COMMANDS
from tests.faults.harness import ENDS_WITHIN, Command, Run, faults_of, rerun, run_whole


def signal_at_work(run: Run, number: signal.Signals) -> bool:
    """Wait for a process that the run has started for its work, and kill it; False where none has appeared.

    Any other signal than SIGKILL goes to all of the run, as Ctrl-C does.
    """
    while run.process.poll() is None:
        for process in run.family():
            try:
                if process.pid != run.process.pid and "resource_tracker" not in " ".join(process.cmdline()):
                    if number == signal.SIGKILL:
                        process.send_signal(number)
                    else:
                        os.killpg(run.process.pid, number)
                    return True
            except psutil.NoSuchProcess:
                continue
        time.sleep(0.02)
    return False


@pytest.mark.slow
@pytest.mark.parametrize("command", ["recipe, np 2", "train pretrain"], indirect=True)
def test_a_killed_worker_is_a_line(command: Command) -> None:
    whole = run_whole(command)
    command.empty()
    run = Run(command)
    assert signal_at_work(run, signal.SIGKILL)
    status = run.wait(ENDS_WITHIN + whole.seconds)
    assert status is not None, f"it hangs: {run.said}"
    assert run.end() == []
    assert faults_of(run, status, command, whole) == []
    if status != 0:
        assert run.said.splitlines()[-1].startswith("error: "), run.said
    assert rerun(command, whole) == []


@pytest.mark.slow
def test_ctrl_c_ends_a_recipe_of_two_processes(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """It was swallowed by the pool once, and the recipe ended with status 0 and half its rows."""
    command = COMMANDS["recipe, np 2"](request, tmp_path)
    command.empty()
    run = Run(command)
    assert signal_at_work(run, signal.SIGINT)
    assert run.wait(ENDS_WITHIN) == 130, run.said
    assert run.end() == []
    assert run.said.splitlines()[-1] == "interrupted"
    assert "Traceback" not in run.said
    assert not list(command.folder.rglob("processed_data.jsonl"))
