"""Opening images strictly: what cannot be decoded to the last pixel is an error, not a grey patch."""

import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from PIL import Image, ImageFile

from .faults import machine_fault
from .reasons import NO_IMAGE

# Formats of images in data sets (MPO counts as JPEG). Pillow reads more: for EPS it would run Ghostscript.
IMAGE_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
# Training fits an image to a square: one of its long side, or of its short side scaled to the 768 px of the model's
# input. Neither may take more than Pillow decodes at most, 1.4 GB in memory.
AUX_SIDE = 768
MAX_CANVAS_PIXELS = 357_913_940
_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}


class ImageError(Exception):
    """An image that is missing or cannot be decoded; the text says which file and why."""


def made_name(identifier: str, digest: str, suffix: str) -> str:
    """The file name of an image made for the row with this id; ``digest`` is of what decides its content."""
    return f"{re.sub(r'[^A-Za-z0-9_-]', '_', identifier)[:80]}_{digest[:12]}{suffix.lower()}"


def stat_image(path: str | Path) -> os.stat_result:
    """Size and times of an image file. Raises ImageError where it is missing or no regular file.

    A fault of the machine, which is not the image's, comes as OSError, here and in `open_image`.

    To be asked before the file is opened: opening a named pipe may wait for ever.
    """
    try:
        state = os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        if machine_fault(error):
            raise
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            raise ImageError(f"image {path} is missing") from None
        raise ImageError(f"image {path} cannot be read ({error})") from error
    if not stat.S_ISREG(state.st_mode):
        raise ImageError(f"image {path} is {_KINDS.get(stat.S_IFMT(state.st_mode), 'a device')}, no regular file")
    return state


def canvas_pixels(width: int, height: int) -> int:
    """Pixels of the largest image that fitting to a square makes on its way."""
    short, long = sorted((width, height))
    return max(long * long, AUX_SIDE * AUX_SIDE * long // short)


def open_image(path: str | Path, is_checked_only: bool = False) -> Image.Image:
    """Decode the whole image at ``path`` to RGB.

    Raises ImageError where it is missing, broken, cut short or no image, or takes gigabytes to fit to a square.

    With ``is_checked_only`` a JPEG comes in grey at an eighth of its size: every byte is read, at half the time.
    """
    stat_image(path)
    # Data-Juicer sets this switch on import, and a truncated JPEG then passes silently with its lower part grey.
    tolerant, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            width, height = image.size
            if canvas_pixels(width, height) > MAX_CANVAS_PIXELS:
                raise ValueError(f"{width} x {height} pixels take gigabytes to fit to a square")
            if is_checked_only:
                image.draft("L", (1, 1))
                image.load()
                return image
            return image.convert("RGB")
    except Exception as error:  # decoders raise many types (OSError, SyntaxError, struct.error ...); all mean one thing
        if isinstance(error, OSError) and machine_fault(error):
            raise
        raise ImageError(f"image {path} cannot be read ({error})") from error
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = tolerant


def open_row_images(paths: Sequence[str] | None) -> list[Image.Image]:
    """All images of one row. Raises ImageError for the first bad one, or where the row has none."""
    if not paths:
        raise ImageError(NO_IMAGE)
    return [open_image(path) for path in paths]


def open_images(paths: Iterable[tuple[int, str]], failures: list[str]) -> Iterator[tuple[int, Image.Image]]:
    """(row, image) for each (row, path) that can be read; why another one cannot goes to ``failures`` at its row."""
    for row, path in paths:
        try:
            yield row, open_image(path)
        except ImageError as bad:
            failures[row] = str(bad)
