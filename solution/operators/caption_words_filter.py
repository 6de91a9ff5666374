"""Keep rows by the number of words of their caption."""

from data_juicer.ops.base_op import OPERATORS
from pydantic import NonNegativeInt

from .common.caption_statistic_filter import CaptionStatisticFilter


@OPERATORS.register_module("caption_words_filter")
class CaptionWordsFilter(CaptionStatisticFilter):
    """Words are separated by white space; the image and end tokens are not counted."""

    stat = "caption_words"

    def __init__(self, min_num: NonNegativeInt = 3, max_num: NonNegativeInt = 40, *args, **kwargs) -> None:
        """Keep captions of min_num to max_num words.

        :param min_num: fewest words to keep
        :param max_num: most words to keep
        """
        super().__init__(*args, **kwargs)
        self.min_num, self.max_num, self.thresholds = min_num, max_num, (min_num, max_num)

    def measure(self, caption: str) -> int:
        """The number of words."""
        return len(caption.split())
