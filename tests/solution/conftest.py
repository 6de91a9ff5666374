"""Tiny models of the real classes with random weights, a small seed of images, and a way to run the command."""

import json
import os
import string
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from solution import operators
from solution.runner.data_juicer import register_stock
from tests import warm

ROOT = Path(__file__).parents[2]
# All of them; process.py takes only what a recipe names.
operators.register()
register_stock()
TEXT = "<__dj__image>\n{} <|__dj__eoc|>"


@pytest.fixture(autouse=True)
def score_folder(tmp_path, monkeypatch) -> Path:
    """Every test starts with an empty score store of its own."""
    monkeypatch.setenv("SCORE_STORE", str(tmp_path / "scores"))
    return tmp_path / "scores"


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory) -> Path:
    """A two-layer CLIPModel at 32 px with a byte-level tokenizer without merges."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizerFast
    from transformers.models.clip.tokenization_clip import bytes_to_unicode

    folder = tmp_path_factory.mktemp("clip")
    letters = list(bytes_to_unicode().values())
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizerFast(vocab_file=str(folder / "vocab.json"), merges_file=str(folder / "merges.txt"))
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = sizes | {"vocab_size": len(words), "eos_token_id": len(words) - 1, "bos_token_id": len(words) - 2}
    torch.manual_seed(0)
    model = CLIPModel(
        CLIPConfig(text_config=text, vision_config=sizes | {"image_size": 32, "patch_size": 16}, projection_dim=16)
    )
    for parameter in model.parameters():  # wide weights: scores of different pairs lie apart
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    image_processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(image_processor, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def captioner_folder(tmp_path_factory) -> Path:
    """A two-layer BlipForConditionalGeneration at 32 px that spells letters."""
    from transformers import (
        BertTokenizerFast,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessor,
        BlipProcessor,
    )

    folder = tmp_path_factory.mktemp("captioner")
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "[DEC]",
        "a",
        "red",
        "dog",
        "cat",
        "on",
        "the",
        "blue",
        "car",
    ]
    (folder / "vocab.txt").write_text("\n".join([*words, *string.ascii_lowercase[1:]]) + "\n")
    tokenizer = BertTokenizerFast(vocab_file=str(folder / "vocab.txt"))
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = sizes | {
        "vocab_size": len(tokenizer),
        "bos_token_id": 5,
        "eos_token_id": 3,
        "sep_token_id": 3,
        "pad_token_id": 0,
    }
    torch.manual_seed(1)
    config = BlipConfig(
        text_config=text | {"encoder_hidden_size": 32, "is_decoder": True, "max_position_embeddings": 64},
        vision_config=sizes | {"image_size": 32, "patch_size": 16},
        projection_dim=16,
    )
    model = BlipForConditionalGeneration(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(folder)
    BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return folder


def sample_image(number: int) -> Image.Image:
    """A different image for each number: coloured blocks, 48 x 40 px."""
    blocks = np.random.default_rng(number).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((48, 40), Image.Resampling.NEAREST)


@pytest.fixture
def make_seed(tmp_path) -> Callable[..., Path]:
    """make_seed(captions, token=...) writes images and a jsonl, and returns the jsonl."""

    def make(captions: list[str], token: str = "<__dj__image>", folder: str = "seed") -> Path:
        root = tmp_path / folder
        (root / "images").mkdir(parents=True)
        lines = []
        for number, caption in enumerate(captions):
            name = f"images/{number:03d}.jpg"
            sample_image(number).save(root / name, quality=95)
            text = TEXT.format(caption).replace("<__dj__image>", token)
            lines.append(json.dumps({"id": f"{number:03d}", "text": text, "images": [name]}))
        (root / "seed.jsonl").write_text("\n".join(lines) + "\n")
        return root / "seed.jsonl"

    return make


@pytest.fixture
def make_recipe(tmp_path) -> Callable[..., Path]:
    """make_recipe([{operator: parameters}, ...], key=value ...) writes a recipe and returns its path."""

    def make(process: list, name: str = "trial", **keys) -> Path:
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"process": process} | keys, sort_keys=False))
        return path

    return make


@pytest.fixture
def run_process(tmp_path) -> Callable[..., SimpleNamespace]:
    """Run solution/process.py as a user does; returns code, out, err, rows (None without a result), record, audit."""

    def run(
        recipe: Path, seed: Path | None, *options: str, environment: dict[str, str] | None = None
    ) -> SimpleNamespace:
        output = tmp_path / "output" / "processed_data"
        command = [
            sys.executable,
            str(ROOT / "solution" / "process.py"),
            "--recipe",
            str(recipe),
            "--output",
            str(output),
        ]
        command += ["--dataset", str(seed)] if seed else []
        changed = environment or {}
        # Ray's processes and what PYTHONPATH names are to be met by a Python of their own.
        alone = "ray" in options or "PYTHONPATH" in changed
        start = partial(subprocess.run, capture_output=True, text=True) if alone else warm.run
        done = start([*command, *options], cwd=tmp_path, env=os.environ | changed, timeout=300)
        result, record = output / "processed_data.jsonl", output / "run.json"
        return SimpleNamespace(
            code=done.returncode,
            out=done.stdout,
            err=done.stderr,
            output=output,
            rows=[json.loads(line) for line in result.read_text().splitlines()] if result.exists() else None,
            record=json.loads(record.read_text()) if record.exists() else None,
            audit=output.parent / "audit" / f"{recipe.stem}.parquet",
        )

    return run
