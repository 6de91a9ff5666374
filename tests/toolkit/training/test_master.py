"""AdamW on fp32 masters of bf16 weights: against AdamW on fp32 weights, small updates, resuming."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from toolkit.training.master import MasterAdamW, make_optimizer


def gradients(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients exact in bf16, so that both optimizers see the same."""
    generator = torch.Generator().manual_seed(step)
    return tuple(torch.randn(shape, generator=generator).bfloat16() for shape in ((4, 8), (4,)))


def run(model: nn.Linear, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        for parameter, gradient in zip((model.weight, model.bias), gradients(step), strict=True):
            parameter.grad = gradient.to(parameter.dtype)
        optimizer.step()
        optimizer.zero_grad()


def bf16_linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(8, 4).bfloat16()


def test_masters_follow_fp32_adamw() -> None:
    low = bf16_linear()
    full = copy.deepcopy(low).float()
    optimizer = make_optimizer(low, 2e-5)
    run(low, optimizer, range(50))
    run(full, make_optimizer(full, 2e-5), range(50))
    torch.testing.assert_close(optimizer.masters[0], full.weight.detach(), rtol=0, atol=0)
    assert torch.equal(low.weight, full.weight.bfloat16())


def test_updates_below_the_last_digit_add_up() -> None:
    """What plain bf16 AdamW loses: 100 steps of 1e-5 on weights whose last digit is about 1e-3."""
    low, naive = bf16_linear(), bf16_linear()
    before = low.weight.detach().float().clone()
    for model, optimizer in (
        (low, make_optimizer(low, 1e-5)),
        (naive, torch.optim.AdamW(naive.parameters(), lr=1e-5, weight_decay=0.0)),
    ):
        for _ in range(100):
            model.weight.grad = torch.ones_like(model.weight)
            optimizer.step()
    # lr x steps; bf16 rounds each weight, so the mean only comes near it.
    assert (before - low.weight.float()).mean().item() == pytest.approx(1e-3, rel=0.3)
    assert (before - naive.weight.float()).mean().item() < 0.5e-3


def test_resumed_run_equals_an_uninterrupted_one() -> None:
    whole, first = bf16_linear(), bf16_linear()
    optimizer = make_optimizer(whole, 1e-3)
    run(whole, optimizer, range(10))
    half = make_optimizer(first, 1e-3)
    run(first, half, range(5))
    saved = copy.deepcopy((first.state_dict(), half.state_dict()))
    again = bf16_linear()
    again.load_state_dict(saved[0])
    resumed = make_optimizer(again, 1e-3)
    resumed.load_state_dict(saved[1])
    run(again, resumed, range(5, 10))
    assert torch.equal(again.weight, whole.weight)
    assert all(torch.equal(a, b) for a, b in zip(resumed.masters, optimizer.masters, strict=True))


def test_fp32_weights_need_no_masters() -> None:
    assert not isinstance(make_optimizer(nn.Linear(2, 2), 1e-3), MasterAdamW)
    assert not isinstance(make_optimizer(bf16_linear(), 1e-3, own_masters=False), MasterAdamW)
