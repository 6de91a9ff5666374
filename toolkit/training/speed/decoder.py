"""Gemma's decoder in training: its layers one after the other, without the mask that transformers makes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


class Decoder:
    """Embeddings of a micro-batch to its loss; bit by bit what Gemma's own forward gives.

    Padding is on the right, so that no real token looks at it: causal attention needs no mask. Gemma's forward makes
    one all the same, out of the positions, in a sixth of a small model's step. Logits are made where something is
    learnt.
    """

    def __call__(self, model: nn.Module, table: torch.Tensor, expansion: dict[str, Any]) -> torch.Tensor:
        """The mean cross-entropy over all tokens to be learnt.

        Args:
            model: MGMGemmaForCausalLM.
            table: [B * L + N * 576 + 1, 2048], rows of which `expansion["source"]` speaks.
            expansion: of `images.expand`, on the model's device.
        """
        gemma, source = model.model, expansion["source"]
        x = scaled(gemma, table.index_select(0, source.flatten()).view(*source.shape, -1))  # [B, M, 2048]
        where = gemma.rotary_emb(x, torch.arange(source.shape[1], device=x.device)[None])
        for layer in gemma.layers:
            x = layer(x, attention_mask=None, position_embeddings=where)
        x = gemma.norm(x).flatten(0, 1).index_select(0, expansion["supervised"])
        targets = expansion["labels"].flatten().index_select(0, expansion["supervised"] + 1)
        return supervised_loss(x, model.lm_head.weight, targets)


def scaled(gemma: nn.Module, embeddings: torch.Tensor) -> torch.Tensor:
    """Embeddings times the square root of their width, in their own dtype; transformers 5 does so while it embeds."""
    if hasattr(gemma.embed_tokens, "embed_scale"):
        return embeddings
    return embeddings * torch.tensor(gemma.config.hidden_size**0.5, dtype=embeddings.dtype)


def supervised_loss(hidden: torch.Tensor, vocabulary: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of [S, 2048] against [S], logits and sum in fp32."""
    return F.cross_entropy(F.linear(hidden, vocabulary).float(), targets)
