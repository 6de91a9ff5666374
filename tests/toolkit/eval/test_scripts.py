"""The scripts that answer: which process gets which GPU, and what a failed one does. `python` is a stand-in."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from toolkit.files import REPOSITORY

STAND_IN = """#!/usr/bin/env bash
if [[ $1 == -c ]]; then  # environment.sh asks which Python has the packages
    echo "$0"
    exit
fi
echo "gpu=$CUDA_VISIBLE_DEVICES $*" >>"$CALLS"
[[ $CUDA_VISIBLE_DEVICES != "$BROKEN_GPU" ]]
"""


def run(tmp_path: Path, script: str, gpus: str, broken: str = "none") -> tuple[subprocess.CompletedProcess, list[str]]:
    """Run an evaluation script; returns its outcome and the sorted calls of python."""
    binaries = tmp_path / "bin"
    binaries.mkdir()
    (binaries / "python").write_text(STAND_IN)
    (binaries / "python").chmod(0o755)
    environment = os.environ | {
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "CALLS": str(tmp_path / "calls"),
        "BROKEN_GPU": broken,
        "PRESET": "mini",
        "INFER_CUDA_IDX": gpus,
    }
    name, *words = script.split()
    command = ["bash", str(REPOSITORY / "toolkit" / "eval" / name), *words, "MODEL", "OUT"]
    outcome = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    return outcome, sorted((tmp_path / "calls").read_text().splitlines())


@pytest.mark.parametrize(
    ("script", "benchmark"), [("textvqa.sh", "textvqa"), ("mmbench.sh", "mmbench"), ("answer.sh all", "all")]
)
def test_every_process_has_its_gpu_and_its_chunk(tmp_path: Path, script: str, benchmark: str) -> None:
    outcome, calls = run(tmp_path, script, "3,5,7")
    base = f"-m toolkit eval {benchmark} --preset mini --model MODEL --out OUT"
    chunks = [f"gpu={gpu} {base} --chunk {index} --chunks 3" for index, gpu in enumerate((3, 5, 7))]
    assert outcome.returncode == 0, outcome.stderr
    assert calls == sorted([*chunks, f"gpu=3 {base}"])


@pytest.mark.parametrize(("gpus", "visible"), [("cpu", ""), ("2", "2")])
def test_one_process_where_that_will_do(tmp_path: Path, gpus: str, visible: str) -> None:
    outcome, calls = run(tmp_path, "textvqa.sh", gpus)
    assert outcome.returncode == 0
    assert calls == [f"gpu={visible} -m toolkit eval textvqa --preset mini --model MODEL --out OUT"]


def test_a_failed_gpu_stops_the_script(tmp_path: Path) -> None:
    outcome, calls = run(tmp_path, "textvqa.sh", "0,1,2", broken="1")
    assert outcome.returncode == 1
    assert "eval textvqa failed on GPU 1" in outcome.stderr
    assert len(calls) == 3  # nothing is gathered
