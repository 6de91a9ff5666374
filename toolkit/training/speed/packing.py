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


def pack(source: torch.Tensor, labels: torch.Tensor, supervised: torch.Tensor, padding: int) -> dict[str, torch.Tensor]:
    """Where the real tokens of a micro-batch are; on the CPU, by the loader's workers.

    Args:
        source, labels, supervised: of `images.expand`, padded on the right.
        padding: of source.

    Returns:
        packed [T]: their places in [B * M]; rows [B, M]: the row in [T] of each place, 0 of padding; real [B, M];
        position [1, T]: in its sample; learnt [S]: places in [B * M], learnt_rows [B, M]: the row in [S] of each
        place, 0 of others; learnt_real [B, M]; of_learnt [S]: rows in [T]; targets [S]: the tokens to be learnt.
    """
    real = source != padding
    packed = real.flatten().nonzero().flatten()
    rows = (real.flatten().cumsum(0) - 1).clamp(min=0).where(real.flatten(), 0)
    is_learnt = torch.zeros(source.numel(), dtype=torch.bool)
    is_learnt[supervised] = True
    learnt_rows = (is_learnt.cumsum(0) - 1).clamp(min=0).where(is_learnt, 0)
    return {
        "packed": packed,
        "rows": rows.view_as(source),
        "real": real,
        "position": packed[None] % source.shape[1],
        "learnt": supervised,
        "learnt_rows": learnt_rows.view_as(source),
        "learnt_real": is_learnt.view_as(source),
        "of_learnt": rows[supervised],
        "targets": labels.flatten()[supervised + 1],
    }


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


def attend(
    layer: nn.Module,
    x: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    packed: torch.Tensor,
    rows: torch.Tensor,
    places: torch.Tensor,
    place_rows: torch.Tensor,
    place_real: torch.Tensor,
) -> torch.Tensor:
    """A layer's norm and attention, before its last projection.

    Args:
        layer: GemmaDecoderLayer.
        x: [T, 2048].
        cos, sin: [T, 256].
        packed, rows: see `pack`.
        places, place_rows, place_real: which places are wanted, all T or the S learnt ones.

    Returns:
        [T, 2048] or [S, 2048]
    """
    attention = layer.self_attn
    shape = (len(x), -1, attention.head_dim)
    normed = layer.input_layernorm(x)
    queries = _rotate(attention.q_proj(normed).view(shape), cos[:, None], sin[:, None])
    keys = _rotate(attention.k_proj(normed).view(shape), cos[:, None], sin[:, None])
    values = attention.v_proj(normed).view(shape)
    side_by_side = [_SideBySide.apply(t, packed, rows).transpose(1, 2) for t in (queries, keys, values)]
    found = F.scaled_dot_product_attention(*side_by_side, is_causal=True, scale=attention.scaling, enable_gqa=True)
    return _InOneRow.apply(found.transpose(1, 2).flatten(2), places, place_rows, place_real)


def finish(layer: nn.Module, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
    """A layer's last projection of attention and its MLP, with both residuals: [T, 2048] -> [T, 2048]."""
    x = x + layer.self_attn.o_proj(attended)
    return x + layer.mlp(layer.post_attention_layernorm(x))


def supervised_loss(hidden: torch.Tensor, vocabulary: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of [S, 2048] against [S], logits and sum in fp32."""
    return F.cross_entropy(F.linear(hidden, vocabulary).float(), targets)


class PackedDecoder:
    """Embeddings of a micro-batch to its loss, through Gemma's layers.

    Args:
        compiled: makes a region of a function, such as torch.compile.
    """

    def __init__(self, compiled: Callable[[Callable], Callable] = lambda function: function):
        self.attend, self.finish, self.loss = compiled(attend), compiled(finish), compiled(supervised_loss)

    def __call__(self, model: nn.Module, table: torch.Tensor, expansion: dict[str, Any]) -> torch.Tensor:
        """The loss.

        Args:
            model: MGMGemmaForCausalLM.
            table: [B * L + N * 576 + 1, 2048], rows of which `expansion["source"]` speaks.
            expansion: of the loader, with `pack`'s tensors, on the model's device.
        """
        gemma, at = model.model, expansion
        packed = at["packed"]
        x = table.index_select(0, at["source"].flatten()[packed])
        cos, sin = (part[0] for part in gemma.rotary_emb(x, at["position"]))
        if not hasattr(gemma.embed_tokens, "embed_scale"):  # transformers 5 scales in the embedding
            x = x * torch.tensor(gemma.config.hidden_size**0.5, dtype=x.dtype)
        common = (cos, sin, packed, at["rows"])
        # Copies: a region in which two arguments are one tensor is compiled apart.
        wanted = (packed.clone(), at["rows"].clone(), at["real"])
        for layer in gemma.layers[:-1]:
            if layer.gradient_checkpointing:
                x = checkpoint(self._layer, layer, x, *common, *wanted, use_reentrant=False)
            else:
                x = self._layer(layer, x, *common, *wanted)
        last = gemma.layers[-1]
        attended = self.attend(last, x, *common, at["learnt"], at["learnt_rows"], at["learnt_real"])
        x = gemma.norm(self.finish(last, x.index_select(0, at["of_learnt"]), attended))
        return self.loss(x, model.lm_head.weight, at["targets"])

    def _layer(self, layer: nn.Module, x: torch.Tensor, *where: torch.Tensor) -> torch.Tensor:
        return self.finish(layer, x, self.attend(layer, x, *where))
