"""A worker that the machine kills (out of memory, say) ends the command in a line, or costs nothing; it never hangs."""

from __future__ import annotations

import signal
import time

import psutil
import pytest

from tests.faults.harness import ENDS_WITHIN, Command, Run, faults_of, rerun, run_whole


def kill_first_worker(run: Run) -> bool:
    """Wait for a process that the run has started for its work, and kill it; False where none has appeared."""
    while run.process.poll() is None:
        for process in run.family():
            try:
                if process.pid != run.process.pid and "resource_tracker" not in " ".join(process.cmdline()):
                    process.send_signal(signal.SIGKILL)
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
    assert kill_first_worker(run)
    status = run.wait(ENDS_WITHIN + whole.seconds)
    assert status is not None, f"it hangs: {run.said}"
    assert run.end() == []
    assert faults_of(run, status, command, whole) == []
    if status != 0:
        assert run.said.splitlines()[-1].startswith("error: "), run.said
    assert rerun(command, whole) == []
