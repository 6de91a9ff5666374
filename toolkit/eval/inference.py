"""Greedy answers of a trained MGM, many questions at a time, with the same text as one at a time."""

from __future__ import annotations

import functools
import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import torch
from torch.nn.attention import sdpa_kernel
from transformers import PreTrainedTokenizerBase

from toolkit.allocator import keep_freed_memory
from toolkit.errors import RowFault, UserError
from toolkit.eval.decoding import PLANLESS, Decoder
from toolkit.eval.first_use import FirstUse, use_towers
from toolkit.eval.questions import Question
from toolkit.mgm.checkpoint import load_finetuned, load_tokenizer
from toolkit.mgm.conversation import IMAGE_TOKEN_INDEX, encode_prompt
from toolkit.mgm.images import open_image, scale_image
from toolkit.mgm.model import MGMGemmaForCausalLM
from toolkit.weights import read_config

END_OF_TURN = "<end_of_turn>"
# Questions are sorted by length within this many batches: attention pads each batch to its longest.
BATCHES_SORTED_TOGETHER = 8
# Batches whose images are read while a batch is answered: 1.8 MB per image in MGM-2B.
BATCHES_READ_AHEAD = 2
MAX_READERS = 16
# Settings of a model that sees an image whole.
GRID = {"image_grid": 1, "image_global": False}
# torch cannot resize the aux tower's maps of 38 images and more at once.
MAX_IMAGES_ENCODED_TOGETHER = 16
BATCHES = (128, 64, 32, 16, 8, 4, 2)
# A CPU gains nothing by more questions; these bytes they may take.
CPU_BATCH = 64
CPU_IMAGES = 8  # more no longer fit its caches
CPU_BYTES = 1e9
# Of an image in both towers with MGM-2B, in half precision: 18.6 GB were the most with 16 images and 128 questions.
TOWER_BYTES = 0.65e9
TOWERS_SHARE = 0.6  # of what is free, at most
SLOW_AT_FIRST = ("cuda",)  # devices whose libraries take seconds at their first use


