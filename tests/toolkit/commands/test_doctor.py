"""python -m toolkit doctor: what is there, what is missing, and the command that brings it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from toolkit.__main__ import main
from toolkit.download import inventory
from toolkit.download.inventory import commands_for, needs_of_preset, needs_of_recipe
from toolkit.download.manifest import load_manifest
from toolkit.files import REPOSITORY
from toolkit.presets import load_preset

RECIPES = sorted((REPOSITORY / "solution/recipes").rglob("*.yaml"))


def test_the_mini_preset_and_its_recipe_can_run(capsys):
    assert main(["doctor", "--preset", "mini"]) == 0
    assert main(["doctor", "--recipe", "mini"]) == 0
    out = capsys.readouterr().out
    assert "preset mini  can run" in out
    assert "recipe     mini can run" in out
    assert "lacks" not in out


@pytest.mark.parametrize(("name", "command"), [("full", "bash download.sh"), ("10k", "bash download_10k_baseline.sh")])
def test_a_preset_that_cannot_run_is_a_failure_with_the_command(name, command, capsys):
    assert main(["doctor", "--preset", name]) == 1
    out, err = capsys.readouterr()
    assert f"  do       {command}\n" in out
    assert "  lacks    language model: toolkit/training/model_zoo/LLM/gemma/gemma-2b-it" in out
    assert err == f"error: the preset {name} cannot run here: see above\n"


def test_without_a_question_the_mini_world_decides(capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    lines = dict(line.split(maxsplit=1) for line in out.partition("recipes\n")[2].splitlines())
    assert lines.keys() == {path.relative_to(RECIPES[0].parent).with_suffix("").as_posix() for path in RECIPES}
    assert lines["mini/datacomp"] == "can run"
    assert lines["words"] == "python -m toolkit download --only seed"


def test_an_unknown_recipe_is_answered_with_the_names(capsys):
    assert main(["doctor", "--recipe", "defualt"]) == 1
    assert "\n  default\n" in capsys.readouterr().err


def test_every_need_of_the_kit_has_a_command():
    """A download brings all that presets and recipes name, but what a recipe's head says to place by hand."""
    known = {resource.name for resource in load_manifest()}
    needs = [need for name in ("full", "10k") for need in needs_of_preset(load_preset(name))]
    needs += [need for path in RECIPES for need in needs_of_recipe(path) if "mini" not in need.path.parts]
    for need in needs:
        (command,) = commands_for([need])
        words = command.split()
        if words[0] == "put":
            assert need.what == "llava-1.5-7b-hf"
        else:
            assert words[:5] == ["python", "-m", "toolkit", "download", "--only"]
            assert words[5] in known


def test_the_script_of_a_preset_brings_all_that_it_needs():
    for name in ("full", "10k"):
        brought = {resource.name for resource in load_manifest() if name in resource.kits}
        (command,) = commands_for(needs_of_preset(load_preset(name)))
        assert set(command.split()[-1].split(",")) <= brought


def test_a_model_folder_without_weights_is_not_there(tmp_path: Path):
    preset = load_preset("mini")
    shutil.copytree(preset.llm, tmp_path / "llm")
    need = inventory.Need("language model", tmp_path / "llm", is_model=True, has_weights=True)
    assert need.is_there
    for file in [*need.path.glob("*.safetensors"), *need.path.glob("*.bin")]:
        file.unlink()
    assert not need.is_there


def test_a_broken_recipe_is_one_line(tmp_path: Path, capsys):
    (tmp_path / "bad.yaml").write_text("a: [")
    assert main(["doctor", "--recipe", str(tmp_path / "bad.yaml")]) == 1
    assert capsys.readouterr().err.count("\n") == 1
