"""Keep rows by the text in their image, and by how much of it and of the caption is the same."""

from typing import Annotated

from data_juicer.ops.base_op import OPERATORS, Filter
from data_juicer.utils.constant import Fields
from pydantic import Field, NonNegativeInt

from .common.captions import caption_of
from .common.rows import FAILURE, MODEL_ROWS, Batch, add_texts
from .common.text_reader import Legible, TextReader, plain, words_of

Share = Annotated[float, Field(ge=0, le=1)]


@OPERATORS.register_module("image_text_reading_filter")
class ImageTextReadingFilter(Filter):
    """Three statistics of what is read: how many words, how many of these the caption names, how much of it they are.

    - `read_words`: words in the image; posters and pages of text have many.
    - `read_caption_share`: share of the caption's words that stand in the image; 1 where it only repeats them.
    - `read_named_share`: share of the image's words that the caption names; 1 for an image without text.
    """

    _batched_op = True

    def __init__(
        self,
        min_words: NonNegativeInt = 0,
        max_words: NonNegativeInt = 1_000_000,
        min_caption_share: Share = 0.0,
        max_caption_share: Share = 1.0,
        min_named_share: Share = 0.0,
        max_named_share: Share = 1.0,
        min_confidence: Share = 0.9,
        min_height: Share = 0.03,
        latin_only: bool = True,
        side: Annotated[int, Field(ge=32, le=2000)] = 736,
        *args,
        **kwargs,
    ) -> None:
        """Keep rows whose three statistics lie within their bounds.

        :param min_words: fewest words in the image
        :param max_words: most words in the image
        :param min_caption_share: smallest share of the caption's words that stand in the image, 0 to 1
        :param max_caption_share: largest such share
        :param min_named_share: smallest share of the image's words that the caption names, 0 to 1
        :param max_named_share: largest such share
        :param min_confidence: texts read less surely do not count, 0 to 1
        :param min_height: texts lower than this share of the image's height do not count
        :param latin_only: whether texts with letters of other scripts do not count
        :param side: px; smaller images are enlarged to this shorter side before texts are looked for
        """
        super().__init__(*args, **{"batch_size": MODEL_ROWS} | kwargs)
        self.min_words, self.max_words = min_words, max_words
        self.min_caption_share, self.max_caption_share = min_caption_share, max_caption_share
        self.min_named_share, self.max_named_share = min_named_share, max_named_share
        self.legible = Legible(min_confidence, min_height, latin_only)
        self.reader = TextReader(side)

    def compute_stats_batched(self, samples: Batch) -> Batch:
        """Write the three statistics (None for a failed row) to each row's stats."""
        read, failures = self.reader.read(samples[self.image_key])
        for text, texts, failure, stats in zip(
            samples[self.text_key], read, failures, samples[Fields.stats], strict=True
        ):
            caption, found = caption_of(text), words_of(self.legible.of(texts))
            said, shown = plain(caption), plain("".join(found))
            named = sum(plain(word) in said for word in found)
            own = [word for word in map(plain, caption.split()) if word]
            repeated = sum(len(word) > 1 and word in shown for word in own)
            stats["read_words"] = None if failure else len(found)
            stats["read_caption_share"] = None if failure else repeated / max(len(own), 1)
            stats["read_named_share"] = None if failure else (named / len(found) if found else 1.0)
        add_texts(samples, FAILURE, failures)
        return samples

    def process_batched(self, samples: Batch) -> list[bool]:
        """True (keep) or False per row."""
        return [
            stats["read_words"] is not None
            and self.get_keep_boolean(stats["read_words"], self.min_words, self.max_words)
            and self.get_keep_boolean(stats["read_caption_share"], self.min_caption_share, self.max_caption_share)
            and self.get_keep_boolean(stats["read_named_share"], self.min_named_share, self.max_named_share)
            for stats in samples[Fields.stats]
        ]
