"""Checkpoints: renamed into place whole, verified, and a damaged one is never resumed from; nor is it in the way."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from tests.toolkit.training.conftest import SmallWorld
from tests.toolkit.training.test_stage import OPTIONS, SETTINGS, model_of, reader_of
from toolkit.errors import UserError
from toolkit.mgm.checkpoint import save_adapter
from toolkit.training import checkpoints
from toolkit.training.checkpoints import FILES, UNFINISHED, last_checkpoint, publish, remove_checkpoints
from toolkit.training.stage import Outcome, fit

DAMAGE = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "emptied": lambda path: path.write_bytes(b""),
    "replaced": lambda path: path.write_bytes(bytes(len(path.read_bytes()))),
    "removed": lambda path: path.unlink(),
}


def write(folder: Path, step: int) -> Path:
    """A checkpoint that is about to be published."""
    written = folder / UNFINISHED / f"checkpoint-{step}"
    (written / "global_step").mkdir(parents=True)
    (written / "trainer_state.json").write_text(f"{step}")
    (written / "global_step" / "optimizer.pt").write_text(f"optimizer {step}")
    return written


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("checkpoint-*"))


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["trainer_state.json", "global_step/optimizer.pt", FILES])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path, name: str, damage: str) -> None:
    for step in (2, 4):
        publish(write(tmp_path, step), tmp_path, limit=2)
    assert last_checkpoint(tmp_path, print) == tmp_path / "checkpoint-4"
    DAMAGE[damage](tmp_path / "checkpoint-4" / name)
    said: list[str] = []
    if (name, damage) == (FILES, "removed"):  # as a folder of the user's
        with pytest.raises(UserError, match="checkpoint-4: no checkpoint of this kit"):
            last_checkpoint(tmp_path, said.append)
        assert names(tmp_path) == ["checkpoint-2", "checkpoint-4"]
        return
    assert last_checkpoint(tmp_path, said.append) == tmp_path / "checkpoint-2"
    assert len(said) == 1
    assert name in said[0]
    assert said[0].endswith("is removed; the one of step 2 is tried")
    DAMAGE["emptied"](tmp_path / "checkpoint-2" / "trainer_state.json")
    assert last_checkpoint(tmp_path, said.append) is None
    assert said[1].endswith("the stage starts from the beginning")


def test_the_older_checkpoint_stays_until_the_new_one_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(write(tmp_path, 2), tmp_path, limit=1)
    written = write(tmp_path, 4)
    assert names(tmp_path) == ["checkpoint-2"]
    monkeypatch.setattr(checkpoints, "fault_of", lambda path: "x is not as it was written")
    with pytest.raises(UserError, match="checkpoint-4: x is not as it was written as soon as it was written"):
        publish(written, tmp_path, limit=1)
    assert "checkpoint-2" in names(tmp_path)
    monkeypatch.undo()
    publish(write(tmp_path, 6), tmp_path, limit=1)
    assert names(tmp_path) == ["checkpoint-6"]


def test_folders_of_the_user_are_never_removed(tmp_path: Path) -> None:
    for name in ("checkpoint-best", "checkpoint-2-copy"):
        (tmp_path / name).mkdir()
    publish(write(tmp_path, 2), tmp_path, limit=1)
    publish(write(tmp_path, 4), tmp_path, limit=1)
    assert last_checkpoint(tmp_path, print) == tmp_path / "checkpoint-4"
    remove_checkpoints(tmp_path)
    assert names(tmp_path) == ["checkpoint-2-copy", "checkpoint-best"]


def test_of_large_files_both_ends_and_the_middle_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "HASHED_BYTES", 10)
    monkeypatch.setattr(checkpoints, "SAMPLE_BYTES", 4)
    content = bytes(range(100))
    for position in (0, 50, 99):
        folder = tmp_path / str(position)
        written = write(folder, 2)
        (written / "big").write_bytes(content)
        publish(written, folder, limit=1)
        changed = bytearray(content)
        changed[position] ^= 1
        (folder / "checkpoint-2" / "big").write_bytes(changed)
        assert checkpoints.fault_of(folder / "checkpoint-2") == "big is not as it was written"


class Killed(Exception):
    """Stands for the end of the process."""


def test_a_resumed_curve_is_the_undisturbed_one(
    small_world: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logging every three steps, saving every two, killed while the third checkpoint's last file is written."""
    rows, reader = small_world.rows(), reader_of(small_world)
    settings = dataclasses.replace(SETTINGS, batch=1, accumulation=2)  # 11 steps
    options = dataclasses.replace(OPTIONS, logging_steps=3, save_steps=2)

    def train(folder: Path) -> Outcome:
        model = model_of(small_world)
        return fit(model, rows, reader, settings, options, folder, lambda to: save_adapter(model, to / "adapter.bin"))

    def curve(outcome: Outcome) -> list[tuple[int, float]]:
        return [(entry["step"], entry["loss"]) for entry in outcome.trainer.state.log_history if "loss" in entry]

    whole = curve(train(tmp_path / "whole"))
    assert [step for step, _ in whole] == [3, 6, 9]

    from toolkit.training import trainer

    def kill(written: Path, folder: Path, limit: int) -> None:
        if written.name == "checkpoint-6":
            (written / "trainer_state.json").write_text('{"epoch": 0.')
            raise Killed
        publish(written, folder, limit)

    monkeypatch.setattr(trainer, "publish", kill)
    with pytest.raises(Killed):
        train(tmp_path / "cut")
    monkeypatch.undo()
    assert names(tmp_path / "cut") == ["checkpoint-4"]
    resumed = train(tmp_path / "cut")
    assert resumed.resumed_at_step == 4
    assert curve(resumed) == whole
    assert torch.isfinite(torch.tensor([loss for _, loss in whole])).all()


class Payload:
    """A pickle that runs code when it is loaded."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "losses_0.pt"])
def test_a_forged_checkpoint_runs_no_code(
    small_world: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from toolkit.training import trainer

    def forge(written: Path, folder: Path, limit: int) -> None:
        assert (written / name).is_file()
        torch.save({"state": Payload(tmp_path / "code was run")}, written / name)
        publish(written, folder, limit)
        raise Killed

    rows, reader = small_world.rows(), reader_of(small_world)
    options = dataclasses.replace(OPTIONS, save_steps=2)

    def train() -> Outcome:
        model = model_of(small_world)
        return fit(
            model, rows, reader, SETTINGS, options, tmp_path / "run", lambda to: save_adapter(model, to / "adapter.bin")
        )

    monkeypatch.setattr(trainer, "publish", forge)
    with pytest.raises(Killed):
        train()
    monkeypatch.undo()
    with pytest.raises(UserError, match="checkpoint-2: one of its files would run code when it is loaded; remove"):
        train()
    assert not (tmp_path / "code was run").exists()
