"""Write what stands in an image into its caption: "... with a sign reading OPEN"."""

import re
from typing import Annotated

from data_juicer.ops.base_op import OPERATORS, Mapper
from pydantic import Field, PositiveInt

from .common.captions import caption_of, with_caption
from .common.reasons import text_read
from .common.rows import FAILURE, MODEL_ROWS, NOTE, Batch, add_texts, count_rows
from .common.text_reader import Legible, Text, TextReader, in_reading_order, plain

Share = Annotated[float, Field(ge=0, le=1)]


@OPERATORS.register_module("image_text_reading_mapper")
class ImageTextReadingMapper(Mapper):
    """Texts that a caption does not say already are added to it, the tallest first, in reading order.

    A caption that claims another text (`replaces`) gets the one that is read in its place. Rows without a legible text
    stay as they are, as do rows with several images; an unreadable image fails its row.
    """

    _batched_op = True

    def __init__(
        self,
        template: str = "{caption} with a sign reading {text}",
        replaces: list[str] | None = None,
        min_confidence: Share = 0.9,
        min_height: Share = 0.03,
        latin_only: bool = True,
        max_words: PositiveInt = 8,
        max_caption_words: PositiveInt = 60,
        side: Annotated[int, Field(ge=32, le=2000)] = 736,
        *args,
        **kwargs,
    ) -> None:
        """Write texts into captions.

        :param template: the new caption, of {caption} and {text}
        :param replaces: regular expressions with one group, what a caption claims to be written in the image; where
            that is not among what is read, what is read takes the group's place
        :param min_confidence: texts read less surely are left out, 0 to 1
        :param min_height: texts lower than this share of the image's height are left out
        :param latin_only: whether texts with letters of other scripts are left out
        :param max_words: words of the image that a caption gets at most
        :param max_caption_words: a caption that would have more words stays as it is
        :param side: px; smaller images are enlarged to this shorter side before texts are looked for
        """
        super().__init__(*args, **{"batch_size": MODEL_ROWS} | kwargs)
        try:
            template.format(caption="", text="")
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(f"template {template!r}: expected {{caption}} and {{text}} ({error})") from None
        if "{text}" not in template:
            raise ValueError(f"template {template!r} has no {{text}}")
        self.template = template
        self.replaces = [_pattern(pattern) for pattern in replaces or ()]
        self.legible = Legible(min_confidence, min_height, latin_only)
        self.max_words, self.max_caption_words = max_words, max_caption_words
        self.reader = TextReader(side)

    def process_batched(self, samples: Batch) -> Batch:
        """Replace captions in place."""
        texts, images = samples[self.text_key], samples[self.image_key]
        read, failures = self.reader.read(images)
        notes = [""] * count_rows(samples)
        for row, found in enumerate(read):
            if failures[row] or len(images[row]) != 1:
                continue
            caption = caption_of(texts[row])
            new, added = self._written(caption, self.legible.of(found))
            if new != caption:
                texts[row] = with_caption(texts[row], new)
                notes[row] = text_read(added)
        add_texts(samples, FAILURE, failures)
        add_texts(samples, NOTE, notes)
        return samples

    def _written(self, caption: str, texts: list[Text]) -> tuple[str, str]:
        """The new caption, which may be the old one, and the text that it got."""
        said = plain(caption)
        missing = [text for text in texts if plain(text.text) not in said]
        text = " ".join(text.text for text in self._chosen(missing))
        if not text:
            return caption, ""
        for pattern in self.replaces:
            claimed = pattern.search(caption)
            if claimed and claimed[1]:
                if any(plain(claimed[1]) in plain(text.text) for text in texts):
                    return caption, ""
                new = caption[: claimed.start(1)] + text + caption[claimed.end(1) :]
                break
        else:
            new = self.template.format(caption=caption.rstrip(" .,;"), text=text).strip()
        return (new, text) if len(new.split()) <= self.max_caption_words else (caption, "")

    def _chosen(self, texts: list[Text]) -> list[Text]:
        """As many of the tallest texts as the caption may get words."""
        chosen, words = [], 0
        for text in sorted(texts, key=lambda text: -text.height):
            words += len(text.text.split())
            if words > self.max_words:
                break
            if plain(text.text) not in map(plain, (other.text for other in chosen)):
                chosen.append(text)
        return in_reading_order(chosen)


def _pattern(pattern: str) -> re.Pattern[str]:
    """A compiled expression. Raises ValueError where it is none, or has not one group."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"replaces: {pattern!r} is no regular expression ({error})") from None
    if compiled.groups != 1:
        raise ValueError(f"replaces: {pattern!r} has {compiled.groups} groups, expected one: the text that is claimed")
    return compiled
