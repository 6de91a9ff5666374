"""Opening images strictly: what cannot be decoded to the last pixel is an error, not a grey patch."""

import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import TypeVar

from PIL import Image, ImageFile

from .faults import machine_fault

# Formats of images in data sets (MPO counts as JPEG). Pillow reads more: for EPS it would run Ghostscript.
IMAGE_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
# Training fits an image to a square: one of its long side, or of its short side scaled to the 768 px of the model's
# input. Neither may take more than Pillow decodes at most, 1.4 GB in memory.
AUX_SIDE = 768
MAX_CANVAS_PIXELS = 357_913_940
T = TypeVar("T")
_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}


class ImageError(Exception):
    """An image that is missing or cannot be decoded; the text says which file and why."""


def made_name(identifier: str, digest: str, suffix: str) -> str:
    """The file name of an image made for the row with this id; ``digest`` is of what decides its content."""
    return f"{re.sub(r'[^A-Za-z0-9_-]', '_', identifier)[:80]}_{digest[:12]}{suffix.lower()}"


def stat_image(path: str | Path) -> os.stat_result:
    """Size and times of an image file. Raises ImageError where it is missing or no regular file.

    A fault of the machine, which is not the image's, comes as OSError, here and in `read_image`.

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


def open_image(path: str | Path) -> Image.Image:
    """Decode the whole image at ``path`` to RGB.

    Raises ImageError where it is missing, broken, cut short or no image, or takes gigabytes to fit to a square.
    """
    return read_image(path, lambda image: image.convert("RGB"))


def check_image(path: str | Path) -> None:
    """Raise what `open_image` would; a JPEG is read in grey at an eighth of its size: every byte, at half the time."""

    def load(image: Image.Image) -> None:
        image.draft("L", (1, 1))
        image.load()

    read_image(path, load)


def read_image(path: str | Path, read: Callable[[Image.Image], T]) -> T:
    """What ``read`` makes of the opened image at ``path``, in which it decodes the pixels. Raises as `open_image`."""
    stat_image(path)
    with _strictly():
        try:
            with Image.open(path, formats=IMAGE_FORMATS) as image:
                width, height = image.size
                if canvas_pixels(width, height) > MAX_CANVAS_PIXELS:
                    raise ValueError(f"{width} x {height} pixels take gigabytes to fit to a square")
                return read(image)
        except Exception as error:  # decoders raise many types (OSError, SyntaxError, struct.error ...) for one thing
            if isinstance(error, OSError) and machine_fault(error):
                raise
            raise ImageError(f"image {path} cannot be read ({error})") from error


_lock = Lock()
_reading = 0  # images that are being read, in several threads
_tolerant = False  # the switch as it was before


@contextmanager
def _strictly() -> Iterator[None]:
    """Data-Juicer sets a switch of Pillow's on import, and a truncated JPEG then passes with its lower part grey."""
    global _reading, _tolerant
    with _lock:
        if not _reading:
            _tolerant, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
        _reading += 1
    try:
        yield
    finally:
        with _lock:
            _reading -= 1
            if not _reading:
                ImageFile.LOAD_TRUNCATED_IMAGES = _tolerant


def open_images(paths: Iterable[tuple[int, str]], failures: list[str]) -> Iterator[tuple[int, Image.Image]]:
    """(row, image) for each (row, path) that can be read; why another one cannot goes to ``failures`` at its row."""
    for row, path in paths:
        try:
            yield row, open_image(path)
        except ImageError as bad:
            failures[row] = str(bad)
