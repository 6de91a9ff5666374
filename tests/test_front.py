"""`better-synth`, the one command, and `python -m toolkit` inside toolkit/."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from toolkit.__main__ import COMMANDS
from toolkit.files import REPOSITORY


def run(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, with the tests' Python first on PATH."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path}
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_it_lists_every_command() -> None:
    result = run(["bash", "better-synth"], REPOSITORY)
    assert result.returncode == 0
    assert all(f"\n  {name} " in result.stdout for name in [*COMMANDS, "process", "analyze", "report"])


@pytest.mark.parametrize(
    ("words", "usage"),
    [
        (["process", "--help"], "usage: process.py [-h] --recipe"),
        (["report", "--help"], "usage: process.py report [-h]"),
        (["analyze", "--help"], "usage: process.py analyze [-h]"),
        (["check", "--help"], "usage: better-synth check [-h]"),
        (["train", "--help"], "usage: better-synth COMMAND"),
    ],
)
def test_it_starts_them_from_a_folder_below(words: list[str], usage: str) -> None:
    result = run(["bash", "../../better-synth", *words], REPOSITORY / "toolkit" / "eval")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(usage)


def test_it_starts_training_scripts_by_preset() -> None:
    result = run(["env", "EXP_NAME=-", "bash", "better-synth", "train", "mini"], REPOSITORY)
    assert result.returncode == 1
    assert result.stderr.startswith("error: EXP_NAME=-: expected ")


@pytest.mark.parametrize("words", [["train"], ["train", "Mini"], ["train", "mini", "--help"]])
def test_training_names_its_presets_and_takes_no_arguments(words: list[str]) -> None:
    result = run(["bash", "better-synth", *words], REPOSITORY)
    assert result.returncode == 1
    assert result.stdout == ""
    assert re.fullmatch(r"error: .*(expected mini, 10k or full|takes no arguments).*EXP_NAME=mine.*\n", result.stderr)


def test_an_unknown_command_is_refused() -> None:
    result = run(["bash", "better-synth", "chekc"], REPOSITORY)
    assert result.returncode == 2
    assert "'chekc'" in result.stderr


def test_python_m_toolkit_works_inside_its_folder() -> None:
    result = run([sys.executable, "-m", "toolkit", "convert", "--help"], REPOSITORY / "toolkit")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("usage: python -m toolkit convert")