class Answerer:
    """A trained MGM, ready to answer.

    Args:
        model: on its device, in evaluation mode.
        tokenizer: the model's.
        first_use: of the device, which may still go on.
    """

    def __init__(
        self, model: MGMGemmaForCausalLM, tokenizer: PreTrainedTokenizerBase, first_use: FirstUse | None = None
    ):
        self.model = model
        self.first_use = first_use
        self.tokenizer = tokenizer
        # The reference stops at <eos> alone; what follows <end_of_turn> is never part of an answer.
        self._ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(END_OF_TURN)]
        self.decoder = Decoder(model, self._ends, tokenizer.pad_token_id)
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
        fields = read_config(folder)
        grid = {key: value for key, value in fields.items() if key in GRID and value not in (None, GRID[key])}
        if grid:
            raise UserError(f"{folder / 'config.json'}: an MGM-HD model, which is not supported ({grid})")
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        half = device.type == "cuda" and not full_precision
        dtype = torch.float16 if half else torch.float32
        if device.type == "cpu" and not reference_mode:
            keep_freed_memory()
        first_use = None
        if device.type in SLOW_AT_FIRST and not reference_mode:
            first_use = FirstUse(functools.partial(use_towers, fields, device, dtype))
        model = load_finetuned(folder, dtype).to(device)
        model.set_reference_mode(reference_mode)
        return cls(model, load_tokenizer(folder), first_use)

    def answers(self, questions: list[Question], batch: int | None, max_new_tokens: int) -> Iterator[dict[int, str]]:
        """Answer questions, those on one image next to each other, long ones first within a few batches.

        Args:
            questions: in any order.
            batch: questions answered at a time; None for as many as the device's memory takes.
            max_new_tokens: longest answer.

        Yields:
            after every batch, its answers by their index in `questions`.

        Raises:
            UserError: an image is missing or unreadable, or leaves no token to the question; the GPU's memory does not
                suffice.
        """
        if not questions:
            return
        beginnings, rests = zip(*map(self._prompt, questions), strict=True)
        start = len(beginnings[0]) - 1 + self.model.image_tokens
        room = self.model.config.tokenizer_model_max_length - start
        if room < 1:
            raise UserError(f"tokenizer_model_max_length of the model: {start} tokens stand before the question")
        rests = [rest[:room] for rest in rests]
        length = start + max(map(len, rests)) + max_new_tokens
        fault = self.first_use.end() if self.first_use else ""  # before the free memory is measured
        together, most = self._fitting(length)
        batch = min(batch or most, len(questions))
        images = [question.image for question in questions]
        order = _order(images, [len(rest) for rest in rests], batch * BATCHES_SORTED_TOGETHER)
        batches = [order[at : at + batch] for at in range(0, len(order), batch)]
        self.decoder.reserve(batch, length)

        pixels: dict[Path | bytes, Future[torch.Tensor]] = {}
        prefixes: dict[Path | bytes, torch.Tensor] = {}
        unread = dict.fromkeys(images[index] for index in order)
        readers = ThreadPoolExecutor(min(MAX_READERS, len(os.sched_getaffinity(0))))
        try:
            for number, indices in enumerate(batches):
                for index in itertools.chain(*batches[number : number + 1 + BATCHES_READ_AHEAD]):
                    if images[index] in unread:
                        del unread[images[index]]
                        pixels[images[index]] = readers.submit(self._pixels, questions[index])
                shown = list(dict.fromkeys(images[index] for index in indices))
                prefixes = {image: prefixes[image] for image in shown if image in prefixes}
                new = [image for image in shown if image in pixels]
                for at in range(0, len(new), together):
                    sent = {image: pixels.pop(image) for image in new[at : at + together]}
                    prefixes |= self._prefixes(beginnings[0], sent)
                texts = self._continue(
                    torch.stack([prefixes[image] for image in shown], dim=2),
                    [shown.index(images[index]) for index in indices],
                    [rests[index] for index in indices],
                    max_new_tokens,
                )
                yield dict(zip(indices, texts, strict=True))
        except torch.cuda.OutOfMemoryError:
            fewer = f"run again with --batch {batch // 2}" if batch > 1 else "free some of it and run again"
            raise UserError(f"{batch} questions at a time are too many for the GPU's memory; {fewer}") from None
        except RuntimeError:
            if fault:
                print(f"note: the GPU's first use, with zeros, failed too: {fault}", file=sys.stderr, flush=True)
            raise
        finally:
            readers.shutdown(cancel_futures=True)

    def answers_one_at_a_time(
        self, questions: list[Question], _batch: int | None, max_new_tokens: int
    ) -> Iterator[dict[int, str]]:
        """As `answers`, each question by itself with its image encoded again, by transformers: the reference's way."""
        for index, question in enumerate(questions):
            ids = torch.tensor([encode_prompt(question.text, self.tokenizer, has_image=True)], device=self.model.device)
            new_tokens = self.model.generate(
                ids,
                ids != self.tokenizer.pad_token_id,
                pixels=self._pixels(question)[None].to(self.model.device),
                do_sample=False,
                max_new_tokens=max_new_tokens,
                eos_token_id=self._ends,
                pad_token_id=self.tokenizer.pad_token_id,
            )
            yield {index: self._texts(new_tokens)[0]}

    def _prompt(self, question: Question) -> tuple[list[int], list[int]]:
        """A prompt's tokens up to the image's placeholder, the same for all questions, and after it."""
        ids = encode_prompt(question.text, self.tokenizer, has_image=True)
        ids = [token for token in ids if token != self.tokenizer.pad_token_id]
        place = ids.index(IMAGE_TOKEN_INDEX) + 1
        return ids[:place], ids[place:]

    @torch.inference_mode()
    @sdpa_kernel(PLANLESS)
    def _prefixes(
        self, beginning: list[int], pixels: dict[Path | bytes, Future[torch.Tensor]]
    ) -> dict[Path | bytes, torch.Tensor]:
        """Keys and values of `Decoder.prefixes` for each image."""
        device = self.model.device
        # Stacked on the device: on a CPU that costs ten times what sending them one by one does.
        features = self.model.encode_images(torch.stack([read.result().to(device) for read in pixels.values()]))
        ids = torch.tensor(beginning).expand(len(pixels), -1)
        expansion = self.model.expand(ids, torch.ones_like(ids), None, "right")
        embeddings, _ = self.model.embed(ids.to(device), features, expansion)
        return dict(zip(pixels, self.decoder.prefixes(embeddings).unbind(2), strict=True))

    def _pixels(self, question: Question) -> torch.Tensor:
        try:
            return scale_image(open_image(question.image), self.model.config.image_size_aux, self.aspect)
        except RowFault as fault:
            raise UserError(f"question {question.question_id}: {fault}; evaluation needs every image") from None

    def _continue(
        self, prefixes: torch.Tensor, owners: list[int], rests: list[list[int]], max_new_tokens: int
    ) -> list[str]:
        """Texts that continue prompts; see `Decoder.continue_prompts`."""
        fewest = self.model.generation_config.min_new_tokens or 0
        return self._texts(self.decoder.continue_prompts(prefixes, owners, rests, max_new_tokens, fewest))

    def _texts(self, new_tokens: torch.Tensor | list[list[int]]) -> list[str]:
        return [text.strip() for text in self.tokenizer.batch_decode(new_tokens, skip_special_tokens=True)]

    def _fitting(self, length: int) -> tuple[int, int]:
        """Images encoded and questions answered at a time when prompts and answers have up to `length` tokens."""
        device, config = self.model.device, self.model.config
        token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * self.model.dtype.itemsize
        # The cache twice, as prefixes are kept beside it; logits in two precisions.
        row = 2 * token * length + 8 * config.vocab_size
        if device.type == "cpu":
            return CPU_IMAGES, min(CPU_BATCH, _batch_within(CPU_BYTES, row))
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return fitting(torch.cuda.mem_get_info(device)[0] + kept, row)


def fitting(free: float, row: float) -> tuple[int, int]:
    """Images encoded and questions answered at a time on a GPU.

    Args:
        free: bytes.
        row: bytes that a question takes.
    """
    images = max(1, min(MAX_IMAGES_ENCODED_TOGETHER, int(TOWERS_SHARE * free / TOWER_BYTES)))
    return images, _batch_within(free - images * TOWER_BYTES, row)


def _batch_within(free: float, row: float) -> int:
    return next((batch for batch in BATCHES if batch * row <= free), 1)


def _order(images: Sequence[Path | bytes], lengths: Sequence[int], window: int) -> list[int]:
    """Indices of questions, those on one image next to each other, images with long ones first in each window."""
    groups: dict[Path | bytes, list[int]] = {}
    for index, image in enumerate(images):
        groups.setdefault(image, []).append(index)
    order: list[int] = []
    waiting: list[list[int]] = []
    for group in [*groups.values(), None]:
        if group is not None:
            waiting.append(group)
        if group is None or sum(map(len, waiting)) >= window:
            waiting.sort(key=lambda group: max(lengths[index] for index in group), reverse=True)
            order += itertools.chain(*waiting)
            waiting = []
    return order
