"""The two frozen towers' view of every picture, computed once for many trainings.

For the mini world's own experiments only: training on remembered maps knows no stochastic depth, so `train` never does.
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
from toolkit.mgm.images import normalise, open_image, scale_picture
from toolkit.mgm.model import MGMGemmaForCausalLM
from toolkit.mgm.vision import stack_maps
from toolkit.mini.convnext import stage_maps
from toolkit.training.data import SampleReader


class Towers:
    """Both towers' maps by picture; a picture is named by its place, in the order they were first asked for.

    Args:
        model: its towers are copied, without stochastic depth.
    """

    def __init__(self, model: MGMGemmaForCausalLM):
        self.clip = copy.deepcopy(model.model.vision_tower).eval()
        self.convnext = copy.deepcopy(model.model.vision_tower_aux).eval()
        self.image_size = model.config.vision_config["image_size"]
        self.image_size_aux = model.config.image_size_aux
        self.places: dict[tuple[Path | bytes, str], int] = {}
        self.tokens: list[torch.Tensor] = []  # [36, 128] each
        # Before they are brought to one grid the maps take a quarter of the memory: 0.5 MB a picture.
        self.maps: list[list[torch.Tensor]] = []

    def place(self, image: Path | bytes, aspect: Literal["square", "pad"]) -> torch.Tensor:
        """A picture's place, a scalar; encodes a new one.

        Raises:
            RowFault: missing_image or unreadable_image.
        """
        key = (image, aspect)
        if key not in self.places:
            pixels = scale_picture(open_image(image), self.image_size_aux, aspect)[None]
            # Answering runs in inference mode, whose tensors could not be trained on later.
            with torch.inference_mode(False), torch.no_grad():
                small, large = normalise(pixels.clone(), self.image_size)
                self.tokens.append(self.clip(small)[0])
                self.maps.append(stage_maps(self.convnext, large.contiguous(memory_format=torch.channels_last)))
            self.places[key] = len(self.places)
        return torch.tensor(self.places[key])

    def attach(self, model: MGMGemmaForCausalLM) -> None:
        """Let a model see places [N] where it expects pixels [N, 3, A, A]; its own towers are not used any more."""

        def encode_images(places: torch.Tensor) -> torch.Tensor:
            maps = [self.maps[place] for place in places.tolist()]
            aux = stack_maps([torch.cat(stage) for stage in zip(*maps, strict=True)])
            return model.model.adapt(torch.stack([self.tokens[place] for place in places.tolist()]), aux)

        model.model.encode_images = encode_images


@dataclass(frozen=True)
class PlaceReader(SampleReader):
    """Makes samples whose `pixels` are the picture's place.

    Args:
        towers: remember the pictures.
    """

    towers: Towers

    def sample(self, row: dict[str, Any]) -> dict[str, Any]:
        """See SampleReader."""
        ids, labels = self.tokens(row)
        sample: dict[str, Any] = {"input_ids": ids, "labels": labels}
        if IMAGE_TOKEN_INDEX in ids:
            sample["pixels"] = self.towers.place(self.picture_path(row), self.aspect)
        return sample


class PlaceAnswerer(Answerer):
    """Answers with a model that sees places.

    Args:
        model, tokenizer: see Answerer.
        towers: attached to the model here.
    """

    def __init__(self, model: MGMGemmaForCausalLM, tokenizer: Any, towers: Towers):
        super().__init__(model, tokenizer)
        self.towers = towers
        towers.attach(model)

    def _pixels(self, question: Question) -> torch.Tensor:
        return self.towers.place(question.image, self.aspect)
