"""What tests of all folders share: the order of files, a clean checkout, and a small seed with its preset."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from PIL import Image

from toolkit.files import REPOSITORY
from toolkit.presets import PRESET_FOLDER

# For this process and all that tests start: more threads would spin while they wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
TINY_TOKENIZER = Path(__file__).parent / "parity" / "goldens" / "tiny_tokenizer"


# Files that take minutes, longest first: two workers then end at about the same time.
LONGEST = ("test_quickstart.py",)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bring the longest files to the front; the others keep their order."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


def checkout(folder: Path) -> Path:
    """A copy of the workspace as git has it: no downloads, no results of earlier runs."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, folder / name)
    return folder


@dataclass(frozen=True)
class SmallSeed:
    """Images images/0.png to images/5.png, ids s0 to s5 with the question `Q<n>?`, and a preset that names them.

    Args:
        folder: holds the seed's images and stage_1.json.
        preset: a preset file with a cap of 8 rows, the goldens' tokenizer, and every path inside the test's folder.
        processed: folder for `processed_data.jsonl` and `synthetic_images/`.
    """

    folder: Path
    preset: Path
    processed: Path

    def row(self, number: int, **changes: object) -> dict:
        """The valid row of image `number`, some fields replaced."""
        row = {
            "id": f"s{number}",
            "images": [f"images/{number}.png"],
            "text": f"<image>\nA dress {number}. <|__dj__eoc|>",
        }
        return row | changes

    def write(self, *lines: dict | str) -> Path:
        """Write rows, or raw lines, as processed_data.jsonl."""
        file = self.processed / "processed_data.jsonl"
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        file.write_text("".join(text + "\n" for text in texts))
        return file

    def arguments(self, file: Path) -> list[str]:
        """The arguments that `check` and `prepare` share."""
        return [str(file), "--images", str(self.folder), "--preset", str(self.preset)]


@pytest.fixture
def small_seed(tmp_path: Path) -> SmallSeed:
    """A new small seed in the test's own folder."""
    folder, processed = tmp_path / "seed", tmp_path / "processed"
    (folder / "images").mkdir(parents=True)
    (processed / "synthetic_images").mkdir(parents=True)
    for number in range(6):
        Image.new("RGB", (20 + number, 24), (40 * number, 90, 60)).save(folder / "images" / f"{number}.png")
    Image.new("RGB", (24, 24)).save(processed / "synthetic_images" / "a.png")
    originals = [
        {
            "id": f"s{number}",
            "image": f"images/{number}.png",
            "conversations": [
                {"from": "human", "value": f"Q{number}?\n<image>"},
                {"from": "gpt", "value": f"old {number}"},
            ],
        }
        for number in range(6)
    ]
    (folder / "stage_1.json").write_text(json.dumps(originals))
    (tmp_path / "tower").mkdir()
    (tmp_path / "tower" / "config.json").write_text('{"vision_config": {"image_size": 96, "patch_size": 16}}')

    values = yaml.safe_load((PRESET_FOLDER / "mini.yaml").read_text())
    values |= {
        "seed_images": str(folder),
        "questions": str(folder / "stage_1.json"),
        "sample_cap": 8,
        "llm": str(TINY_TOKENIZER),
        "vision_tower": str(tmp_path / "tower"),
    }
    preset = tmp_path / "small.yaml"
    preset.write_text(yaml.safe_dump(values))
    return SmallSeed(folder, preset, processed)


@pytest.fixture(autouse=True)
def _whole_images_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing Data-Juicer makes Pillow accept truncated images, for every later test of the process."""
    from PIL import ImageFile

    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", False)
