"""Remove web leftovers from captions: mark-up, links, file names, stock agencies' boilerplate."""

import html
import re
import unicodedata

from data_juicer.ops.base_op import OPERATORS, Mapper

from .common.captions import caption_of, with_caption
from .common.rows import FAILURE, Batch, add_texts

# Each is removed anywhere in a caption; the phrases come from web captions in general, not from one data set.
_LEFTOVERS = (
    r"<[a-z/][^<>]{0,80}>",
    r"\b(?:https?://|www\.)\S+",
    r"\b\S+@\S+\.[a-z]{2,}\b",
    r"\b[\w-]+\.(?:jpe?g|png|gif|webp|bmp|tiff?)\b",
    r"\b(?:img|dsc|image|photo)[_-]?\d{3,}\b",
    r"\b(?:royalty[- ]free|rights[- ]managed)(?: (?:stock )?(?:photos?|images?|pictures?|vectors?|illustrations?))?\b",
    r"\bstock (?:photos?|images?|pictures?|vectors?|illustrations?|photography)\b(?:\s*[-–—]?\s*(?:images?\b|\d{3,}))*",
    r"\b(?:click|tap) (?:here|on the image|to (?:enlarge|zoom|view|see)\b[\w ]{0,20})",
    r"\bfree shipping\b[\w ]{0,20}",
    r"\b(?:all rights reserved|copyright \d{4}|(?:buy|shop|order) (?:it |this )?(?:now|online|today))\b",
    r"\b(?:hd )?wallpapers? (?:free )?download\b",
    r"\bfree download\b",
    r"(?:©|\(c\)) ?[^|,;]*$",
)

_MARKS = str.maketrans("", "", "™®")  # Unicode's compatible form of ™ would be the letters TM


@OPERATORS.register_module("caption_cleanup_mapper")
class CaptionCleanupMapper(Mapper):
    """Normalises Unicode and white space, removes mark-up and boilerplate; the tokens around captions stay."""

    _batched_op = True

    def __init__(self, remove: list[str] | None = None, *args, **kwargs) -> None:
        """Clean every caption.

        :param remove: further regular expressions (case is ignored) to remove from captions
        """
        super().__init__(*args, **kwargs)
        self.leftovers = re.compile("|".join(f"(?:{pattern})" for pattern in (*_LEFTOVERS, *(remove or ()))), re.I)

    def process_batched(self, samples: Batch) -> Batch:
        """Clean the captions in place."""
        texts = samples[self.text_key]
        failures = [""] * len(texts)
        for row, text in enumerate(texts):
            try:
                texts[row] = with_caption(text, self.clean(caption_of(text)))
            except ValueError as error:
                failures[row] = str(error)
        add_texts(samples, FAILURE, failures)
        return samples

    def clean(self, caption: str) -> str:
        """The caption without leftovers, possibly empty; a clean one is returned unchanged."""
        plain = " ".join(unicodedata.normalize("NFKC", html.unescape(caption).translate(_MARKS)).split())
        rest = self.leftovers.sub(" ", plain)
        if rest == plain:
            return plain
        # What a removed phrase leaves: doubled spaces, a space before a comma, loose separators at the ends.
        return re.sub(r"\s+([,.;:!?])", r"\1", " ".join(rest.split())).strip(" |-–—:;,/_*#~")
