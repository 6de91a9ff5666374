"""What a stage that ran to its end may have got wrong all the same: warnings for the terminal and its record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch

from toolkit.presets import WARMUP_RATIO

VALUES = 16  # compared of each weight
# Fewer steps, whose first has a learning rate of 0, tell nothing.
FEWEST_STEPS, FEWEST_LOSSES = 20, 4
# A loss that ends above this share of its first value has not fallen.
FALLEN = 0.98


class Weights:
    """Some values of each weight that learns, as they are before training."""

    def __init__(self, model: torch.nn.Module):
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.before = [_some(parameter) for parameter in self.parameters]

    def unchanged(self) -> bool:
        """Whether not one of them has changed since."""
        pairs = zip(self.parameters, self.before, strict=True)
        return all(torch.equal(_some(parameter), before) for parameter, before in pairs)


def _some(parameter: torch.Tensor) -> torch.Tensor:
    return parameter.detach().flatten()[:VALUES].float().cpu().clone()


def warnings_of(
    stage: Literal["pretrain", "finetune"], steps: int, history: Sequence[dict[str, Any]], unchanged: bool
) -> list[str]:
    """Warnings about a finished stage, each with advice; none in most runs.

    Args:
        stage: a finetuning loss may start where it ends.
        steps: of the stage.
        history: of the Trainer, `loss` by `step`.
        unchanged: see `Weights`.
    """
    found = []
    if unchanged and steps * (1 - WARMUP_RATIO) > 1:
        found.append(
            "no weight has changed: every gradient was zero; look at the answers in the training file, which may have "
            "nothing to learn from"
        )
    losses = [entry["loss"] for entry in history if "loss" in entry]
    if stage == "pretrain" and steps >= FEWEST_STEPS and len(losses) >= FEWEST_LOSSES:
        last = losses[-(len(losses) // 4) :]
        end = sum(last) / len(last)
        if end > FALLEN * losses[0]:
            found.append(
                f"the loss has not fallen (from {losses[0]:.4f} to {end:.4f}): the adapter has learnt little; look at "
                "some rows with `python -m toolkit check`, and at whether captions fit their images"
            )
    return found
