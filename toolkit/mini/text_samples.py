"""Text samples that the mini Gemma is trained on: conversations about scenes, and text of every kind in the seed.

A sample is one conversation. Its scene is given as a caption, or as a *simulated image*: 36 input embeddings, each the
sum of the embeddings of the words for a patch's content. A projector that has learnt to name patches produces much the
same, so a language model trained on simulated images can be aligned with real ones in a few dozen steps.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from toolkit.dataset.llava import CAPTION_PROMPTS
from toolkit.mini import captions
from toolkit.mini.captions import NUMBERS
from toolkit.mini.questions import SHORT_ANSWER, ask_any, choice_prompt, options_of, textvqa_prompt
from toolkit.mini.scenes import SIGN_WORDS, Scene, draw_scene, render
from toolkit.mini.sprites import COLOURS, KINDS
from toolkit.mini.training import IGNORED, NATURAL, NO_OBJECT, NO_WORD, dense_labels

PATCHES = 6  # per side
IMAGE_TOKENS = PATCHES**2
NOISE = 0.04  # standard deviation; embeddings have 0.08
POSITIONS = ("left", "right", "above", "below")
GROUNDS = ("grass", "sand", "snow", "sky", "night")
PLAIN_SHARE, SIMULATED_SHARE = 0.15, 0.5  # of samples; the rest starts with a caption


@dataclass
class TextSample:
    """Token ids, which of them are answers, and the scene of a simulated image with the index it starts at."""

    ids: list[int]
    answers: list[bool]
    scene: Scene | None = None
    image_start: int = -1


def draw_sample(rng: random.Random, tokenizer: PreTrainedTokenizerBase) -> TextSample:
    """One random sample."""
    chance = rng.random()
    if chance < PLAIN_SHARE:
        return _plain_text(rng, tokenizer)
    scene = draw_scene(rng)
    sample = TextSample([tokenizer.bos_token_id], [False])
    rounds = [_question(scene, rng) for _ in range(rng.randint(2, 4))]
    if chance < PLAIN_SHARE + SIMULATED_SHARE:
        sample.scene = scene
        if rng.random() < 0.6:
            rounds.insert(0, (rng.choice(CAPTION_PROMPTS), _web_caption(scene, rng)))
        add(sample, tokenizer, "<start_of_turn>user\n", False)
        sample.image_start = len(sample.ids)
        sample.ids += [tokenizer.pad_token_id] * IMAGE_TOKENS
        sample.answers += [False] * IMAGE_TOKENS
        opening = "\n"
    else:
        opening = f"<start_of_turn>user\n{captions.true_caption(scene, rng)}.\n"
        if rng.random() < 0.3:
            rounds.insert(0, ("Write a short caption for the picture.", captions.true_caption(scene, rng)))
    for asked, answer in rounds:
        add(sample, tokenizer, f"{opening}{asked}<end_of_turn>\n<start_of_turn>model\n", False)
        add(sample, tokenizer, f"{answer}<end_of_turn>\n<eos>", True)
        opening = "<start_of_turn>user\n"
    return sample


def add(sample: TextSample, tokenizer: PreTrainedTokenizerBase, text: str, is_answer: bool) -> None:
    """Append text to a sample."""
    ids = tokenizer(text, add_special_tokens=False).input_ids
    sample.ids += ids
    sample.answers += [is_answer] * len(ids)


def _plain_text(rng: random.Random, tokenizer: PreTrainedTokenizerBase) -> TextSample:
    """Captions of all kinds, one per line."""
    sample = TextSample([tokenizer.bos_token_id], [False])
    for _ in range(rng.randint(2, 5)):
        add(sample, tokenizer, _web_caption(draw_scene(rng), rng, honest=0.3) + "\n", False)
    return sample


def _web_caption(scene: Scene, rng: random.Random, honest: float = 0.8) -> str:
    """A caption as in the seed: true with probability `honest`, else text that says little about the scene."""
    if rng.random() < honest:
        return captions.true_caption(scene, rng)
    kind = rng.randrange(4)
    if kind == 0:
        return captions.boilerplate(rng)
    if kind == 1:
        return captions.too_short(rng)
    return (captions.foreign_caption if kind == 2 else captions.rambling_caption)(scene, rng)


def _question(scene: Scene, rng: random.Random) -> tuple[str, str]:
    question = ask_any(scene, rng)
    chance = rng.random()
    if chance < 0.4:
        return choice_prompt(question.text, options_of(question, rng)), question.answer
    if scene.sign and chance < 0.7:
        return textvqa_prompt(question, rng), question.answer
    return f"{question.text}\n{SHORT_ANSWER}", question.answer


class ImageSimulator:
    """Turns scenes into simulated images with a language model's own embeddings."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        def ids(words) -> torch.Tensor:
            return torch.tensor([tokenizer(f" {word}", add_special_tokens=False).input_ids[0] for word in words])

        self.kinds, self.colours, self.words = ids(KINDS), ids(COLOURS), ids(SIGN_WORDS)
        self.sign = ids(["sign"])
        self.positions, self.grounds, self.numbers = ids(POSITIONS), ids(GROUNDS), ids(NUMBERS.values())
        axis = torch.arange(PATCHES) / (PATCHES - 1) * 2 - 1  # -1 left or top .. 1 right or bottom
        column, row = axis.repeat(PATCHES), axis.repeat_interleave(PATCHES)
        self.position_weights = torch.stack([-column, column, -row, row], dim=1).clamp(min=0)  # [36, 4]

    def __call__(self, scenes: list[Scene], embedding: torch.Tensor) -> torch.Tensor:
        """Scenes -> [B, 36, hidden], in the scale of the embedding table (before Gemma's factor sqrt(hidden))."""
        labels = dense_labels([render(scene)[1] for scene in scenes], 2 * PATCHES)
        kinds = self._shares(labels["object"], NO_OBJECT)
        tokens = kinds @ embedding[self.kinds]
        tokens = tokens + self._shares(labels["colour"], NATURAL) @ embedding[self.colours]
        words = self._shares(labels["word"], NO_WORD)
        # A few captions teach that there is a sign; its embedding tells the model where to look for the word.
        tokens = tokens + words @ embedding[self.words] + words.sum(dim=-1, keepdim=True) * embedding[self.sign]
        # CLIP's patches encode the count of their object: see its training.
        numbers = embedding[self.numbers[torch.tensor([scene.count for scene in scenes]) - 1]]  # [B, hidden]
        tokens = tokens + kinds.sum(dim=-1, keepdim=True) * numbers[:, None]
        tokens = tokens + self.position_weights @ embedding[self.positions]
        grounds = torch.tensor([_ground_number(scene) for scene in scenes])
        tokens = tokens + 0.5 * embedding[self.grounds[grounds]][:, None]
        tokens = tokens + NOISE * torch.randn_like(tokens)
        # Some patches carry no information, as with real towers.
        return torch.where(torch.rand(tokens.shape[:2])[..., None] < 0.08, 0.08 * torch.randn_like(tokens), tokens)

    @staticmethod
    def _shares(labels: torch.Tensor, classes: int) -> torch.Tensor:
        """[B, 12, 12] classes -> [B, 36, classes], the share of each patch's four cells; other values count as none."""
        one_hot = torch.zeros(*labels.shape, classes)
        inside = (labels != IGNORED) & (labels < classes)
        one_hot[inside] = torch.nn.functional.one_hot(labels[inside], classes).float()
        size = len(labels), PATCHES, 2, PATCHES, 2, classes
        return one_hot.view(size).mean(dim=(2, 4)).flatten(1, 2)


def _ground_number(scene: Scene) -> int:
    return next(number for number, word in enumerate(GROUNDS) if scene.background.endswith(word))
