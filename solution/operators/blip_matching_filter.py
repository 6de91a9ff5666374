"""Keep rows whose caption matches its image by BLIP's image-text matching head, in batches."""

from collections.abc import Sequence
from typing import Annotated

import torch
from data_juicer.ops.base_op import OPERATORS
from PIL import Image
from pydantic import Field, PositiveInt

from .common.loader import load_model
from .common.model_score_filter import ModelScoreFilter

_SHORT = 64  # tokens; a caption has at most one per character, and two special ones
Score = Annotated[float, Field(ge=0, le=1)]


@OPERATORS.register_module("blip_matching_filter")
class BlipMatchingFilter(ModelScoreFilter):
    """Same scores as Data-Juicer's image_text_matching_filter (probability of "match", 0 to 1).

    In float32 on every device: recipes use thresholds such as .998, where a bfloat16 step spans the rest of the scale.
    """

    stat = "blip_matching"
    reads_caption = True

    def __init__(
        self,
        hf_blip: str = "Salesforce/blip-itm-base-coco",
        min_score: Score = 0.5,
        max_score: Score = 1.0,
        model_batch: PositiveInt = 32,
        *args,
        **kwargs,
    ) -> None:
        """Keep rows with min_score <= probability of a match <= max_score.

        :param hf_blip: folder (or hub name) of a BlipForImageTextRetrieval with its processor
        :param min_score: lowest probability to keep, 0 to 1
        :param max_score: highest probability to keep, 0 to 1
        :param model_batch: rows in one forward pass
        """
        super().__init__(hf_blip, min_score, max_score, model_batch, *args, **kwargs)

    def group(self, caption: str) -> int:
        """Separates short captions from long ones: padding all to BLIP's longest text costs more than the image."""
        return int(len(caption) > _SHORT - 2)

    @torch.inference_mode()
    def score(self, images: Sequence[Image.Image], captions: Sequence[str], device: str) -> list[float]:
        """The probability that image and caption match, one per pair."""
        model, processor = load_model(self.model, device, self.dtype(device), "BlipForImageTextRetrieval")
        longest = model.config.text_config.max_position_embeddings
        inputs = processor(
            images=list(images),
            text=list(captions),
            return_tensors="pt",
            padding="max_length",
            truncation=True,
            max_length=longest if self.group(captions[0]) else min(_SHORT, longest),
        ).to(device)
        return model(**inputs).itm_score.softmax(dim=-1)[:, 1].tolist()  # [pairs, (no match, match)]
