"""Keep rows whose image has no watermark."""

from typing import Annotated

from data_juicer.ops.base_op import OPERATORS
from pydantic import Field, PositiveInt

from .common.model_score_filter import ImageClassifierFilter

Score = Annotated[float, Field(ge=0, le=1)]


@OPERATORS.register_module("picture_watermark_filter")
class PictureWatermarkFilter(ImageClassifierFilter):
    """Same scores as Data-Juicer's image_watermark_filter, computed in batches; bfloat16 on a GPU."""

    stat = "picture_watermark"

    def __init__(
        self,
        hf_watermark_model: str = "amrul-hzz/watermark_detector",
        min_score: Score = 0.0,
        max_score: Score = 0.8,
        model_batch: PositiveInt = 64,
        *args,
        **kwargs,
    ) -> None:
        """Keep images with min_score <= probability of a watermark <= max_score.

        :param hf_watermark_model: folder (or hub name) of a two-label image classifier; its second label: watermark
        :param min_score: lowest probability to keep, 0 to 1
        :param max_score: highest probability to keep, 0 to 1
        :param model_batch: images in one forward pass
        """
        super().__init__(hf_watermark_model, min_score, max_score, model_batch, *args, **kwargs)
