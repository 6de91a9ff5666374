"""Features of both frozen towers, computed once per image for many trainings.

Only for small models and the lab: training on cached features excludes stochastic depth, so `train` never does.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from toolkit.eval.inference import Answerer
from toolkit.eval.questions import Question
from toolkit.mgm.conversation import IMAGE_TOKEN_INDEX
from toolkit.mgm.images import normalise, open_image, scale_image
from toolkit.mgm.model import MGMGemmaForCausalLM
from toolkit.training.data import SampleReader

Aspect = Literal["square", "pad"]
# 4 GB; the seed, finetuning set and questions of one draw are about 5,000.
MOST_IMAGES = 8000


class FeatureCache:
    """Both towers' features by image index; the features of the images used longest ago are dropped, and made again.

    Args:
        model: its towers are copied, without stochastic depth.
        images: features held at most, of so many images; a training needs all of its own to be quick.
    """

    def __init__(self, model: MGMGemmaForCausalLM, images: int = MOST_IMAGES):
        self.clip = copy.deepcopy(model.model.vision_tower).eval()
        self.convnext = copy.deepcopy(model.model.vision_tower_aux).eval()
        self.image_size = model.config.vision_config["image_size"]
        self.image_size_aux = model.config.image_size_aux
        self.images = images
        self.keys: list[tuple[Path | bytes, Aspect]] = []
        self.indices: dict[tuple[Path | bytes, Aspect], int] = {}
        self.encoded = 0
        # Tokens [36, 128], and maps before they are scaled to one grid, which take a quarter of the memory then: 0.5 MB
        # per image.
        self._features: OrderedDict[int, tuple[torch.Tensor, list[torch.Tensor]]] = OrderedDict()

    def index(self, image: Path | bytes, aspect: Aspect) -> torch.Tensor:
        """An image's index, a scalar; indices follow the order of first use. Encodes an image without features.

        Raises:
            RowFault: missing_image or unreadable_image.
        """
        key = (image, aspect)
        if key not in self.indices:
            self.indices[key] = len(self.keys)
            self.keys.append(key)
        self.features(self.indices[key])
        return torch.tensor(self.indices[key])

    def features(self, index: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """CLIP's tokens [36, 128] and ConvNeXt's maps of an image."""
        if index in self._features:
            self._features.move_to_end(index)
            return self._features[index]
        image, aspect = self.keys[index]
        pixels = scale_image(open_image(image), self.image_size_aux, aspect)[None]
        # Answering runs in inference mode, whose tensors could not be trained on later.
        with torch.inference_mode(False), torch.no_grad():
            small, large = normalise(pixels.clone(), self.image_size)
            maps = self.convnext(large.contiguous(memory_format=torch.channels_last))
            self._features[index] = self.clip(small)[0], maps
        self.encoded += 1
        if len(self._features) > self.images:
            self._features.popitem(last=False)
        return self._features[index]

    def attach(self, model: MGMGemmaForCausalLM) -> None:
        """Let a model take indices [N] instead of pixels [N, 3, A, A]; its own towers are no longer used."""

        def encode_images(indices: torch.Tensor) -> torch.Tensor:
            tokens, maps = zip(*map(self.features, indices.tolist()), strict=True)
            stages = [torch.cat(stage).to(model.device) for stage in zip(*maps, strict=True)]
            return model.model.adapt(torch.stack(tokens).to(model.device), stages)

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
