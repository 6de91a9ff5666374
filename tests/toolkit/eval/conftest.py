"""A tiny MGM with random weights on disk, and a preset whose benchmarks lie in the test's folder."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from tests.conftest import TINY_TOKENIZER
from toolkit.mgm.checkpoint import load_tokenizer, save_finetuned
from toolkit.mgm.model import MGMConfig, MGMGemmaForCausalLM
from toolkit.presets import PRESET_FOLDER

MMBENCH_HEADER = "index question hint A B C D answer category image source l2-category comment".split()  # noqa: SIM905


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finetuned MGM: 4 tokens per image, weights wide enough to make answers differ."""
    torch.manual_seed(3)
    config = MGMConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        vocab_size=600,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
        initializer_range=0.4,
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
        vision_config_aux={"dims": [8, 16], "depths": [1, 1]},
        image_size_aux=64,
        image_aspect_ratio="pad",
        mm_vision_tower="clip",
        mm_vision_tower_aux="convnext",
    )
    folder = tmp_path_factory.mktemp("model") / "MGM-Tiny-Finetune-test"
    save_finetuned(MGMGemmaForCausalLM(config), load_tokenizer(TINY_TOKENIZER), folder)
    return folder


@dataclass(frozen=True)
class Benchmarks:
    """Twelve TextVQA questions on four images and six MMBench questions on three.

    Args:
        preset: file of a preset that names them, with 12 new tokens an answer.
        textvqa: the question file.
        annotations: its answers: "open" ten times for every question.
        mmbench: the table; the right answer is always A.
        images: folder of TextVQA's images.
    """

    preset: Path
    textvqa: Path
    annotations: Path
    mmbench: Path
    images: Path


@pytest.fixture
def benchmarks(tmp_path: Path) -> Benchmarks:
    """New benchmark files in the test's own folder."""
    files = Benchmarks(
        *(tmp_path / name for name in ("tiny.yaml", "textvqa.jsonl", "annotations.json", "mmbench.tsv", "images"))
    )
    files.images.mkdir()
    questions, annotations, images = [], [], []
    for number in range(4):
        image = Image.new("RGB", (40 + 8 * number, 48), (60 * number, 200 - 50 * number, 90))
        image.paste((255, 255, 255), (5 * number, 8, 30, 20))
        image.save(files.images / f"{number}.png")
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        images.append(base64.b64encode(buffer.getvalue()).decode())
    for number in range(12):
        text = f"what is sign {'very ' * number}big?"
        prompt = f"{text}\nReference OCR token: BUS\nAnswer the question using a single word or phrase."
        image_id = str(number % 4)
        questions.append({"question_id": image_id, "image": f"{image_id}.png", "text": prompt, "category": "default"})
        annotations.append({"question_id": number, "image_id": image_id, "question": text, "answers": ["open"] * 10})
    files.textvqa.write_text("".join(json.dumps(question) + "\n" for question in questions))
    files.annotations.write_text(json.dumps({"data": annotations}))
    rows = [MMBENCH_HEADER]
    for number in range(6):
        index = str(number % 3 + 1_000_000 * (number // 3))
        rows.append([index, f"which {'one ' * number}?", "", "red", "blue", "", "", "A", "colour"])
        rows[-1] += [images[number % 3], "x", "x", ""]
    files.mmbench.write_text("".join("\t".join(row) + "\n" for row in rows))

    preset = yaml.safe_load((PRESET_FOLDER / "mini.yaml").read_text())
    preset["run_name"] = "MGM-Tiny"
    preset["textvqa"] = {
        "questions": str(files.textvqa),
        "images": str(files.images),
        "annotations": str(files.annotations),
        "max_new_tokens": 12,
    }
    preset["mmbench"] = {"questions": str(files.mmbench), "max_new_tokens": 12}
    files.preset.write_text(yaml.safe_dump(preset))
    return files
