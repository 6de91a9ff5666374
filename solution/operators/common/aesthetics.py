"""LAION's aesthetics predictors: CLIP's vision tower with a small head that returns 0 to 10."""

from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoImageProcessor, CLIPImageProcessor, CLIPVisionModelWithProjection
from transformers.utils import cached_file

from .faults import loading

# The last weight of each published head -> its linear layers (dropout and activations have the other indices), and
# whether a ReLU comes between them. Version 1 has one layer, version 2 five.
_HEADS = {
    "predictor.weight": (["predictor"], False),
    "layers.7.weight": ([f"layers.{index}" for index in (0, 2, 4, 6, 7)], False),
    "layers.11.weight": ([f"layers.{index}" for index in (0, 3, 6, 9, 11)], True),
}


class AestheticsPredictor(nn.Module):
    """Pixels [N, 3, S, S] -> scores [N], about 0 (ugly) to 10 (beautiful); the head computes in float32."""

    def __init__(self, tower: CLIPVisionModelWithProjection, head: nn.Module) -> None:
        super().__init__()
        self.tower = tower
        self.head = head

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """One score per image."""
        features = self.tower(pixel_values.to(self.tower.dtype)).image_embeds.float()  # [N, projection]
        return self.head(nn.functional.normalize(features, dim=-1)).squeeze(-1)


def build_head(weights: dict[str, torch.Tensor], name: str) -> nn.Sequential:
    """The head among a predictor's ``weights``. Raises ValueError, naming the model, if there is none."""
    mark = next((mark for mark in _HEADS if mark in weights), None)
    if mark is None:
        raise ValueError(f"model {name} is no aesthetics predictor: it has no weight {' or '.join(_HEADS)}")
    names, relu = _HEADS[mark]
    layers: list[nn.Module] = []
    for layer_name in names:
        weight = weights[f"{layer_name}.weight"]  # [out, in]
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.load_state_dict({"weight": weight, "bias": weights[f"{layer_name}.bias"]})
        layers += [layer, nn.ReLU()] if relu and layer_name != names[-1] else [layer]
    return nn.Sequential(*layers)


@lru_cache(maxsize=1)
def load_aesthetics(folder: str, device: str, dtype: torch.dtype) -> tuple[AestheticsPredictor, CLIPImageProcessor]:
    """(predictor, image processor) of a folder or hub name. Raises SetupFault where it cannot be loaded."""
    with loading(folder):
        file = cached_file(folder, "model.safetensors", _raise_exceptions_for_missing_entries=False)
        if file is None:
            file = cached_file(folder, "pytorch_model.bin")
        weights = load_file(file) if Path(file).suffix == ".safetensors" else torch.load(file, weights_only=True)
        head = build_head(weights, folder)
        tower = CLIPVisionModelWithProjection.from_pretrained(folder, dtype=dtype)
        return AestheticsPredictor(tower, head).to(device).eval(), AutoImageProcessor.from_pretrained(folder)
