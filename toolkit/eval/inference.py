"""Greedy answers of a trained MGM, many questions at a time, with the same text as one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from transformers import PreTrainedTokenizerBase

from toolkit.errors import RowFault, UserError
from toolkit.eval.questions import Question
from toolkit.mgm.checkpoint import load_finetuned, load_tokenizer
from toolkit.mgm.conversation import encode_prompt
from toolkit.mgm.images import open_image, scale_image
from toolkit.mgm.model import MGMGemmaForCausalLM
from toolkit.weights import read_config

END_OF_TURN = "<end_of_turn>"
# Questions are sorted by length within this many batches, whose image features are held in memory: about 2.4 MB per
# image in MGM-2B, for benchmarks of any size.
BATCHES_SORTED_TOGETHER = 8
# Settings of a model that sees an image whole.
GRID = {"image_grid": 1, "image_global": False}
# The aux tower's stacked maps take 0.2 GB per image, and torch cannot resize those of 38 images and more at once.
MAX_IMAGES_ENCODED_TOGETHER = 16


class Answerer:
    """A trained MGM, ready to answer.

    Args:
        model: on its device, in evaluation mode.
        tokenizer: the model's.
    """

    def __init__(self, model: MGMGemmaForCausalLM, tokenizer: PreTrainedTokenizerBase):
        self.model = model
        self.tokenizer = tokenizer
        # Finetuning pads; published checkpoints say so in the same field.
        self.aspect: Literal["square", "pad"] = getattr(model.config, "image_aspect_ratio", "pad")

    @classmethod
    def load(cls, folder: Path, full_precision: bool, reference_mode: bool = False) -> Answerer:
        """Read a finetuned or published MGM folder.

        Args:
            full_precision: float32 even on a GPU; otherwise a GPU works in float16, as the reference's inference does.
                A CPU always works in float32.
            reference_mode: no fast path; see `MGMGemmaForCausalLM.set_reference_mode`.

        Raises:
            UserError: the folder is not a complete checkpoint, or one that cuts images in a grid (MGM-HD).
        """
        grid = {
            key: value for key, value in read_config(folder).items() if key in GRID and value not in (None, GRID[key])
        }
        if grid:
            raise UserError(f"{folder / 'config.json'}: an MGM-HD model, which is not supported ({grid})")
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        half = device.type == "cuda" and not full_precision
        model = load_finetuned(folder, torch.float16 if half else torch.float32).to(device)
        model.set_reference_mode(reference_mode)
        return cls(model, load_tokenizer(folder))

    def answers(self, questions: list[Question], batch: int, max_new_tokens: int) -> Iterator[dict[int, str]]:
        """Answer questions, those on one image next to each other, long ones first within a few batches.

        Args:
            questions: in any order.
            batch: questions answered at a time.
            max_new_tokens: longest answer.

        Yields:
            after every batch, its answers by their index in `questions`.

        Raises:
            UserError: an image is missing or unreadable.
        """
        prompts = [encode_prompt(question.text, self.tokenizer, has_image=True) for question in questions]
        first_use: dict[Path | bytes, int] = {}
        for index, question in enumerate(questions):
            first_use.setdefault(question.image, index)
        order = sorted(range(len(questions)), key=lambda index: first_use[questions[index].image])

        features: dict[Path | bytes, torch.Tensor] = {}
        window = batch * BATCHES_SORTED_TOGETHER
        for start in range(0, len(order), window):
            indices = order[start : start + window]
            features = self._features([questions[index] for index in indices], features, batch)
            indices.sort(key=lambda index: len(prompts[index]), reverse=True)
            for at in range(0, len(indices), batch):
                together = indices[at : at + batch]
                texts = self._generate(
                    [prompts[index] for index in together],
                    torch.stack([features[questions[index].image] for index in together]),
                    max_new_tokens,
                )
                yield dict(zip(together, texts, strict=True))

    def answers_one_at_a_time(
        self, questions: list[Question], _batch: int, max_new_tokens: int
    ) -> Iterator[dict[int, str]]:
        """As `answers`, each question by itself with its image encoded again: the reference's way."""
        for index, question in enumerate(questions):
            for answers in self.answers([question], 1, max_new_tokens):
                yield {index: answers[0]}

    @torch.inference_mode()
    def _features(
        self, questions: list[Question], known: dict[Path | bytes, torch.Tensor], batch: int
    ) -> dict[Path | bytes, torch.Tensor]:
        """Features [576, 2048] of each image asked about, every image encoded once."""
        features = {question.image: known[question.image] for question in questions if question.image in known}
        asked = {question.image: question for question in questions if question.image not in known}
        images = list(asked)
        size = min(batch, MAX_IMAGES_ENCODED_TOGETHER)
        for start in range(0, len(images), size):
            together = images[start : start + size]
            pixels = torch.stack([self._pixels(asked[image]) for image in together]).to(
                self.model.device
            )  # [N, 3, 768, 768]
            features |= zip(together, self.model.encode_images(pixels), strict=True)
        return features

    def _pixels(self, question: Question) -> torch.Tensor:
        try:
            return scale_image(open_image(question.image), self.model.config.image_size_aux, self.aspect)
        except RowFault as fault:
            raise UserError(f"question {question.question_id}: {fault}; evaluation needs every image") from None

    def _generate(self, prompts: list[list[int]], features: torch.Tensor, max_new_tokens: int) -> list[str]:
        """Greedy answers to prompts of different lengths; padding goes on the left."""
        longest = max(len(ids) for ids in prompts)
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in prompts], device=self.model.device)
        new_tokens = self.model.generate(
            ids,
            ids != pad,
            image_features=features,
            do_sample=False,
            max_new_tokens=max_new_tokens,
            # The reference stops at <eos> alone; what follows <end_of_turn> is never part of an answer.
            eos_token_id=[self.tokenizer.eos_token_id, self.tokenizer.convert_tokens_to_ids(END_OF_TURN)],
            pad_token_id=pad,
        )
        return [text.strip() for text in self.tokenizer.batch_decode(new_tokens, skip_special_tokens=True)]
