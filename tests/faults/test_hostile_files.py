"""Files of others that would run code when read: YAML with tags of Python, weights, model folders with own code."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from experiments.lab.labfile import read_lab
from solution.operators.common.aesthetics import load_aesthetics
from solution.operators.common.faults import SetupFault
from solution.operators.common.loader import load_model
from solution.runner import errors
from solution.runner.recipe import load_recipe
from toolkit.errors import UserError
from toolkit.mgm.checkpoint import load_tokenizer
from toolkit.presets import load_preset
from toolkit.weights import look_at_weights, read_weights

CODE = "import pathlib\npathlib.Path({file!r}).touch()\nclass Own: pass\n"


@pytest.mark.parametrize(
    "read",
    [lambda path: load_recipe(path, None), lambda path: load_preset(str(path)), read_lab],
    ids="recipe preset lab".split(),  # noqa: SIM905
)
def test_yaml_makes_no_python_objects(read: Callable[[Path], object], tmp_path: Path) -> None:
    file = tmp_path / "of_others.yaml"
    file.write_text(f"process: !!python/object/apply:pathlib.Path.touch [{tmp_path / 'code was run'}]\n")
    with pytest.raises(
        (UserError, errors.UserError), match=r"of_others\.yaml.*could not determine a constructor"
    ) as found:
        read(file)
    assert "\n" not in str(found.value)
    assert not (tmp_path / "code was run").exists()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model's folder with code of its own, before a user who would say yes to it."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "code.py").write_text(CODE.format(file=str(tmp_path / "code was run")))
    names = {"AutoConfig": "code.Own", "AutoProcessor": "code.Own", "AutoTokenizer": ["code.Own", None]}
    (folder / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": names}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Own", "auto_map": names}))
    (folder / "tokenizer.json").write_text("{}")
    return folder


def test_a_model_folders_own_code_is_never_run(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SetupFault, match="contains custom code"):
        load_model(str(folder), "cpu", torch.float32)
    with pytest.raises(UserError, match="custom code"):
        load_tokenizer(folder)
    assert not (tmp_path / "code was run").exists()


class Payload:
    """A pickle that runs code when it is loaded."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old pickle"])
@pytest.mark.parametrize(
    "read",
    [
        lambda folder: list(read_weights(folder)),
        lambda folder: look_at_weights(folder / "pytorch_model.bin"),
        lambda folder: load_model(str(folder), "cpu", torch.float32),
        lambda folder: load_aesthetics(str(folder), "cpu", torch.float32),
    ],
    ids="toolkit preflight operators aesthetics".split(),  # noqa: SIM905
)
def test_weights_run_no_code(read: Callable[[Path], object], zipped: bool, clip_folder: Path, tmp_path: Path) -> None:
    """The adapter, optimizer, scheduler and DeepSpeed's states have tests in `tests/toolkit/training/`."""
    model = shutil.copytree(clip_folder, tmp_path / "model")
    (model / "model.safetensors").unlink()
    state = {"weight": torch.zeros(1), "code": Payload(tmp_path / "code was run")}
    torch.save(state, model / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    with pytest.raises((UserError, SetupFault)) as found:
        read(model)
    assert str(model) in str(found.value)
    assert not (tmp_path / "code was run").exists()
