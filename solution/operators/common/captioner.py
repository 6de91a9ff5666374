"""Captions for images from an image-to-text model; a caption does not depend on the batch."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice

import torch
from PIL import Image
from transformers import LogitsProcessor, LogitsProcessorList

from .captions import caption_of
from .images import open_images
from .loader import device_for, dtype_for, load_model, model_folder
from .rows import row_seed
from .score_store import ScoreStore, revision_of, score_folder, values_per_row

LOCAL = "Salesforce/blip2-opt-2.7b"  # the model where an operator names none
_LONGEST = 1024  # px; for models that read an image at its own size, larger ones are reduced to this


class Captioner:
    """One image-to-text model of transformers with its generation settings: BLIP, BLIP-2, or a chat model (LLaVA ...).

    A chat model, one whose processor has a chat template, is asked ``prompt`` as a question about the image; any
    other continues it as text. If a chat model reads images at their own sizes, batches are padded, and a near tie
    between two words can then depend on the other rows by rounding. In bfloat16 on a GPU. Captions are kept on disk:
    none is generated twice.
    """

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
        self.model = model_folder(model)
        self.prompt = prompt
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.seed = seed
        self.model_batch = model_batch
        self.on_gpu = on_gpu

    @cached_property
    def store(self) -> ScoreStore[str]:
        """Captions that this model generated before, with these settings."""
        sampling = (self.temperature, self.seed) if self.temperature else ("likeliest",)
        settings = (self.prompt, self.max_new_tokens, *sampling, dtype_for(device_for(self.on_gpu, None)))
        return ScoreStore(score_folder(), f"caption 1 {revision_of(self.model)} {settings}", str)

    def caption(
        self, paths: Sequence[str], row_keys: Sequence[str], rank: int | None = None
    ) -> tuple[list[str], list[str]]:
        """One caption and one failure per image: the failure is empty for an image that can be read.

        ``row_keys`` name the rows: with a temperature, a caption's random numbers depend on seed and key alone.
        """

        def compute(rows: list[int], failures: list[str]) -> Iterator[dict[int, str]]:
            opened = open_images(((row, paths[row]) for row in rows), failures)
            while batch := list(islice(opened, self.model_batch)):
                # A short batch is filled up: kernels round differently for other sizes, and a near tie would flip.
                filled = batch + batch[-1:] * (self.model_batch - len(batch))
                texts = self._generate([image for _, image in filled], [row_keys[row] for row, _ in filled], rank)
                yield {row: text for (row, _), text in zip(batch, texts, strict=False)}

        texts = [[key if self.temperature else ""] for key in row_keys]
        captions, failures = values_per_row(self.store, [[path] for path in paths], texts, compute)
        return [caption or "" for caption in captions], failures

    @torch.inference_mode()
    def _generate(self, images: list[Image.Image], row_keys: list[str], rank: int | None) -> list[str]:
        device = device_for(self.on_gpu, rank)
        model, processor = load_model(self.model, device, dtype_for(device))
        is_chat = getattr(processor, "chat_template", None) is not None
        prompt = self.prompt
        if is_chat:
            processor.tokenizer.padding_side = "left"
            question = [{"type": "image"}, {"type": "text", "text": prompt}]
            prompt = processor.apply_chat_template([{"role": "user", "content": question}], add_generation_prompt=True)
            for image in images:
                image.thumbnail((_LONGEST, _LONGEST))
        inputs = processor(
            images=images,
            text=[prompt] * len(images) if prompt else None,
            return_tensors="pt",
            padding=True,
        ).to(device, model.dtype)
        sampling = LogitsProcessorList([GumbelNoise(row_keys, self.seed, self.temperature)] if self.temperature else [])
        tokens = model.generate(
            **inputs, max_new_tokens=self.max_new_tokens, do_sample=False, num_beams=1, logits_processor=sampling
        )
        if is_chat:
            tokens = tokens[:, inputs["input_ids"].shape[1] :]  # a chat model repeats the question
        texts = processor.batch_decode(tokens, skip_special_tokens=True)
        return [" ".join(caption_of(text).removeprefix(self.prompt).split()) for text in texts]


class GumbelNoise(LogitsProcessor):
    """Sampling as greedy search over noisy scores (the Gumbel-max trick), each row with its own random stream.

    ``argmax(scores / temperature + Gumbel noise)`` samples from softmax(scores / temperature); as the noise comes from
    a generator of the row, the caption does not depend on the other rows of the batch.
    """

    def __init__(self, row_keys: Sequence[str], seed: int, temperature: float) -> None:
        self.temperature = temperature
        self.generators = [torch.Generator().manual_seed(row_seed(seed, key)) for key in row_keys]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """``scores`` [rows, vocabulary] -> the noisy scores, same shape."""
        uniform = torch.stack([torch.rand(scores.shape[1], generator=generator) for generator in self.generators])
        noise = -torch.log(-torch.log(uniform.clamp(1e-9, 1 - 1e-7)))
        return scores / self.temperature + noise.to(scores)
