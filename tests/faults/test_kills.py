"""A command that is killed at any moment, and run again, leaves what an undisturbed one leaves, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable
from random import Random

import pytest

from tests.faults.conftest import COMMANDS
from tests.faults.harness import Command, differences, disturb, run_whole

SEED = int(os.environ.get("FAULTS_SEED", "1"))
# Per command; `python -m tests.faults` asks for more.
KILLS = int(os.environ.get("FAULTS_KILLS", "1"))
# Left to the night, as others stand for them in the suite: `np: 2`, the first stage, one benchmark, each command of the
# training script; Ray has tests of its own.
LONG = ("recipe", "recipe, Ray", "train finetune", "eval mmbench", "eval all", "train script", "check --contamination")


@pytest.mark.slow
@pytest.mark.parametrize("command", [name for name in COMMANDS if KILLS > 1 or name not in LONG], indirect=True)
def test_a_disturbed_run_ends_as_an_undisturbed_one(
    command: Command, request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> None:
    whole = run_whole(command)
    if KILLS > 1:  # measured with warm caches; and two undisturbed runs are equal
        first, whole = whole, run_whole(command)
        assert differences(first.contents, whole.contents) == []
    random = Random(f"{SEED} {request.node.callspec.id}")
    trials = [disturb(command, whole, random) for _ in range(KILLS)]
    faults = [fault for trial in trials for fault in trial.faults]
    record_property("seconds", whole.seconds)
    record_property("kills", len(trials))
    record_property("met", sum(trial.met for trial in trials))
    record_property("different", sum(bool(trial.faults) for trial in trials))
    assert not faults, "\n".join(faults)
