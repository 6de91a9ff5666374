"""Keep rows whose image people would call beautiful."""

from collections.abc import Sequence
from typing import Annotated

import torch
from data_juicer.ops.base_op import OPERATORS
from PIL import Image
from pydantic import Field, PositiveInt

from .common.aesthetics import load_aesthetics
from .common.loader import dtype_for
from .common.model_score_filter import ModelScoreFilter

Score = Annotated[float, Field(ge=0, le=1)]


@OPERATORS.register_module("picture_aesthetics_filter")
class PictureAestheticsFilter(ModelScoreFilter):
    """Same scores as Data-Juicer's image_aesthetics_filter (0 to 1), without the package that filter needs.

    The folder may have any name: which of LAION's heads it holds is read from its weights.
    """

    stat = "picture_aesthetics"

    def __init__(
        self,
        hf_scorer_model: str = "shunk031/aesthetics-predictor-v2-sac-logos-ava1-l14-linearMSE",
        min_score: Score = 0.5,
        max_score: Score = 1.0,
        model_batch: PositiveInt = 64,
        *args,
        **kwargs,
    ) -> None:
        """Keep images with min_score <= score <= max_score.

        :param hf_scorer_model: folder (or hub name) of an aesthetics predictor, version 1 or 2, with its processor
        :param min_score: lowest score to keep, 0 to 1
        :param max_score: highest score to keep, 0 to 1
        :param model_batch: images in one forward pass
        """
        super().__init__(hf_scorer_model, min_score, max_score, model_batch, *args, **kwargs)

    def dtype(self, device: str) -> torch.dtype:
        """bfloat16 on a GPU; the head stays in float32."""
        return dtype_for(device)

    @torch.inference_mode()
    def score(self, images: Sequence[Image.Image], captions: Sequence[str], device: str) -> list[float]:
        """One score per image: the predictor's 0 to 10, divided by 10."""
        predictor, processor = load_aesthetics(self.model, device, self.dtype(device))
        pixels = processor(images=list(images), return_tensors="pt").pixel_values.to(device)
        return (predictor(pixels) / 10).tolist()
