"""DeepSpeed's path on the CPU: two processes, ZeRO-2, fp32, no compiler; the same curve as one plain process."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import pytest
import torch

from tests.toolkit.training.conftest import SmallWorld, environment, run
from tests.toolkit.training.test_checkpoints import Payload
from toolkit.files import REPOSITORY
from toolkit.training.zero import refuse_code_in_checkpoints, zero_config

COMPILERS = ("gcc", "g++", "cc", "c++", "clang", "clang++", "ninja", "nvcc")
STEPS = 20 // 4


@dataclass(frozen=True)
class Equal:
    """Output folders of the same training in one plain process and in two ZeRO-2 processes."""

    plain: Path
    zero: Path


def no_compiler(folder: Path) -> dict[str, str]:
    """Environment whose PATH holds a shell and nothing else."""
    folder.mkdir()
    (folder / "sh").symlink_to("/bin/sh")
    assert not any(shutil.which(name, path=str(folder)) for name in COMPILERS)
    return {"PATH": str(folder), "CXX": "", "CC": ""}


def two_processes(small_world: SmallWorld, stage: str, out: Path) -> list[str]:
    # Twenty rows fill every step, with any number of processes.
    data = small_world.write_data("twenty.json", small_world.rows()[:20])
    words = ["--accumulation", "1", "--save-steps", "2", "--no-stochastic-depth", "--deepspeed"]
    return small_world.command(stage, out, *words, data=data)


@pytest.fixture(scope="module", params=["pretrain", "finetune"])
def equal(request: pytest.FixtureRequest, small_world: SmallWorld, tmp_path_factory: pytest.TempPathFactory) -> Equal:
    folder = tmp_path_factory.mktemp(request.param)
    zero = run(two_processes(small_world, request.param, folder / "zero"), **no_compiler(folder / "bin"))
    assert zero.returncode == 0, zero.stderr
    assert zero.stdout.count("fixed part sha256") == 1
    data = small_world.folder / "twenty.json"
    plain = small_world.train(request.param, folder / "plain", "--no-stochastic-depth", data=data)
    assert plain.returncode == 0, plain.stderr
    return Equal(folder / "plain", folder / "zero")


def losses(out: Path) -> list[float]:
    history = json.loads((out / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


@pytest.mark.slow
def test_two_zero_processes_equal_one_plain_process(equal: Equal) -> None:
    assert len(losses(equal.plain)) == STEPS
    assert losses(equal.zero) == pytest.approx(losses(equal.plain), abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("equal", ["pretrain"], indirect=True)
def test_zero_resumes_from_a_small_checkpoint(small_world: SmallWorld, equal: Equal, tmp_path: Path) -> None:
    out = tmp_path / "cut"
    command = two_processes(small_world, "pretrain", out)
    process = subprocess.Popen(
        command, cwd=REPOSITORY, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if f"step 3/{STEPS}" in line:
            process.send_signal(signal.SIGTERM)
    assert process.wait() == 1
    assert "run the same command again to resume" in process.stderr.read()

    resumed = run(command)
    assert resumed.returncode == 0, resumed.stderr
    record = json.loads((out / "run.json").read_text())
    assert record["counts"]["resumed_at_step"] == 2
    assert [attempt["exit"] for attempt in record["attempts"]] == [1, 0]
    assert losses(out) == losses(equal.zero)
    adapters = [torch.load(path / "mm_projector.bin", weights_only=True) for path in (out, equal.zero)]
    for name, tensor in adapters[0].items():
        assert torch.equal(tensor, adapters[1][name]), name
    checkpoint = sum(path.stat().st_size for path in out.glob("checkpoint-*/**/*") if path.is_file())
    model = sum(path.stat().st_size for path in (small_world.folder / "models").rglob("*.safetensors"))
    assert checkpoint < model, "frozen weights stay out of a projector checkpoint"


def test_configuration_neither_clips_nor_compiles() -> None:
    config = zero_config(batch=4, accumulation=32, bf16=True, offload=True)
    assert config["zero_optimization"]["stage"] == 2
    assert config["gradient_clipping"] == 0.0
    assert "optimizer" not in config
    assert config["zero_force_ds_cpu_optimizer"] is False


class ByName:
    """Pickled as Python up to 3.11.3 does a member of an enumeration."""

    def __init__(self, kind: type, name: str):
        self.said = getattr, (kind, name)

    def __reduce__(self) -> tuple:
        return self.said


def test_deepspeeds_states_run_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It loads them with an unpickler that would."""
    from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum

    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "")
    own = {"loss_scaler": LossScaler(scale=1), "zero_stage": ZeroStageEnum(2), "parts": [torch.ones(2)]}
    torch.save(own | {"by_name": ByName(ZeroStageEnum, "gradients")}, tmp_path / "own.pt")
    torch.save(own | {"parts": Payload(tmp_path / "code was run")}, tmp_path / "forged.pt")
    torch.save(own | {"by_name": ByName(LossScaler, "backward")}, tmp_path / "attribute.pt")
    refuse_code_in_checkpoints()
    engine = TorchCheckpointEngine()
    loaded = engine.load(tmp_path / "own.pt")
    assert (loaded["zero_stage"], loaded["by_name"]) == (2, ZeroStageEnum.gradients)
    for name in ("forged.pt", "attribute.pt"):
        with pytest.raises(UnpicklingError):
            engine.load(tmp_path / name)
    assert not (tmp_path / "code was run").exists()
