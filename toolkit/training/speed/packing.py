"""Gemma's decoder in training: no padding outside attention, the last layer only where something is learnt.

Weights and arithmetic are those of transformers' modules; only the way through them is our own. Linear layers, norms
and residuals see the T real tokens of a micro-batch in one row, [T, 2048]; attention alone sees samples side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from toolkit.training.speed.decoder import scaled, supervised_loss

# cuDNN's attention makes a plan for each new length, a second of work: lengths are rounded up to multiples.
ATTENTION_LENGTHS = 128


def pack(source: torch.Tensor, labels: torch.Tensor, supervised: torch.Tensor, padding: int) -> dict[str, torch.Tensor]:
    """Where the real tokens of a micro-batch are; on the CPU, by the loader's workers.

    Args:
        source, labels, supervised: of `images.expand`, padded on the right.
        padding: of source.

    Returns:
        words [T]: the real ones of source; position [1, T]: in their sample. For attention samples stand side by side,
        M to each: packed [T]: places in [B * M]; rows [B, M]: the row in [T] of each place, 0 of padding; real [B, M].
        Where something is learnt: learnt [S]: places in [B * M]; learnt_rows, learnt_real: as rows and real, of [S];
        of_learnt [S]: rows in [T]; targets [S]: the tokens to be learnt.
    """
    longest = source.shape[1]
    targets = labels.flatten()[supervised + 1]
    side_by_side = F.pad(source, (0, -longest % ATTENTION_LENGTHS), value=padding)
    real = side_by_side != padding
    learnt = supervised + supervised // longest * (side_by_side.shape[1] - longest)
    is_learnt = torch.zeros_like(real)
    is_learnt.view(-1)[learnt] = True
    packed, rows = _both_ways(real)
    return {
        "words": side_by_side.flatten()[packed],
        "position": packed[None] % side_by_side.shape[1],
        "packed": packed,
        "rows": rows,
        "real": real,
        "learnt": learnt,
        "learnt_rows": _both_ways(is_learnt)[1],
        "learnt_real": is_learnt,
        "of_learnt": rows.flatten()[learnt],
        "targets": targets,
    }


def _both_ways(wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[B, M] bool -> the T places that are wanted, and [B, M]: the number of each among them, 0 of others."""
    numbers = (wanted.flatten().cumsum(0) - 1).view_as(wanted).where(wanted, 0)
    return wanted.flatten().nonzero().flatten().clone(), numbers  # no view: regions are compiled for views apart


class _SideBySide(torch.autograd.Function):
    """[T, ...] -> [B, M, ...]; padding gets a copy of the first row, which no real token looks at."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, packed: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(packed)
        return x[rows]

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (packed,) = ctx.saved_tensors
        return gradient.flatten(0, 1)[packed], None, None


class _InOneRow(torch.autograd.Function):
    """[B, M, ...] -> [T, ...], the way back."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, packed: torch.Tensor, rows: torch.Tensor, real: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(rows, real)
        return x.flatten(0, 1)[packed]

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        rows, real = ctx.saved_tensors
        # A sum over the copies of a row would need atomic additions; each row is asked for once.
        return torch.where(real[..., None], gradient[rows], 0.0), None, None, None


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), dim=-1) * sin


def project(
    layer: nn.Module, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, packed: torch.Tensor, rows: torch.Tensor
) -> list[torch.Tensor]:
    """A layer's norm and the projections of its attention.

    Args:
        layer: GemmaDecoderLayer.
        x: [T, 2048].
        cos, sin: [T, 256].
        packed, rows: see `pack`.

    Returns:
        queries [B, 8, M, 256], keys and values [B, 1, M, 256].
    """
    attention = layer.self_attn
    shape = (len(x), -1, attention.head_dim)
    normed = layer.input_layernorm(x)
    queries = _rotate(attention.q_proj(normed).view(shape), cos[:, None], sin[:, None])
    keys = _rotate(attention.k_proj(normed).view(shape), cos[:, None], sin[:, None])
    values = attention.v_proj(normed).view(shape)
    return [_SideBySide.apply(part, packed, rows).transpose(1, 2) for part in (queries, keys, values)]


def finish(
    layer: nn.Module,
    x: torch.Tensor,
    attended: torch.Tensor,
    places: torch.Tensor,
    place_rows: torch.Tensor,
    place_real: torch.Tensor,
) -> torch.Tensor:
    """A layer's last projection of attention and its MLP, with both residuals.

    Args:
        layer: GemmaDecoderLayer.
        x: [T, 2048], or the S rows where something is learnt.
        attended: [B, 8, M, 256].
        places, place_rows, place_real: of x, see `pack`.

    Returns:
        [T, 2048] or [S, 2048]
    """
    in_one_row = _InOneRow.apply(attended.transpose(1, 2).flatten(2), places, place_rows, place_real)
    x = x + layer.self_attn.o_proj(in_one_row)
    return x + layer.mlp(layer.post_attention_layernorm(x))


class PackedDecoder:
    """Embeddings of a micro-batch to its loss, through Gemma's layers.

    Args:
        region: compiles a function, such as torch.compile. Attention is left out: its kernels are chosen by lengths.
    """

    def __init__(self, region: Callable[[Callable], Callable] = lambda function: function):
        self.project, self.finish, self.loss = region(project), region(finish), region(supervised_loss)

    def __call__(self, model: nn.Module, table: torch.Tensor, expansion: dict[str, Any]) -> torch.Tensor:
        """See `Decoder`; the expansion brings `pack`'s tensors."""
        gemma, at = model.model, expansion
        x = scaled(gemma, table.index_select(0, at["words"]))
        cos, sin = (part[0] for part in gemma.rotary_emb(x, at["position"]))
        lengths = (cos, sin, at["packed"], at["rows"])
        everywhere = (at["packed"], at["rows"], at["real"])
        for layer in gemma.layers[:-1]:
            if layer.gradient_checkpointing:
                x = checkpoint(self._layer, layer, x, lengths, everywhere, use_reentrant=False)
            else:
                x = self._layer(layer, x, lengths, everywhere)
        last = gemma.layers[-1]
        attended = self._attend(last, x, lengths)
        learnt = x.index_select(0, at["of_learnt"])
        x = self.finish(last, learnt, attended, at["learnt"], at["learnt_rows"], at["learnt_real"])
        return self.loss(gemma.norm(x), model.lm_head.weight, at["targets"])

    def _layer(self, layer: nn.Module, x: torch.Tensor, lengths: tuple, everywhere: tuple) -> torch.Tensor:
        return self.finish(layer, x, self._attend(layer, x, lengths), *everywhere)

    def _attend(self, layer: nn.Module, x: torch.Tensor, lengths: tuple) -> torch.Tensor:
        parts = self.project(layer, x, *lengths)
        return F.scaled_dot_product_attention(*parts, is_causal=True, scale=layer.self_attn.scaling, enable_gqa=True)
