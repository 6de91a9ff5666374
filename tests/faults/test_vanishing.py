"""Files that go away while a command reads them: one true line, no result, and the whole result once they are back."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests import warm
from tests.faults.conftest import COMMANDS
from tests.faults.harness import Command, differences

VANISH = str(Path(__file__).with_name("vanish.py"))
ADAPTER = "workspace/output/training_dirs/MGM-Mini-Pretrain-best/mm_projector.bin"
# Command; what goes away, below the test's folder or a fixture's; at which opening of which
# files; what is said of it.
CASES = {
    "check, the image folder": ("check", "seed", r"images/2\.png", 1, "seed: no such folder"),
    "check --contamination, an image": ("check --contamination", "seed/images/3.png", r"exam/0\.jpg", 1, "3.png: "),
    "check --contamination, the set": ("check --contamination", "exam", r"images/2\.png", 2, "exam/3.jpg: no such"),
    "train, with workers": ("train pretrain", "small_world/images", r"\d\.png", 16, ".png: no such file; bring"),
    "eval, images": ("eval textvqa", "images", r"images/1\.png", 1, "images/1.png: no such file"),
    "judge, with workers": ("judge", "seed/images", r"images/2\.png", 1, ".png: no such file, though it"),
    "export, an image": ("export", "seed/images/3.png", r"images/2\.png", 2, "3.png: No such file"),
    "pack offline, an adapter": ("pack offline", ADAPTER, r"\.zip\.", 1, "mm_projector.bin: No such file"),
}  # fmt: skip


def run(command: Command, *vanishing: object) -> CompletedProcess:
    words = command.words[command.words.index("-m") + 1 :]
    command.temporary.mkdir(exist_ok=True)
    return warm.run(
        [sys.executable, VANISH, *map(str, vanishing or ("", "nothing at all", 1)), *words],
        cwd=command.cwd,
        env=os.environ | {"TMPDIR": str(command.temporary), "OMP_NUM_THREADS": "1"} | command.environment,
    )


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_what_vanishes_midway_is_named_and_its_return_completes_the_run(
    case: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    name, place, pattern, count, said = CASES[case]
    command = COMMANDS[name](request, tmp_path)
    file = tmp_path / place
    if place.startswith("small_world/"):
        file = request.getfixturevalue("small_world").folder / place.partition("/")[2]
    command.empty()
    cut = run(command, file, pattern, count)
    away = file.with_name(f"{file.name}.away")
    away.rename(file)
    assert cut.returncode == 1, cut.stdout
    *_, line = cut.stderr.splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert "Traceback" not in cut.stderr
    again = run(command)
    assert again.returncode == 0, again.stderr
    resumed = command.contents()
    command.empty()
    assert run(command).returncode == 0
    assert differences(resumed, command.contents()) == []
