"""Training of the mini models, the common part: batches of new random scenes, dense labels, schedule and log."""

from __future__ import annotations

import math
import random
import time

import numpy as np
import torch
import torch.nn.functional as F
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from toolkit.mini.scenes import (
    BACKGROUNDS,
    DISTRACTOR_WORDS,
    SIDE,
    SIGN_WORDS,
    Label,
    draw_scene,
    draw_sign,
    draw_thing,
    paint_background,
    paint_sign,
    paint_thing,
    render,
)
from toolkit.mini.sprites import COLOURS, KINDS

MAIN_SIDE = 96  # px, input of the CLIP tower
IGNORED = -100
NO_OBJECT, NATURAL, NO_WORD = len(KINDS), len(COLOURS), len(SIGN_WORDS)


def scene_batch(rng: random.Random, size: int, layout: str | None = None):
    """`size` random scenes, their images as a normalised [B, 3, 192, 192] tensor, and their labels."""
    scenes = [draw_scene(rng, layout) for _ in range(size)]
    painted = [render(scene) for scene in scenes]
    return scenes, pixels([image for image, _ in painted]), [labels for _, labels in painted]


def crowd_batch(rng: random.Random, signs: int, objects: int):
    """Images crowded with signs (any word) or with objects: many labels per image, so that towers learn in minutes.

    Returns:
        [B, 3, 192, 192] and the labels, as `scene_batch` gives them.
    """
    images, labels = [], []
    for number in range(signs + objects):
        image = paint_background(rng.choice(list(BACKGROUNDS)))
        parts: list[Label] = []
        if number < signs:
            for row in range(5):
                words = SIGN_WORDS if rng.random() < 0.6 else DISTRACTOR_WORDS
                middle = 20 + 38 * row
                parts += paint_sign(image, draw_sign(rng, words, (60, 132), (middle - 3, middle + 3)))
        else:
            for x in (34, 96, 158):
                for y in (34, 96, 158):
                    x_moved, y_moved = x + rng.randint(-4, 4), y + rng.randint(-4, 4)
                    parts.append(paint_thing(image, draw_thing(rng, x_moved, y_moved, rng.randint(46, 64))))
        images.append(image)
        labels.append(parts)
    return pixels(images), labels


def pixels(images) -> torch.Tensor:
    """RGB images of 192 x 192 px as input of MGM's aux tower: [B, 3, 192, 192], OpenAI-CLIP mean and deviation."""
    array = np.stack([np.asarray(image) for image in images])
    x = torch.from_numpy(array).permute(0, 3, 1, 2).float() / 255
    return (x - torch.tensor(OPENAI_CLIP_MEAN).view(3, 1, 1)) / torch.tensor(OPENAI_CLIP_STD).view(3, 1, 1)


def main_pixels(x: torch.Tensor) -> torch.Tensor:
    """The same images as input of MGM's main tower: [B, 3, 96, 96], bilinear without antialiasing."""
    return F.interpolate(x, size=(MAIN_SIDE, MAIN_SIDE), mode="bilinear", align_corners=False)


def dense_labels(labels: list[list[Label]], grid: int) -> dict[str, torch.Tensor]:
    """Class of the object or letter at the centre of each grid cell.

    Returns:
        `object` [B, grid, grid] (NO_OBJECT where there is none), `colour` (NATURAL for untinted objects, IGNORED where
        there is no object), `word` (NO_WORD off a sign, IGNORED on a word no scene shows), `letter` (26: none).
    """
    shape = (len(labels), grid, grid)
    maps = {
        "object": torch.full(shape, NO_OBJECT),
        "colour": torch.full(shape, IGNORED),
        "word": torch.full(shape, NO_WORD),
        "letter": torch.full(shape, 26),
    }
    cell = SIDE / grid
    for number, parts in enumerate(labels):
        for part in parts:
            left, top, right, bottom = (max(0, math.ceil(edge / cell - 0.5)) for edge in part.box)
            region = number, slice(top, bottom), slice(left, right)
            if part.name in KINDS:
                maps["object"][region] = KINDS.index(part.name)
                maps["colour"][region] = COLOURS.index(part.colour) if part.colour else NATURAL
            elif len(part.name) > 1:
                maps["word"][region] = SIGN_WORDS.index(part.name) if part.name in SIGN_WORDS else IGNORED
            else:
                maps["letter"][region] = ord(part.name) - ord("A")
    return maps


class MiniTrainer:
    """Optimizer, cosine schedule with warm-up, clipping and a progress line."""

    def __init__(self, name: str, parameters, learning_rate: float, steps: int, weight_decay: float = 0.05):
        self.name, self.steps, self.peak = name, steps, learning_rate
        self.parameters = list(parameters)
        matrices = [p for p in self.parameters if p.ndim > 1]
        vectors = [p for p in self.parameters if p.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98))
        self.step_number = 0
        self.sums: dict[str, float] = {}
        self.started = time.monotonic()

    def step(self, losses: dict[str, torch.Tensor], log_every: int = 100) -> None:
        """One optimizer step on the sum of the losses."""
        warm_up = max(1, self.steps // 20)
        done = self.step_number / self.steps
        rate = (
            self.peak * min(1.0, (self.step_number + 1) / warm_up) * (0.02 + 0.98 * (1 + math.cos(math.pi * done)) / 2)
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step_number += 1
        for key, loss in losses.items():
            self.sums[key] = self.sums.get(key, 0.0) + loss.item()
        if self.step_number % log_every == 0:
            text = ", ".join(f"{key} {total / log_every:.3f}" for key, total in self.sums.items())
            seconds = time.monotonic() - self.started
            print(f"{self.name} {self.step_number}/{self.steps}: {text} ({seconds:.0f} s)", flush=True)
            self.sums = {}
