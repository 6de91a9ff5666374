"""The experiment of image value: its judges, its recipes and what it hands to the lab."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from experiments.mini_world import image_value
from solution.runner.recipe import load_recipe
from tests.solution.image_values import write_values
from toolkit.errors import UserError
from toolkit.files import REPOSITORY
from toolkit.mini.seed import build_seed


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the test's own; draws of four rows; judges that write a file by hand."""
    monkeypatch.setattr(image_value, "WORK", tmp_path)
    monkeypatch.setattr(image_value, "build_seed", lambda *words: build_seed(*words, rows=4))

    def judge(command, **_):
        seed, out = Path(command[4]), Path(command[-1])
        write_values(out, seed, [0.1, 0.2, 0.3, 0.4])
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(image_value.subprocess, "run", judge)
    return tmp_path


def test_every_arm_gets_its_recipe_and_the_values_of_every_draw(work, monkeypatch):
    labs = []
    monkeypatch.setattr(image_value, "make", lambda lab: labs.append(lab) or [])
    monkeypatch.setattr(image_value, "finish", lambda lab, outcomes: 0)
    monkeypatch.setattr(sys, "argv", ["image_value", "--split", "test", "--seeds", "5"])
    assert image_value.main() == 0
    (lab,) = labs
    assert list(lab.arms) == ["raw", "recipe", "reading", "image_value", "image_value_first"]
    assert {(len(arm.seeds), arm.draws) for arm in lab.arms.values()} == {(5, 2)}
    assert [folder.name for folder in lab.reuse] == ["test"]
    for name in ("image_value", "image_value_first"):
        recipe = REPOSITORY / lab.arms[name].source
        kit = yaml.safe_load((image_value.RECIPES / "mini" / f"{name}.yaml").read_text())
        own = yaml.safe_load(recipe.read_text())
        assert own["process"][0]["image_value_filter"].pop("values") == [
            str(work / f"draw_{n}.parquet") for n in (0, 1)
        ]
        kit["process"][0]["image_value_filter"].pop("values")
        assert own == kit
        for draw in (0, 1):
            loaded = load_recipe(recipe, work / f"draw_{draw}" / image_value.SEED_FILE)
            assert (loaded.faults, loaded.remarks) == ((), ())


def test_dev_has_the_thresholds_to_choose_from(work, monkeypatch):
    labs = []
    monkeypatch.setattr(image_value, "make", lambda lab: labs.append(lab) or [])
    monkeypatch.setattr(image_value, "finish", lambda lab, outcomes: 0)
    monkeypatch.setattr(sys, "argv", ["image_value", "--draws", "1"])
    assert image_value.main() == 0
    ranks = {}
    for name, arm in labs[0].arms.items():
        if name.startswith("image_value_first"):
            process = yaml.safe_load((REPOSITORY / arm.source).read_text())["process"]
            ranks[name] = process[0]["image_value_filter"]["min_rank"]
    assert ranks == {"image_value_first": 0.33, "image_value_first_0.2": 0.2, "image_value_first_0.5": 0.5}


def test_a_judge_that_fails_is_told(work, monkeypatch):
    monkeypatch.setattr(image_value.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=1))
    with pytest.raises(UserError, match="draw 1 was not judged"):
        image_value.judged(1)
