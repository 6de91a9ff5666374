"""A seed of good and bad image files, and the readers: each takes the lines of a file and gives a verdict on each."""

from __future__ import annotations

import json
import os
import stat
import struct
import subprocess
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from tests.conftest import TINY_TOKENIZER
from toolkit.__main__ import main as toolkit
from toolkit.dataset.rows import END_OF_CHUNK, IMAGE_TOKENS, ImageRoots
from toolkit.files import REPOSITORY
from toolkit.mgm.checkpoint import load_tokenizer
from toolkit.presets import PRESET_FOLDER
from toolkit.training.data import SampleReader, scan

# Line from 1 -> what is wrong with it; a line that is not there is accepted.
Verdicts = dict[int, str]

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
ORIENTATION = 0x0112
RECIPE = [
    {"remove_specific_chars_mapper": {"chars_to_remove": "◆"}},
    {"text_length_filter": {"min_len": 0, "max_len": 1_000_000_000}},
]


@dataclass(frozen=True)
class World:
    """A seed's folder with images, its original questions, and the folder of a recipe's result."""

    folder: Path

    @property
    def seed(self) -> Path:
        """The image root; also holds the seed's rows."""
        return self.folder / "seed"

    @property
    def preset(self) -> Path:
        """A preset that names this seed and the goldens' tokenizer."""
        return self.folder / "preset.yaml"

    def build(self) -> World:
        """Write everything."""
        images = self.seed / "images"
        images.mkdir(parents=True)
        (self.folder / "elsewhere").mkdir()
        for folder in ("seed", "processed"):
            (self.folder / folder / "synthetic_images").mkdir(parents=True)
            noise(3).save(self.folder / folder / "synthetic_images" / "made.png")
        noise(1).save(self.folder / "elsewhere" / "good.png")
        noise(2).save(self.folder / "good.png")
        write_good_images(images)
        write_bad_images(images)
        noise(4).save(self.seed / "12:30.png")
        (self.seed / "linked").symlink_to("images")
        (self.seed / "outside").symlink_to(self.folder / "elsewhere")
        (images / "link_inside.png").symlink_to("good.png")
        (images / "link_outside.png").symlink_to(self.folder / "good.png")
        (images / "link_device.png").symlink_to("/dev/zero")
        (images / "link_nowhere.png").symlink_to("nowhere.png")
        (images / "link_circle.png").symlink_to("link_circle.png")
        os.mkfifo(images / "pipe.png")
        os.mknod(images / "socket.png", stat.S_IFSOCK | 0o600)
        (self.folder / "tower").mkdir()
        (self.folder / "tower" / "config.json").write_text('{"vision_config": {"image_size": 96, "patch_size": 16}}')
        asked = [(f"text-{number}", "What is a dress?") for number in range(1, 5)] + [
            (name, "What is\n<image>?") for name in ("image-1", "1")
        ]
        originals = [
            {"id": name, "conversations": [{"from": "human", "value": value}, {"from": "gpt", "value": "old"}]}
            for name, value in asked
        ]
        (self.seed / "stage_1.json").write_text(json.dumps(originals))
        values = yaml.safe_load((PRESET_FOLDER / "mini.yaml").read_text()) | {
            "seed_images": str(self.seed),
            "questions": str(self.seed / "stage_1.json"),
            "llm": str(TINY_TOKENIZER),
            "vision_tower": str(self.folder / "tower"),
        }
        self.preset.write_text(yaml.safe_dump(values))
        return self

    def write(self, content: bytes, folder: Path) -> Path:
        """The bytes as a file of rows."""
        file = folder / "processed_data.jsonl"
        file.write_bytes(content)
        return file

    def convert(self, content: bytes) -> Verdicts:
        """`toolkit convert dj-to-llava`."""
        file = self.write(content, self.folder / "processed")
        words = ["--questions", str(self.seed / "stage_1.json"), "--on-error", "skip"]
        return self._skipped(["convert", "dj-to-llava", str(file), *words])

    def prepare(self, content: bytes) -> Verdicts:
        """`toolkit prepare`."""
        file = self.write(content, self.folder / "processed")
        return self._skipped(["prepare", *self._arguments(file), "--on-error", "skip"])

    def check(self, content: bytes) -> Verdicts:
        """`toolkit check`."""
        file, report = self.write(content, self.folder / "processed"), self.folder / "report.json"
        toolkit(["check", *self._arguments(file), "--json", str(report), "--on-error", "skip"])
        found = json.loads(report.read_text())
        assert found["not_checked"] == []
        return {fault["line"]: fault["reason"] for fault in found["faults"]}

    def train(self, rows: Sequence[dict[str, Any]]) -> Verdicts:
        """The scan before a training, of samples; lines are counted from 1."""
        roots = ImageRoots(self.seed, self.folder / "processed")
        reader = SampleReader(roots, load_tokenizer(TINY_TOKENIZER), 96, "pad", 2048, 36)
        return {index + 1: fault.reason for index, fault in scan(rows, reader).faults.items()}

    def process(self, content: bytes, *operators: dict[str, Any]) -> tuple[Verdicts, list[dict[str, Any]]]:
        """`solution/process.py` with RECIPE and further operators; also the rows of its result."""
        recipe, output = self.folder / "recipe.yaml", self.folder / "output" / "processed_data"
        recipe.write_text(yaml.safe_dump({"process": [*RECIPE, *operators]}))
        seed = self.write(content, self.seed)
        command = [sys.executable, str(REPOSITORY / "solution" / "process.py"), "--recipe", str(recipe)]
        command += ["--dataset", str(seed), "--output", str(output), "--overwrite", "--max-failed", "1"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        failed = json.loads((output / "run.json").read_text())["failed"]
        assert {row["operator"] for row in failed} <= {"read_and_check_images"}
        rows = [json.loads(line) for line in (output / "processed_data.jsonl").read_text().split("\n")[:-1]]
        return {row["row"]: row["reason"] for row in failed}, rows

    def _arguments(self, file: Path) -> list[str]:
        return [str(file), "--images", str(self.seed), "--preset", str(self.preset)]

    def _skipped(self, words: list[str]) -> Verdicts:
        out = self.folder / "out.json"
        assert toolkit([*words, "--out", str(out)]) == 0
        record = json.loads(out.with_suffix(".run.json").read_text())
        return {int(row["file"].rpartition(":")[2]): row["reason"] for row in record["skipped"]}


def sample_of(row: dict[str, Any]) -> dict[str, Any]:
    """The training sample that a row stands for, even if something is wrong with it."""
    images = row.get("images") or []
    caption = row["text"].strip().removesuffix(END_OF_CHUNK).strip()
    for token in IMAGE_TOKENS:
        caption = caption.removeprefix(token).removesuffix(token)
    question = "<image>\nWhat is this?" if images else "What is this?"
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": caption.strip()}]
    sample = {"id": row.get("id"), "conversations": turns}
    return sample | ({"image": images[0] if len(images) == 1 else images} if images else {})


def noise(strength: int, size: tuple[int, int] = (24, 20), mode: str = "RGB") -> Image.Image:
    """An image of noise, so that a file that is cut short lacks pixels."""
    return Image.effect_noise(size, 10 * strength).convert(mode)


def write_good_images(folder: Path) -> None:
    """Odd files that every reader opens."""
    for name in (
        "good.png",
        "other.png",
        "裙子 é.png",
        "a #%'\"&;.png",
        "UPPER.PNG",
        "plain.bmp",
        "plain.tiff",
        "plain.ppm",
    ):
        noise(5).save(folder / name)
    noise(5).save(folder / "noending", "PNG")
    noise(5, (1, 500)).save(folder / "long.png")
    noise(5, (1, 4000)).save(folder / "far_too_long.png")
    noise(5, (2, 3000)).save(folder / "far_too_long.jpg")
    Image.new("1", (20_000, 200)).save(folder / "far_too_wide.png")
    noise(5, (1, 1)).save(folder / "one_pixel.png")
    for name, mode in [("cmyk.jpg", "CMYK"), ("palette.png", "P"), ("alpha.png", "RGBA"), ("grey.jpg", "L")]:
        noise(6, mode=mode).save(folder / name)
    Image.new("I;16", (24, 20), 999).save(folder / "deep.png")
    frames = {"save_all": True, "append_images": [noise(7), noise(8)]}
    noise(6).save(folder / "animated.gif", **frames)
    noise(6).save(folder / "animated.webp", **frames)
    noise(6).save(folder / "views.mpo", **frames)
    turned = Image.Exif()
    turned[ORIENTATION] = 6
    noise(6).save(folder / "turned.jpg", exif=turned)
    noise(6).save(folder / "bad_exif.jpg", exif=b"Exif\0\0none of it")
    noise(6).save(folder / "gif_named.jpg", "GIF")
    noise(6).save(folder / "webp_named.jpg", "WEBP")
    noise(6).save(folder / "still.avif")


def write_bad_images(folder: Path) -> None:
    """Files that no reader may accept as an image."""
    (folder / "empty.jpg").touch()
    for name in ("cut.jpg", "cut.png"):
        noise(9, (64, 64)).save(folder / name)
        (folder / name).write_bytes((folder / name).read_bytes()[:-200])
    (folder / "page.jpg").write_text("<!DOCTYPE html><html><body>404 Not Found</body></html>")
    (folder / "drawing.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>')
    (folder / "program.jpg").write_bytes(POSTSCRIPT)
    (folder / "program.eps").write_bytes(POSTSCRIPT)
    (folder / "text.jpg").write_text("no image")
    (folder / "archive.jpg").write_bytes(b"PK\3\4" + bytes(60))
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(60_000))), (b"IEND", b"")]
    (folder / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in bomb))


def chunk(kind: bytes, content: bytes) -> bytes:
    """A part of a PNG file."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
