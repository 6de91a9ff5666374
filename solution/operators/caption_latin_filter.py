"""Keep rows whose caption is written in plain Latin letters (most of the seed is English)."""

from typing import Annotated

from data_juicer.ops.base_op import OPERATORS
from pydantic import Field

from .common.caption_statistic_filter import CaptionStatisticFilter

Ratio = Annotated[float, Field(ge=0, le=1)]


@OPERATORS.register_module("caption_latin_filter")
class CaptionLatinFilter(CaptionStatisticFilter):
    """The share of a caption's characters, white space left out, that are ASCII letters."""

    stat = "caption_latin_ratio"

    def __init__(self, min_ratio: Ratio = 0.7, max_ratio: Ratio = 1.0, *args, **kwargs) -> None:
        """Keep captions with min_ratio <= share of ASCII letters <= max_ratio.

        :param min_ratio: lowest share to keep, 0 to 1
        :param max_ratio: highest share to keep, 0 to 1
        """
        super().__init__(*args, **kwargs)
        self.min_ratio, self.max_ratio, self.thresholds = min_ratio, max_ratio, (min_ratio, max_ratio)

    def measure(self, caption: str) -> float:
        """The share of ASCII letters; 0 for an empty caption."""
        characters = "".join(caption.split())
        if not characters:
            return 0.0
        return sum(character.isascii() and character.isalpha() for character in characters) / len(characters)
