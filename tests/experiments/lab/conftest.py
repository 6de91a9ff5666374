"""A lab at toy size on the committed models: 60 pairs, 24 of them trained, 16 finetuning rows, 10 questions each."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.lab.bench import Bench
from experiments.lab.labfile import Lab, lab_of
from experiments.lab.worlds import SEED_FILE
from toolkit.files import REPOSITORY, read_json, read_jsonl, write_json, write_jsonl
from toolkit.mini.seed import build_seed
from toolkit.presets import load_preset

ROWS, CAP, QUESTIONS = 60, 24, 10
WORLD = {"rows": ROWS, "questions": QUESTIONS, "draws": 2}


@pytest.fixture(scope="session")
def toy_preset(tmp_path_factory) -> Path:
    """A preset's YAML file: the mini preset with 16 finetuning rows."""
    folder = tmp_path_factory.mktemp("toy")
    write_json(folder / "finetune.json", read_json(load_preset("mini").finetune_data)[:16])
    values = yaml.safe_load((REPOSITORY / "toolkit" / "presets" / "mini.yaml").read_text(encoding="utf-8"))
    values["finetune_data"] = str(folder / "finetune.json")
    (folder / "toy.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return folder / "toy.yaml"


@pytest.fixture(scope="session")
def output(tmp_path_factory) -> Path:
    """Folder of the seeds, questions and cells that tests share."""
    return tmp_path_factory.mktemp("lab_output")


@pytest.fixture(scope="session")
def kept_file(tmp_path_factory) -> Path:
    """A finished processed_data.jsonl: the first ten rows of the toy world's draw 0."""
    folder = tmp_path_factory.mktemp("kept")
    build_seed(folder / "seed", folder / "truth.jsonl", 0, ROWS)
    rows = [row for _, row in read_jsonl(folder / "seed" / SEED_FILE)]
    write_jsonl(folder / "processed_data.jsonl", rows[:10])
    return folder / "processed_data.jsonl"


@pytest.fixture
def toy(toy_preset: Path, output: Path, tmp_path: Path):
    """toy(arms, seeds=[0], world=None, **keys): a lab with records of its own."""

    def make(arms: dict[str, Any], **keys: Any) -> Lab:
        values = {"preset": str(toy_preset), "seeds": [0], "sample_cap": CAP, "world": WORLD} | keys
        values = {"output": str(output), "records": str(tmp_path / "records")} | values
        return lab_of({key: value for key, value in values.items() if value is not None} | {"arms": arms}, "toy", "toy")

    return make


@pytest.fixture
def bench(toy) -> Bench:
    """A bench whose lab has every control, sized after ten rows."""
    controls = ("none", "raw", "clean", "no_mismatched", "no_blur")
    lab = toy({name: name for name in controls} | {"random": "random", "reversed": "reversed", "kept": "mini"})
    return Bench(lab)


def with_seed(lab: Lab, *seeds: int) -> Lab:
    """The lab with other seeds in every arm."""
    arms = {name: dataclasses.replace(arm, seeds=seeds) for name, arm in lab.arms.items()}
    return dataclasses.replace(lab, arms=arms)
