"""Features of both frozen towers, computed once per image for many trainings.

Only for the mini world's experiments: training on cached features excludes stochastic depth, so `train` never does.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from toolkit.eval.inference import Answerer
from toolkit.eval.questions import Question
from toolkit.mgm.conversation import IMAGE_TOKEN_INDEX
from toolkit.mgm.images import normalise, open_image, scale_image
from toolkit.mgm.model import MGMGemmaForCausalLM
from toolkit.mgm.vision import stack_maps
from toolkit.mini.convnext import stage_maps
from toolkit.training.data import SampleReader


class FeatureCache:
    """Both towers' features by image index; indices follow the order of first use.

    Args:
        model: its towers are copied, without stochastic depth.
    """

    def __init__(self, model: MGMGemmaForCausalLM):
        self.clip = copy.deepcopy(model.model.vision_tower).eval()
        self.convnext = copy.deepcopy(model.model.vision_tower_aux).eval()
        self.image_size = model.config.vision_config["image_size"]
        self.image_size_aux = model.config.image_size_aux
        self.indices: dict[tuple[Path | bytes, str], int] = {}
        self.tokens: list[torch.Tensor] = []  # [36, 128] each
        # Before they are scaled to one grid the maps take a quarter of the memory: 0.5 MB per image.
        self.maps: list[list[torch.Tensor]] = []

    def index(self, image: Path | bytes, aspect: Literal["square", "pad"]) -> torch.Tensor:
        """An image's index, a scalar; encodes a new image.

        Raises:
            RowFault: missing_image or unreadable_image.
        """
        key = (image, aspect)
        if key not in self.indices:
            pixels = scale_image(open_image(image), self.image_size_aux, aspect)[None]
            # Answering runs in inference mode, whose tensors could not be trained on later.
            with torch.inference_mode(False), torch.no_grad():
                small, large = normalise(pixels.clone(), self.image_size)
                self.tokens.append(self.clip(small)[0])
                self.maps.append(stage_maps(self.convnext, large.contiguous(memory_format=torch.channels_last)))
            self.indices[key] = len(self.indices)
        return torch.tensor(self.indices[key])

    def attach(self, model: MGMGemmaForCausalLM) -> None:
        """Let a model take indices [N] instead of pixels [N, 3, A, A]; its own towers are no longer used."""

        def encode_images(indices: torch.Tensor) -> torch.Tensor:
            maps = [self.maps[index] for index in indices.tolist()]
            aux = stack_maps([torch.cat(stage) for stage in zip(*maps, strict=True)])
            return model.model.adapt(torch.stack([self.tokens[index] for index in indices.tolist()]), aux)

        model.model.encode_images = encode_images


@dataclass(frozen=True)
class FeatureReader(SampleReader):
    """Makes samples whose `pixels` are the image's index in a feature cache.

    Args:
        features: the cache.
    """

    features: FeatureCache

    def sample(self, row: dict[str, Any]) -> dict[str, Any]:
        """See SampleReader."""
        ids, labels = self.tokens(row)
        sample: dict[str, Any] = {"input_ids": ids, "labels": labels}
        if IMAGE_TOKEN_INDEX in ids:
            sample["pixels"] = self.features.index(self.roots.of_row(row), self.aspect)
        return sample


class FeatureAnswerer(Answerer):
    """Answers with a model that takes indices into a feature cache.

    Args:
        model, tokenizer: see Answerer.
        features: the cache; it is attached to the model here.
    """

    def __init__(self, model: MGMGemmaForCausalLM, tokenizer: Any, features: FeatureCache):
        super().__init__(model, tokenizer)
        self.features = features
        features.attach(model)

    def _pixels(self, question: Question) -> torch.Tensor:
        return self.features.index(question.image, self.aspect)
