"""AdamW of the fixed training, and its arithmetic for bf16 weights: fp32 masters and moments, as ZeRO keeps them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

BETAS = (0.9, 0.999)
EPSILON = 1e-8


class MasterAdamW(torch.optim.AdamW):
    """AdamW that updates fp32 masters of low-precision weights and copies them back.

    An update of lr 2e-5 is smaller than a bf16 weight's last digit: added to the weight itself it would be lost.

    Args:
        groups: parameter groups of low-precision weights.
        kwargs: AdamW's own.
    """

    def __init__(self, groups: list[dict[str, Any]], **kwargs: Any):
        self.weights = [parameter for group in groups for parameter in group["params"]]
        with torch.no_grad():
            masters = {parameter: parameter.float().clone() for parameter in self.weights}
        super().__init__([group | {"params": [masters[p] for p in group["params"]]} for group in groups], **kwargs)
        self.masters = list(masters.values())

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """See AdamW; takes the gradients of the weights."""
        for weight, master in zip(self.weights, self.masters, strict=True):
            master.grad = None if weight.grad is None else weight.grad.float()
        loss = super().step(closure)
        for weight, master in zip(self.weights, self.masters, strict=True):
            weight.copy_(master)
            master.grad = None
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of the weights; masters hold theirs only during a step."""
        for weight in self.weights:
            if set_to_none:
                weight.grad = None
            elif weight.grad is not None:
                weight.grad.zero_()

    def state_dict(self) -> dict[str, Any]:
        """AdamW's state and the masters, without which a resumed run would go another way."""
        return super().state_dict() | {"masters": self.masters}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        for master, saved in zip(self.masters, state_dict["masters"], strict=True):
            master.copy_(saved)
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "masters"})


def make_optimizer(model: nn.Module, learning_rate: float, own_masters: bool = True) -> torch.optim.Optimizer:
    """torch's AdamW over two groups, weights, and biases with norms; neither decays.

    Args:
        model: what learns has `requires_grad`.
        learning_rate: of both groups.
        own_masters: keep fp32 masters of bf16 weights; off where DeepSpeed keeps them.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trainable if parameter.ndim > 1]},
        {"params": [parameter for parameter in trainable if parameter.ndim <= 1]},
    ]
    low_precision = any(parameter.dtype != torch.float32 for parameter in trainable)
    optimizer = MasterAdamW if low_precision and own_masters else torch.optim.AdamW
    return optimizer(groups, lr=learning_rate, betas=BETAS, eps=EPSILON, weight_decay=0.0, fused=True)
