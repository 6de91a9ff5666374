"""What the benchmarks run on: MGM of any preset with random weights, synthetic batches, the device's matmul rate."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal

import torch

from toolkit.mgm.checkpoint import build_model
from toolkit.mgm.conversation import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from toolkit.mgm.model import MGMConfig, MGMGemmaForCausalLM
from toolkit.presets import INITIALISATION_SEED, Preset

GEMMA_2B: dict[str, Any] = {
    "hidden_size": 2048,
    "intermediate_size": 16384,
    "num_hidden_layers": 18,
    "num_attention_heads": 8,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "vocab_size": 256000,
}
# Words of a sample besides its image, and how many of them are learnt: the seed's mean caption with its question, and
# a typical round of the finetuning set.
WORDS = {"pretrain": (45, 18), "finetune": (220, 120)}


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


def batch_of(
    model: MGMGemmaForCausalLM, stage: Literal["pretrain", "finetune"], samples: int, seed: int
) -> dict[str, torch.Tensor]:
    """A micro-batch of random images and words, on the model's device; see `MGMGemmaForCausalLM.forward`."""
    generator = torch.Generator().manual_seed(seed)
    words, learnt = WORDS[stage]
    ids = torch.randint(6, min(model.config.vocab_size, 600), (samples, words + 1), generator=generator)
    ids[:, 4] = IMAGE_TOKEN_INDEX
    labels = ids.clone()
    labels[:, :-learnt] = IGNORE_INDEX
    side = model.config.image_size_aux
    pixels = torch.randint(0, 256, (samples, 3, side, side), dtype=torch.uint8, generator=generator)
    batch = {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids), "pixels": pixels}
    batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
    return batch | {"expansion": model.expand(batch["input_ids"], batch["attention_mask"], labels, "right")}


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall time of a piece of work, the device's queue included."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


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
