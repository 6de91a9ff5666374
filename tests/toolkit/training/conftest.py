"""A world small enough to train in seconds: base models, a preset, images and a data file."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from PIL import Image

from tests import warm
from tests.parity.reference_weights import write_base_models
from toolkit.files import REPOSITORY
from toolkit.presets import PRESET_FOLDER

GOLDENS = Path(__file__).parents[2] / "parity" / "goldens"
IMAGE_SIZE, PATCH, IMAGE_SIZE_AUX = 28, 14, 64
COLOURS = ["red", "green", "blue", "white", "grey"]


@dataclass(frozen=True)
class SmallWorld:
    """Paths of a small world's preset, data and images."""

    folder: Path
    preset: Path
    data: Path
    images: Path

    def write_data(self, name: str, rows: list[dict]) -> Path:
        """Another data file over the same images."""
        path = self.folder / name
        path.write_text(json.dumps(rows))
        return path

    def rows(self) -> list[dict]:
        """The rows of the data file."""
        return json.loads(self.data.read_text())

    def command(self, stage: str, out: Path, *more: str, data: Path | None = None) -> list[str]:
        """Words of a `train` command on one process: batch 2, accumulation 2."""
        words = [sys.executable, "-m", "toolkit", "train", stage, "--preset", str(self.preset)]
        words += ["--data", str(data or self.data), "--images", str(self.images), "--out", str(out), "--workers", "0"]
        return [*words, "--batch", "2", "--accumulation", "2", *more]

    def train(self, stage: str, out: Path, *more: str, data: Path | None = None) -> subprocess.CompletedProcess:
        """Run it."""
        return warm.run(self.command(stage, out, *more, data=data), cwd=REPOSITORY)


def environment(**changes: str) -> dict[str, str]:
    """This process's environment, on one thread."""
    return {**os.environ, "OMP_NUM_THREADS": "1", **changes}


def run(command: list[str], **changes: str) -> subprocess.CompletedProcess:
    """Run a command from the repository root, its output captured."""
    return subprocess.run(command, cwd=REPOSITORY, env=environment(**changes), capture_output=True, text=True)


@pytest.fixture(scope="session")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> SmallWorld:
    """Built once; tests must not change it."""
    folder = tmp_path_factory.mktemp("small_world")
    models = write_base_models(_small_goldens(folder / "rule"), folder / "models")
    images = folder / "images"
    images.mkdir()
    draw = random.Random(0)
    for number in range(6):
        size = (draw.randint(30, 60), draw.randint(30, 60))
        colour = tuple(draw.randint(0, 255) for _ in range(3))
        Image.new("RGB", size, colour).save(images / f"{number}.png")
    rows = []
    for number in range(22):
        answer = " ".join(draw.choices(COLOURS, k=draw.randint(1, 9)))
        row = {"id": f"row{number}", "conversations": [{"from": "human", "value": "Name some colours."}]}
        if number % 4:
            row["image"] = f"{number % 6}.png"
            row["conversations"] = [{"from": "human", "value": "<image>\nWhat is this?"}]
        row["conversations"].append({"from": "gpt", "value": answer})
        rows.append(row)
    data = folder / "data.json"
    data.write_text(json.dumps(rows))
    return SmallWorld(folder, _small_preset(folder, models), data, images)


def _small_goldens(folder: Path) -> Path:
    """A goldens manifest whose main tower sees 28 px."""
    folder.mkdir()
    manifest = json.loads((GOLDENS / "manifest.json").read_text())
    manifest["clip_config"]["image_size"] = IMAGE_SIZE
    for name, shape in manifest["state_dict_finetune"].items():
        if name.endswith("position_embedding.weight"):
            shape[0] = (IMAGE_SIZE // PATCH) ** 2 + 1
    (folder / "manifest.json").write_text(json.dumps(manifest))
    shutil.copytree(GOLDENS / "tiny_tokenizer", folder / "tiny_tokenizer")
    return folder


def _small_preset(folder: Path, models: dict[str, Path]) -> Path:
    values = yaml.safe_load((PRESET_FOLDER / "mini.yaml").read_text())
    values |= {name: str(path) for name, path in models.items()}
    values |= {"image_size_aux": IMAGE_SIZE_AUX, "max_length": 128}
    values["pretrain"] |= {"global_batch": 4, "learning_rate": 1e-2}
    values["finetune"] |= {"global_batch": 4, "learning_rate": 1e-3}
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(values))
    return path
