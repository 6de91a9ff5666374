"""What the benchmarks run on: MGM of any preset with random weights, rows of real lengths, the device's matmul rate."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from toolkit.mgm.checkpoint import build_model
from toolkit.mgm.conversation import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from toolkit.mgm.model import MGMConfig, MGMGemmaForCausalLM
from toolkit.presets import INITIALISATION_SEED, Preset, load_preset
from toolkit.training.data import SampleReader

IMAGES = 64
# Random weights need some vocabulary: the mini world's is part of the repository.
TOKENIZER_OF = load_preset("mini").llm

GEMMA_2B: dict[str, Any] = {
    "hidden_size": 2048,
    "intermediate_size": 16384,
    "num_hidden_layers": 18,
    "num_attention_heads": 8,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "vocab_size": 256000,
}
# How many of the 1,000 rows of a seed sample have so many words.
SEED_WORDS = {
    2: 9, 3: 34, 4: 61, 5: 57, 6: 97, 7: 125, 8: 117, 9: 126, 10: 102, 11: 77, 12: 60, 13: 40, 14: 26, 15: 26, 16: 13,
    17: 14, 18: 8, 19: 4, 20: 2, 21: 2,
}  # fmt: skip
# Tokens: of a caption with Gemma's tokenizer, by its words; of the turn's end; of question, turns and <bos>.
PER_WORD, END, ASKED = 1.6, 4, 27
# The finetuning set mixes one-word answers with long conversations: log-normal, as this project's bars were counted
# (120 tokens learnt of 220 besides the image, on the average).
FINETUNE_ASKED, FINETUNE_LEARNT, FINETUNE_SPREAD = 100, 120, 0.8
# Photographs of the seed, px.
SIZES = ((500, 333), (333, 500), (450, 450), (640, 426), (480, 360), (800, 450))


def device_of(preset: Preset) -> torch.device:
    """The GPU for presets that need one; the CPU for the others."""
    return torch.device("cuda" if preset.needs_gpu else "cpu")


def model_of(preset: Preset, device: torch.device) -> MGMGemmaForCausalLM:
    """MGM of a preset's size and precision: random weights at full size, the shipped ones for `mini`."""
    torch.manual_seed(INITIALISATION_SEED)
    if not preset.needs_gpu:
        return build_model(
            llm=preset.llm,
            vision_tower=preset.vision_tower,
            vision_tower_aux=preset.vision_tower_aux,
            image_size_aux=preset.image_size_aux,
            max_length=preset.max_length,
            dtype=torch.float32,
            seed=INITIALISATION_SEED,
        )
    with device:
        model = MGMGemmaForCausalLM(MGMConfig(**GEMMA_2B, image_size_aux=preset.image_size_aux))
        model.model.build_adapter()
    return model.to(torch.bfloat16)


def rows_of(stage: Literal["pretrain", "finetune"], count: int) -> list[dict[str, Any]]:
    """LLaVA-format rows of as many words as they have tokens (asked, learnt), with `write_images`' images."""
    chance = random.Random(0)
    rows = []
    for number in range(count):
        if stage == "pretrain":
            (words,) = chance.choices(list(SEED_WORDS), list(SEED_WORDS.values()))
            asked, learnt = ASKED, round(PER_WORD * words) + END
        else:
            mean = math.log(FINETUNE_LEARNT) - FINETUNE_SPREAD**2 / 2
            asked = round(FINETUNE_ASKED * chance.uniform(0.5, 1.5))
            learnt = max(END + 1, min(1200, round(chance.lognormvariate(mean, FINETUNE_SPREAD))))
        turns = [{"from": who, "value": "w " * many} for who, many in (("human", asked), ("gpt", learnt))]
        rows.append({"id": str(number), "image": f"{number % IMAGES}.jpg", "conversations": turns})
    return rows


def write_images(folder: Path) -> None:
    """`0.jpg`, `1.jpg`, ...: smooth random colours in photographs' sizes, about as slow to decode."""
    pixels = np.random.default_rng(0)
    for number in range(IMAGES):
        few = Image.fromarray(pixels.integers(0, 256, (24, 24, 3), dtype=np.uint8))
        few.resize(SIZES[number % len(SIZES)], Image.Resampling.BICUBIC).save(folder / f"{number}.jpg", quality=90)


class RandomReader(SampleReader):
    """Samples with the images and the lengths of `rows_of`, and random words."""

    def tokens(self, row: dict[str, Any]) -> tuple[list[int], list[int]]:
        """See SampleReader."""
        chance = random.Random(row["id"])
        asked, learnt = (len(turn["value"].split()) for turn in row["conversations"])
        ids = chance.choices(range(6, 500), k=asked + learnt)
        labels = [IGNORE_INDEX] * asked + ids[asked:]
        ids[4] = IMAGE_TOKEN_INDEX
        return ids, labels


def operations(
    model: MGMGemmaForCausalLM, stage: Literal["pretrain", "finetune"], samples: list[tuple[list[int], list[int]]]
) -> float:
    """Operations that one of these samples needs on the average, a multiply-add counting two.

    Towers and adapter are counted by torch, forward; Gemma's layers by their shapes: forward and, backward, once for
    what goes through and once for weights that learn. The last layer works where something is learnt, attention looks
    back.

    Args:
        model: on its device.
        stage: decides what learns.
        samples: ids and labels, see `SampleReader.tokens`.
    """
    config = model.config
    side = config.image_size_aux
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.encode_images(torch.zeros(1, 3, side, side, dtype=torch.uint8, device=model.device))
    passes = 2 if stage == "pretrain" else 3
    heads = config.num_attention_heads * config.head_dim
    projections = config.hidden_size * (heads + 2 * config.num_key_value_heads * config.head_dim)
    rest = config.hidden_size * (heads + 3 * config.intermediate_size)
    layers, total = config.num_hidden_layers, 0.0
    for ids, labels in samples:
        images, learnt = ids.count(IMAGE_TOKEN_INDEX), len(labels) - labels.count(IGNORE_INDEX)
        tokens = len(ids) + images * (model.image_tokens - 1)
        linear = layers * projections * tokens + rest * ((layers - 1) * tokens + learnt)
        vocabulary = config.hidden_size * config.vocab_size * learnt
        # Attention's backward pass makes two products for each of the forward's two, weights or not.
        total += 2 * passes * (linear + vocabulary) + 3 * 2 * layers * heads * tokens**2
        total += images * counter.get_total_flops()
    return total / len(samples)


def clock_of(device: torch.device) -> Callable[[], float]:
    """Wall time; on a CPU with one thread the process's own seconds, which other programs hardly change."""
    return time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Time of a piece of work by `clock_of`, the device's queue included."""
    clock = clock_of(device)
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = clock()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - started


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second (a multiply-add counts two) of a large square matrix product, the median of five."""
    side = 8192 if device.type == "cuda" else 1024
    a = torch.randn(side, side, device=device, dtype=dtype)
    a @ a
    return 2 * side**3 / sorted(seconds(lambda: a @ a, device) for _ in range(5))[2]


def describe(device: torch.device) -> str:
    """The device and the libraries, for the first line of a benchmark's output."""
    import transformers

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return f"{name}; torch {torch.__version__}, transformers {transformers.__version__}"
