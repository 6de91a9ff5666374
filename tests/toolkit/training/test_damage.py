"""Every file of a model folder, an adapter and a data file, damaged: one line that names it, never a trace."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from tests.toolkit.training.conftest import SmallWorld
from tests.toolkit.training.test_stage import model_of
from toolkit.__main__ import main
from toolkit.errors import UserError
from toolkit.mgm.checkpoint import load_adapter, load_tokenizer, save_adapter, save_finetuned

DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda content: content[: len(content) // 2],
    "emptied": lambda _content: b"",
    "a page of the web": lambda _content: b"<html>404 not found</html>\n" * 20,
    "zeros": lambda content: bytes(len(content)),
    "null": lambda _content: b"null",
    "other values": lambda content: content.replace(b'": ', b'": "x", "a": '),
}
BASE = ("llm", "vision_tower", "vision_tower_aux")


def attempt(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    """Run a command that is to be refused; returns the one line it says."""
    assert main(words) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def damaged(folder: Path, kind: str) -> list[Path]:
    """Files of a model folder that this kind of damage changes and that decide anything."""
    idle = ["generation_config.json"] + ["special_tokens_map.json"] * (kind == "other values")
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and path.name not in idle]
    return [path for path in files if DAMAGE[kind](path.read_bytes()) != path.read_bytes()]


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_base_model_is_named(
    small_world: SmallWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    values = yaml.safe_load(small_world.preset.read_text())
    for name in BASE:
        values[name] = str(shutil.copytree(values[name], tmp_path / name))
    preset = tmp_path / "own.yaml"
    preset.write_text(yaml.safe_dump(values))
    out = tmp_path / "out"
    words = [*small_world.command("pretrain", out)[3:], "--preset", str(preset)]
    for file in [path for name in BASE for path in damaged(tmp_path / name, kind)]:
        content = file.read_bytes()
        file.write_bytes(DAMAGE[kind](content))
        error = attempt(capsys, words)
        assert str(file) in error or f"{file.parent}: its tokenizer is damaged" in error
        file.write_bytes(content)


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_finetuned_model_is_named(
    small_world: SmallWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    values = yaml.safe_load(small_world.preset.read_text())
    folder = tmp_path / "model"
    save_finetuned(model_of(small_world), load_tokenizer(Path(values["llm"])), folder)
    words = ["ask", "--model", str(folder), "--image", str(small_world.images / "0.png"), "What is this?"]
    for file in damaged(folder, kind):
        content = file.read_bytes()
        file.write_bytes(DAMAGE[kind](content))
        error = attempt(capsys, words)
        assert str(file) in error or f"{file.parent}: its tokenizer is damaged" in error
        file.write_bytes(content)


@pytest.mark.parametrize("kind", [kind for kind in DAMAGE if kind != "other values"])
def test_a_damaged_adapter_or_data_file_is_named(
    small_world: SmallWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    adapter, data = tmp_path / "mm_projector.bin", tmp_path / "data.json"
    save_adapter(model_of(small_world), adapter)
    shutil.copy(small_world.data, data)
    words = small_world.command("finetune", tmp_path / "out", "--adapter", str(adapter), data=data)[3:]
    for file in (adapter, data):
        content = file.read_bytes()
        file.write_bytes(DAMAGE[kind](content))
        assert str(file) in attempt(capsys, words)
        file.write_bytes(content)


def test_weights_that_are_not_finite_are_neither_saved_nor_loaded(small_world: SmallWorld, tmp_path: Path) -> None:
    adapter = tmp_path / "mm_projector.bin"
    model = model_of(small_world)
    save_adapter(model, adapter)
    saved = torch.load(adapter, weights_only=True)
    name = "model.mm_projector.0.bias"
    saved[name][0] = torch.nan
    torch.save(saved, adapter)
    with pytest.raises(UserError, match=f"{name} is not finite: the training that made this adapter has failed"):
        load_adapter(model, adapter)
    model.model.mm_projector[0].bias.data[0] = torch.inf
    for save in (
        lambda: save_adapter(model, tmp_path / "new" / "mm_projector.bin"),
        lambda: save_finetuned(model, None, tmp_path / "new"),
    ):
        with pytest.raises(UserError, match="is not finite: training has failed"):
            save()
    assert not (tmp_path / "new").exists()
