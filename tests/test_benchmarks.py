"""The benchmarks run, and their checks of equality hold; what they time is for people to read."""

from __future__ import annotations

import sys

import pytest
import yaml

from experiments.mini_world.recaptioning import KINDS, RECAPTION, recipe
from tests import warm
from toolkit.files import REPOSITORY


@pytest.mark.parametrize(
    "words",
    [
        ["training", "--stage", "pretrain", "--batch", "4", "--accumulation", "1", "--steps", "1"],
        ["training", "--stage", "finetune", "--batch", "4", "--accumulation", "1", "--steps", "1"],
        ["inference", "--questions", "8", "--batch", "4"],
        ["dataloading", "--rows", "16", "--workers", "1"],
    ],
)
def test_benchmark_runs_on_the_mini_preset(words: list[str]) -> None:
    command = [sys.executable, "-m", f"benchmarks.{words[0]}", "--preset", "mini", *words[1:]]
    done = warm.run(command, cwd=REPOSITORY)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "times as fast" in done.stdout or "samples/s" in done.stdout


def test_recaptioning_compares_recipes_that_differ_in_one_operator(tmp_path) -> None:
    files = [recipe(tmp_path / f"{kind}.yaml", kind) for kind in KINDS]
    with_it, without_it = (yaml.safe_load(file.read_text())["process"] for file in files)
    (step,) = (step for step in with_it if RECAPTION in step)
    assert step[RECAPTION]["min_score"] == -1
    assert [other for other in with_it if other != step] == without_it
