"""Warnings about stages that ended, and whether a disk holds one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.toolkit.training.conftest import SmallWorld
from tests.toolkit.training.test_stage import OPTIONS, SETTINGS, model_of, reader_of
from toolkit.errors import UserError
from toolkit.mgm.checkpoint import save_adapter
from toolkit.training import disk
from toolkit.training.disk import checkpoint_bytes, weights_bytes
from toolkit.training.health import warnings_of
from toolkit.training.memory import sizes_of
from toolkit.training.stage import fit


def history(*losses: float) -> list[dict[str, float]]:
    return [{"step": number, "loss": loss} for number, loss in enumerate(losses, 1)] + [{"train_runtime": 1.0}]


@pytest.mark.parametrize(
    ("stage", "steps", "losses", "unchanged", "warned"),
    [
        ("pretrain", 100, (4.0, 3.0, 2.5, 2.4, 2.3), False, ""),
        ("pretrain", 100, (4.0, 4.1, 3.9, 4.0, 3.99), False, "the loss has not fallen (from 4.0000 to 3.9900)"),
        ("finetune", 100, (1.0, 1.0, 1.0, 1.0, 1.0), False, ""),
        ("pretrain", 10, (4.0, 4.0, 4.0, 4.0, 4.0), False, ""),
        ("pretrain", 100, (4.0,), False, ""),
        ("finetune", 100, (1.0, 0.9), True, "no weight has changed"),
        ("pretrain", 1, (4.0,), True, ""),
    ],
)
def test_warnings(stage: str, steps: int, losses: tuple[float, ...], unchanged: bool, warned: str) -> None:
    found = warnings_of(stage, steps, history(*losses), unchanged)
    assert len(found) == bool(warned)
    assert all(text.startswith(warned) for text in found)


def test_a_stage_whose_gradients_are_zero_is_warned_about(small_world: SmallWorld, tmp_path: Path) -> None:
    rows, reader = small_world.rows(), reader_of(small_world)
    model = model_of(small_world)
    assert fit(model, rows, reader, SETTINGS, OPTIONS, tmp_path / "sound", lambda _folder: None).warnings == []
    for parameter in model.adapter_parameters().values():
        parameter.register_hook(torch.zeros_like)
    (warning,) = fit(model, rows, reader, SETTINGS, OPTIONS, tmp_path / "zero", lambda _folder: None).warnings
    assert warning.startswith("no weight has changed: every gradient was zero")


def test_a_disk_without_room_is_refused_before_the_first_step(
    small_world: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The estimate is what a checkpoint takes, give or take the small files."""
    model, rows, reader = model_of(small_world), small_world.rows(), reader_of(small_world)
    sizes = sizes_of(model)
    weights = lambda folder: save_adapter(model, folder / "mm_projector.bin")  # noqa: E731
    fit(model, rows, reader, SETTINGS, dataclasses.replace(OPTIONS, save_steps=2), tmp_path, weights)
    taken = sum(path.stat().st_size for path in tmp_path.glob("checkpoint-*/*"))
    one = checkpoint_bytes(sizes, "pretrain", "fp32")
    assert taken < one < 2 * taken
    needed = 2 * one + weights_bytes(sizes, "pretrain", "fp32")
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _path: SimpleNamespace(free=needed - 1))
    other = dataclasses.replace(SETTINGS, order_seed=43)
    with pytest.raises(UserError, match=r"pretrain needs up to .* GB there .*; make room$"):
        fit(model, rows, reader, other, OPTIONS, tmp_path / "full", weights)
    assert not (tmp_path / "full").exists()
