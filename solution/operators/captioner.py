"""Captions for pictures from an image-to-text model, the same whatever the batch they were made in."""

import hashlib
from collections.abc import Sequence

import torch
from data_juicer.utils.model_utils import get_model, prepare_model
from PIL import Image
from transformers import LogitsProcessor, LogitsProcessorList

from .captions import caption_of


class Captioner:
    """One image-to-text model of transformers (BLIP, BLIP-2 ...) with its generation settings."""

    def __init__(
        self,
        model: str,
        prompt: str,
        max_new_tokens: int,
        temperature: float,
        seed: int,
        model_batch: int,
        on_gpu: bool,
    ) -> None:
        self.prompt = prompt
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.seed = seed
        self.model_batch = model_batch
        self.on_gpu = on_gpu
        self.model_key = prepare_model("huggingface", pretrained_model_name_or_path=model)

    def caption(self, pictures: Sequence[Image.Image], row_keys: Sequence[str], rank: int | None = None) -> list[str]:
        """One caption a picture; ``row_keys`` name the rows: with a temperature, chance hangs on seed and key alone."""
        captions = []
        for start in range(0, len(pictures), self.model_batch):
            part = slice(start, start + self.model_batch)
            captions += self._generate(list(pictures[part]), list(row_keys[part]), rank)
        return captions

    @torch.inference_mode()
    def _generate(self, pictures: list[Image.Image], row_keys: list[str], rank: int | None) -> list[str]:
        model, processor = get_model(self.model_key, rank, self.on_gpu)
        # A short last batch is filled up: kernels round differently for other batch sizes, and a near tie would flip.
        filled = pictures + [pictures[-1]] * (self.model_batch - len(pictures))
        keys = row_keys + [row_keys[-1]] * (self.model_batch - len(pictures))
        prompts = [self.prompt] * len(filled) if self.prompt else None
        inputs = processor(images=filled, text=prompts, return_tensors="pt").to(model.device)
        chance = LogitsProcessorList([RowChance(keys, self.seed, self.temperature)] if self.temperature else [])
        tokens = model.generate(
            **inputs, max_new_tokens=self.max_new_tokens, do_sample=False, num_beams=1, logits_processor=chance
        )
        texts = processor.batch_decode(tokens[: len(pictures)], skip_special_tokens=True)
        return [" ".join(caption_of(text).removeprefix(self.prompt).split()) for text in texts]


class RowChance(LogitsProcessor):
    """Sampling as greedy search over noised scores (the Gumbel-max trick), each row with its own random stream.

    ``argmax(scores / temperature + Gumbel noise)`` draws from softmax(scores / temperature); as the noise comes from a
    generator of the row, the drawn caption does not depend on the other rows of the batch.
    """

    def __init__(self, row_keys: Sequence[str], seed: int, temperature: float) -> None:
        self.temperature = temperature
        self.generators = [torch.Generator().manual_seed(_number(seed, key)) for key in row_keys]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """``scores`` [rows, vocabulary] -> the noised scores, same shape."""
        uniform = torch.stack([torch.rand(scores.shape[1], generator=generator) for generator in self.generators])
        noise = -torch.log(-torch.log(uniform.clamp(1e-9, 1 - 1e-7)))
        return scores / self.temperature + noise.to(scores)


def _number(seed: int, key: str) -> int:
    """A 63-bit number from seed and key, the same in every process (Python's own hash is not)."""
    return int.from_bytes(hashlib.sha256(f"{seed}\x1f{key}".encode()).digest()[:8], "big") >> 1
