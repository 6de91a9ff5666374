"""DeepSpeed's path on the CPU: two processes, ZeRO-2, fp32, no compiler; the same curve as one plain process."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest
import torch

from tests.training.conftest import SmallWorld, environment, run
from toolkit.files import REPOSITORY
from toolkit.training.zero import needs_offload, zero_config

COMPILERS = ("gcc", "g++", "cc", "c++", "clang", "clang++", "ninja", "nvcc")
STEPS = 20 // 4


@pytest.fixture
def no_compiler(tmp_path: Path) -> dict[str, str]:
    """Environment whose PATH holds a shell and nothing else."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "sh").symlink_to("/bin/sh")
    assert not any((folder / name).exists() for name in COMPILERS)
    return {"PATH": str(folder), "CXX": "", "CC": ""}


def whole_steps(small_world: SmallWorld) -> Path:
    """Rows that fill every step with any number of processes."""
    return small_world.write_data("twenty.json", small_world.rows()[:20])


def two_processes(small_world: SmallWorld, stage: str, out: Path, *more: str) -> list[str]:
    data = whole_steps(small_world)
    words = ["--accumulation", "1", "--no-stochastic-depth", "--deepspeed", *more]
    return small_world.command(stage, out, *words, data=data)


def losses(out: Path) -> list[float]:
    history = json.loads((out / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_two_zero_processes_equal_one_plain_process(
    small_world: SmallWorld, stage: str, tmp_path: Path, no_compiler: dict[str, str]
) -> None:
    plain = small_world.train(stage, tmp_path / "one", "--no-stochastic-depth", data=whole_steps(small_world))
    assert plain.returncode == 0, plain.stderr
    zero = run(two_processes(small_world, stage, tmp_path / "two"), **no_compiler)
    assert zero.returncode == 0, zero.stderr
    assert zero.stdout.count("fixed part sha256") == 1
    assert len(losses(tmp_path / "one")) == STEPS
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-4)


@pytest.mark.slow
def test_zero_resumes_from_a_small_checkpoint(small_world: SmallWorld, tmp_path: Path) -> None:
    whole = run(two_processes(small_world, "pretrain", tmp_path / "whole", "--save-steps", "2"))
    assert whole.returncode == 0, whole.stderr
    out = tmp_path / "cut"
    command = two_processes(small_world, "pretrain", out, "--save-steps", "2")
    process = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    for line in process.stdout:
        if f"step 3/{STEPS}" in line:
            process.send_signal(signal.SIGTERM)
    assert process.wait() != 0

    resumed = run(command)
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads((out / "run.json").read_text())["counts"]["resumed_at_step"] == 2
    assert losses(out) == losses(tmp_path / "whole")
    adapters = [torch.load(path / "mm_projector.bin", weights_only=True) for path in (out, tmp_path / "whole")]
    for name, tensor in adapters[0].items():
        assert torch.equal(tensor, adapters[1][name]), name
    checkpoint = sum(path.stat().st_size for path in out.glob("checkpoint-*/**/*") if path.is_file())
    model = sum(path.stat().st_size for path in (small_world.folder / "models").rglob("*.safetensors"))
    assert checkpoint < model, "frozen weights stay out of a projector checkpoint"


def test_offload_only_where_memory_needs_it() -> None:
    mgm_2b = {"parameters": 3_030_000_000, "image_tokens": 576, "vocabulary": 256_000}
    finetune = {**mgm_2b, "trainable": 2_530_000_000}
    pretrain = {**mgm_2b, "trainable": 20_000_000}
    gib = 1 << 30
    assert not needs_offload(**finetune, processes=1, batch=4, gpu_bytes=80 * gib)
    assert not needs_offload(**finetune, processes=8, batch=4, gpu_bytes=40 * gib)
    assert needs_offload(**finetune, processes=1, batch=4, gpu_bytes=40 * gib)
    assert not needs_offload(**pretrain, processes=1, batch=4, gpu_bytes=40 * gib)


def test_configuration_neither_clips_nor_compiles() -> None:
    config = zero_config(batch=4, accumulation=32, bf16=True, offload=True)
    assert config["zero_optimization"]["stage"] == 2
    assert config["gradient_clipping"] == 0.0
    assert "optimizer" not in config
    assert config["zero_force_ds_cpu_optimizer"] is False
