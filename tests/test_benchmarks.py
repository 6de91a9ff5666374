"""The benchmarks run, and their checks of equality hold; what they time is for people to read."""

from __future__ import annotations

import subprocess
import sys

import pytest

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
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "times as fast" in done.stdout or "samples/s" in done.stdout
