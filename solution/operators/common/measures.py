"""Measures of a row's images, taken for all operators of a recipe when its seed is read: each image is decoded once.

A class of operators that has `measures`, name -> function of a grey image, asks for its values with `measured`. Those
taken when the seed was read travel with the rows as text, in the column MEASURES; an image that has changed since, or
was made by an operator, is decoded again.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from itertools import repeat
from typing import Any

from PIL import Image

from .images import ImageError, check_image, read_image, stat_image
from .reasons import NO_IMAGE
from .rows import MEASURES, Batch

Measure = Callable[[Image.Image], Any]  # grey image (mode L) -> a value that JSON holds exactly

SIZE = "size"  # the name of `upright_size`, which is known wherever another measure is
_ORIENTATION = 0x0112  # the EXIF entry that says how a camera was held
_LARGE = 1 << 24  # pixels; a larger image is left to its operators, as several threads may take measures
_IMAGE = "image"  # key of the text in MEASURES that names the file


def measures_of(operators: Sequence[Any]) -> dict[str, Measure]:
    """All measures that the operators ask for, by name."""
    return {name: measure for operator in operators for name, measure in getattr(operator, "measures", {}).items()}


def take_measures(path: str, measures: Mapping[str, Measure]) -> str:
    """Decode an image and return the text for MEASURES; empty where no measures are taken.

    Raises ImageError where the image is unfit, with the text of `check_image`.
    """
    if measures:
        try:
            named = _name_of(path)  # before it is read: if it changes meanwhile, the text is of no file
            values = read_image(path, lambda image: _values_of(image, measures))
        except ImageError:
            values = None
        if values is not None:
            return json.dumps({_IMAGE: named} | values)
    check_image(path)
    return ""


def measured(samples: Batch, image_key: str, name: str, measure: Measure) -> tuple[list[list[Any]], list[str]]:
    """(values, failures), one of each per row: the measure of each image of the row, or why it has none."""
    rows, failures = [], []
    for paths, text in zip(samples[image_key], samples.get(MEASURES) or repeat(None), strict=False):
        try:
            if not paths:
                raise ImageError(NO_IMAGE)
            values = ((path, known_measure(text, path, name)) for path in paths)
            rows.append([measure(read_image(path, _grey)) if value is None else value for path, value in values])
            failures.append("")
        except ImageError as bad:
            rows.append([])
            failures.append(str(bad))
    return rows, failures


def known_measure(text: str | None, path: str, name: str) -> Any:
    """An image's measure in its row's text of MEASURES; None where it was not taken, or of the file as it was once."""
    known = json.loads(text) if text else {}
    return known[name] if name in known and known[_IMAGE] == _name_of(path) else None


def upright_size(image: Image.Image) -> tuple[int, int] | None:
    """Width and height of an opened image, None of one that EXIF rotates."""
    return image.size if image.getexif().get(_ORIENTATION, 1) == 1 else None


def _values_of(image: Image.Image, measures: Mapping[str, Measure]) -> dict[str, Any] | None:
    if image.width * image.height > _LARGE:
        return None
    size, grey = upright_size(image), _grey(image)
    return {SIZE: size} | {name: measure(grey) for name, measure in measures.items()}


def _grey(image: Image.Image) -> Image.Image:
    """The opened image as `open_image` decodes it, in grey."""
    image.load()
    return (image if image.mode in ("L", "RGB") else image.convert("RGB")).convert("L")


def _name_of(path: str) -> str:
    """A text that stands for an image file as it is now. Raises ImageError where it is missing."""
    state = stat_image(path)
    named = repr((path, state.st_size, state.st_mtime_ns))
    return hashlib.blake2b(named.encode(errors="backslashreplace"), digest_size=12).hexdigest()
