"""Keep rows whose image is safe for work."""

from typing import Annotated

from data_juicer.ops.base_op import OPERATORS
from pydantic import Field, PositiveInt

from .common.model_score_filter import ImageClassifierFilter

Score = Annotated[float, Field(ge=0, le=1)]


@OPERATORS.register_module("picture_nsfw_filter")
class PictureNsfwFilter(ImageClassifierFilter):
    """Same scores as Data-Juicer's image_nsfw_filter, computed in batches; bfloat16 on a GPU."""

    stat = "picture_nsfw"

    def __init__(
        self,
        hf_nsfw_model: str = "Falconsai/nsfw_image_detection",
        min_score: Score = 0.0,
        max_score: Score = 0.5,
        model_batch: PositiveInt = 64,
        *args,
        **kwargs,
    ) -> None:
        """Keep images with min_score <= probability of an unsafe image <= max_score.

        :param hf_nsfw_model: folder (or hub name) of a two-label image classifier; the second label is the unsafe one
        :param min_score: lowest probability to keep, 0 to 1
        :param max_score: highest probability to keep, 0 to 1
        :param model_batch: images in one forward pass
        """
        super().__init__(hf_nsfw_model, min_score, max_score, model_batch, *args, **kwargs)
