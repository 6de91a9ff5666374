"""Training over several machines as the README shows it: torchrun on each, one shared folder."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from toolkit.errors import UserError
from toolkit.files import REPOSITORY
from toolkit.presets import load_preset
from toolkit.training import run as training

MACHINES = 2
ROWS = 32


@pytest.mark.slow
def test_two_machines_train_one_stage(tmp_path: Path) -> None:
    preset = load_preset("mini")
    data, out = tmp_path / "data.json", tmp_path / "run"
    data.write_text(json.dumps(json.loads(preset.questions.read_text())[:ROWS]))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", str(MACHINES), "--nproc-per-node", "1"]
    torchrun += ["--master-addr", "127.0.0.1", "--master-port", port]
    train = ["-m", "toolkit", "train", "pretrain", "--preset", "mini", "--data", data, "--images", preset.seed_images]
    train += ["--out", out, "--batch", str(preset.pretrain.global_batch // MACHINES), "--accumulation", "1"]
    train += ["--workers", "0", "--deepspeed"]
    machines = [
        subprocess.Popen(
            [*torchrun, "--node-rank", str(number), *train],
            cwd=REPOSITORY,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(MACHINES)
    ]
    said = [machine.communicate(timeout=600)[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0] * MACHINES, said
    # The first machine's output is the log that a submission takes along.
    assert said[0].startswith("fixed part sha256: ")
    assert "fixed part sha256: " not in said[1]
    record = json.loads((out / "run.json").read_text())
    assert record["configuration"]["processes"] == MACHINES
    assert record["counts"]["samples_trained"] == ROWS
    assert (out / "mm_projector.bin").is_file()


@pytest.mark.parametrize(
    ("end", "told"),
    [("exit 1", "has failed, for the reason above"), ("kill -9 $$", "was cut short; run the same command again")],
)
def test_a_launch_that_was_killed_resumes_and_one_that_was_refused_does_not(
    end: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{end}\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    for name in (training.LAUNCHED, "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "")  # is set by a launch
    with pytest.raises(UserError, match=told):
        training._launch(1)
