"""Texts in images, read by RapidOCR; the models come with its package, so nothing is fetched."""

import importlib.util
import json
import re
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.metadata import version
from typing import Any

import numpy as np
from PIL import Image

from .images import open_images
from .score_store import ScoreStore, blocks_of, score_folder, values_per_row

_PACKAGE = "rapidocr-onnxruntime"
INSTALL = "pip install --no-deps -r solution/requirements-reading.txt -c constraints.txt"
# What is printed on an image by those who sell it, and addresses: no part of what it shows.
_MARKS = re.compile(
    r"shutterstock|alamy|dreamstime|depositphotos|123rf|gettyimages|istock|bigstock|adobe ?stock|fotolia|"
    r"www\.|https?:|\.(?:com|net|org|co\.uk|de|ru|cn)\b|@|©",
    re.IGNORECASE,
)
_LONGEST_WORD = 16  # characters; the reader often misses spaces, and longer ones are seldom one word
_VERSION = 1  # of what is stored; another one invalidates stored readings


@dataclass(frozen=True)
class Text:
    """One line of text in an image: what is read, how surely (0 to 1), and its box in shares of the image's sides."""

    text: str
    confidence: float
    left: float
    top: float
    height: float


@dataclass(frozen=True)
class Legible:
    """Which texts count.

    Args:
        min_confidence: of the reading, 0 to 1.
        min_height: of a line, as a share of the image's height.
        latin_only: whether texts with letters of other scripts are left out.
    """

    min_confidence: float
    min_height: float
    latin_only: bool

    def of(self, texts: Sequence[Text]) -> list[Text]:
        """Those that count, in reading order: words, and no addresses, numbers or agencies' marks."""
        return [
            text
            for text in in_reading_order(texts)
            if text.confidence >= self.min_confidence
            and text.height >= self.min_height
            and _has_words(text.text)
            and not _MARKS.search(text.text)
            and not (self.latin_only and any(map(_is_foreign, text.text)))
        ]


class TextReader:
    """Reads all texts of an image; the result depends on nothing but the image, and none is read twice.

    On one core and one thread: the number of threads would change the last digits of a confidence.
    """

    def __init__(self, side: int) -> None:
        """``side``: smaller images are enlarged to this shorter side, px, before texts are looked for.

        Raises ImportError where the package is missing.
        """
        if importlib.util.find_spec("rapidocr_onnxruntime") is None:
            raise ImportError(f"needs the package {_PACKAGE}: {INSTALL}")
        self.side = side

    @cached_property
    def store(self) -> ScoreStore[str]:
        """What was read before, as JSON."""
        packages = " ".join(f"{name} {version(name)}" for name in (_PACKAGE, "onnxruntime"))
        return ScoreStore(score_folder(), f"texts {_VERSION} {packages} side {self.side}", str)

    def read(self, images: Sequence[Sequence[str] | None]) -> tuple[list[list[Text]], list[str]]:
        """(texts, failures) per row: the texts of the row's images one after another; a failed row has none."""

        def compute(rows: list[int], failures: list[str]) -> Iterator[dict[int, str]]:
            for block in blocks_of(rows):
                found: dict[int, list[Any]] = {row: [] for row in block}
                paths = [(row, path) for row in block for path in images[row] or ()]
                for row, image in open_images(paths, failures):
                    found[row] += self._texts(image)
                yield {row: json.dumps(texts) for row, texts in found.items() if not failures[row]}

        values, failures = values_per_row(self.store, images, [[] for _ in images], compute)
        return [[Text(*text) for text in json.loads(value or "[]")] for value in values], failures

    def _texts(self, image: Image.Image) -> list[tuple[str, float, float, float, float]]:
        """The fields of each text."""
        pixels = np.asarray(image)[:, :, ::-1]  # the package expects blue first
        lines, _ = _engine(self.side)(np.ascontiguousarray(pixels), use_cls=False)
        found = []
        for box, text, confidence in lines or ():
            corners = np.asarray(box) / image.size
            left, top = corners.min(axis=0).tolist()
            bottom = float(corners[:, 1].max())
            found.append((text.strip(), round(float(confidence), 4), *(round(x, 4) for x in (left, top, bottom - top))))
        return found


@lru_cache(maxsize=2)
def _engine(side: int) -> Any:
    from rapidocr_onnxruntime import RapidOCR

    return RapidOCR(det_limit_side_len=side, intra_op_num_threads=1, inter_op_num_threads=1)


def in_reading_order(texts: Sequence[Text]) -> list[Text]:
    """Lines from top to bottom, and within a line from left to right.

    A text belongs to the line above it where its middle lies beside that line's first text.
    """
    lines: list[list[Text]] = []
    for text in sorted(texts, key=lambda text: (text.top + text.height / 2, text.left)):
        first = lines[-1][0] if lines else None
        if first and text.top + text.height / 2 < first.top + first.height:
            lines[-1].append(text)
        else:
            lines.append([text])
    return [text for line in lines for text in sorted(line, key=lambda text: text.left)]


def plain(text: str) -> str:
    """Letters and digits alone, in lower case: how texts are compared, as readings often lack their spaces."""
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKC", text).casefold()))


def words_of(texts: Collection[Text]) -> list[str]:
    """All words of some texts."""
    return [word for text in texts for word in text.text.split() if plain(word)]


def _has_words(text: str) -> bool:
    """Whether a text is of letters in the main, at least two, and none of its words is several read as one."""
    letters, signs = sum(map(str.isalpha, text)), sum(map(str.isalnum, text))
    return letters > 1 and 2 * letters > signs and max(map(len, text.split())) <= _LONGEST_WORD


def _is_foreign(character: str) -> bool:
    """Whether it is a letter of another script than Latin."""
    return character.isalpha() and not unicodedata.name(character, "").startswith("LATIN")
