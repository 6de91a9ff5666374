"""The two towers of a CLIPModel, for features only: equal to transformers' up to rounding, with less work.

A feature comes from one token: the class token of an image, the end token of a caption. The last layer is computed
for that token alone, a fourteenth of the work. On a CPU with MKL the weights are packed once for passes of one size,
instead of in every pass: another tenth.
"""

from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import CLIPModel

_PACKED: WeakKeyDictionary[CLIPModel, "Towers"] = WeakKeyDictionary()  # packed weights are freed with their model


class Towers:
    """A model's image and text tower; ``images`` per pass of images, ``tokens`` per pass of captions."""

    def __init__(self, model: CLIPModel, images: int, tokens: int) -> None:
        self.device = model.device
        self.scale = model.logit_scale.exp().item()  # what CLIP multiplies a cosine with
        self.vision, self.vision_head = model.vision_model, model.visual_projection
        self.text, self.text_head = model.text_model, model.text_projection
        patches = self.vision.embeddings.num_positions  # the class token is one of them
        self._vision_layers = _Layers(self.vision.encoder.layers, images * patches, is_causal=False)
        self._text_layers = _Layers(self.text.encoder.layers, tokens, is_causal=True)

    def image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """[images, 3, size, size] -> [images, width], of length 1."""
        hidden = self.vision.pre_layrnorm(self.vision.embeddings(pixels))  # [images, patches + 1, hidden]
        wanted = torch.zeros(len(hidden), dtype=torch.long, device=hidden.device)
        pooled = self.vision.post_layernorm(self._vision_layers(hidden, wanted))
        return nn.functional.normalize(self.vision_head(pooled), dim=-1)

    def text_features(self, ids: torch.Tensor) -> torch.Tensor:
        """[captions, tokens] -> [captions, width], of length 1; tokens after an end token have no effect."""
        end = self.text.config.eos_token_id
        # Configurations from before 2023 say 2, which is not the end token; the real one is the last of the vocabulary.
        wanted = ids.argmax(-1) if end == 2 else (ids == end).int().argmax(-1)
        pooled = self.text.final_layer_norm(self._text_layers(self.text.embeddings(ids), wanted))
        return nn.functional.normalize(self.text_head(pooled), dim=-1)


def towers_of(model: CLIPModel, images: int, tokens: int) -> Towers:
    """The model's towers, packed once in the model's lifetime."""
    if model not in _PACKED:
        _PACKED[model] = Towers(model, images, tokens)
    return _PACKED[model]


class _Layers:
    """A stack of CLIP's transformer layers: [rows, tokens, width] and one wanted token per row -> [rows, width]."""

    def __init__(self, layers: nn.ModuleList, size: int, is_causal: bool) -> None:
        """``size``: rows x tokens of the usual passes; others work too, but more slowly."""
        self.layers = layers
        self.size = size
        self.is_causal = is_causal
        self._packed: dict[nn.Linear, torch.Tensor] = {}
        if torch.backends.mkl.is_available() and next(layers.parameters()).device.type == "cpu":
            for linear in filter(lambda module: isinstance(module, nn.Linear), layers.modules()):
                self._packed[linear] = torch.ops.mkl._mkl_reorder_linear_weight(linear.weight, size)

    def __call__(self, hidden: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        for layer in self.layers[:-1]:
            hidden = self._layer(layer, hidden)
        return self._last_layer(self.layers[-1], hidden, wanted)

    def _layer(self, layer: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
        attention, normed = layer.self_attn, layer.layer_norm1(hidden)
        query, key, value = (
            _heads(self._linear(part, normed), attention.num_heads)
            for part in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        mixed = scaled_dot_product_attention(query, key, value, is_causal=self.is_causal)
        hidden = hidden + self._linear(attention.out_proj, mixed.transpose(1, 2).reshape(hidden.shape))
        inner = layer.mlp.activation_fn(self._linear(layer.mlp.fc1, layer.layer_norm2(hidden)))
        return hidden + self._linear(layer.mlp.fc2, inner)

    def _last_layer(self, layer: nn.Module, hidden: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """As `_layer`, with one query token per row."""
        attention, normed = layer.self_attn, layer.layer_norm1(hidden)
        rows, positions = torch.arange(len(hidden), device=hidden.device), torch.arange(hidden.shape[1])
        query = _heads(attention.q_proj(normed[rows, wanted])[:, None], attention.num_heads)  # [rows, heads, 1, size]
        key = _heads(self._linear(attention.k_proj, normed), attention.num_heads)
        value = _heads(self._linear(attention.v_proj, normed), attention.num_heads)
        seen = (positions.to(wanted) <= wanted[:, None])[:, None, None] if self.is_causal else None
        mixed = scaled_dot_product_attention(query, key, value, attn_mask=seen)  # [rows, heads, 1, size]
        hidden = hidden[rows, wanted] + attention.out_proj(mixed.flatten(1))
        return hidden + layer.mlp(layer.layer_norm2(hidden))

    def _linear(self, linear: nn.Linear, inputs: torch.Tensor) -> torch.Tensor:
        packed = self._packed.get(linear)
        if packed is None or inputs.shape[:-1].numel() != self.size:
            return linear(inputs)
        return torch.ops.mkl._mkl_linear(inputs, packed, linear.weight, linear.bias, self.size)


def _heads(tensor: torch.Tensor, count: int) -> torch.Tensor:
    """[rows, tokens, width] -> [rows, heads, tokens, width / heads]."""
    return tensor.unflatten(-1, (count, -1)).transpose(1, 2)
