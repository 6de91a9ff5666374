"""Opening pictures strictly: what cannot be decoded to the last pixel is an error, not a grey patch."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from PIL import Image, ImageFile


class ImageError(Exception):
    """A picture that is missing or cannot be decoded; the text says which file and why."""


def open_image(path: str | Path, is_checked_only: bool = False) -> Image.Image:
    """Decode the whole picture at ``path`` to RGB. Raises ImageError where it is missing, broken or cut short.

    With ``is_checked_only`` a JPEG comes in grey at an eighth of its size: every byte is read, at half the time.
    """
    # Data-Juicer sets this switch on import, and a truncated JPEG then passes silently with its lower part grey.
    tolerant, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
    try:
        with Image.open(path) as picture:
            if is_checked_only:
                picture.draft("L", (1, 1))
                picture.load()
                return picture
            return picture.convert("RGB")
    except FileNotFoundError:
        raise ImageError(f"image {path} is missing") from None
    except Exception as error:  # decoders raise many types (OSError, SyntaxError, struct.error ...); all mean one thing
        raise ImageError(f"image {path} cannot be read ({error})") from error
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = tolerant


def open_row_images(paths: Sequence[str] | None) -> list[Image.Image]:
    """All pictures of one row. Raises ImageError for the first bad one, or where the row has none."""
    if not paths:
        raise ImageError("the row has no image")
    return [open_image(path) for path in paths]


def open_images(paths: Iterable[tuple[int, str]], failures: list[str]) -> Iterator[tuple[int, Image.Image]]:
    """(row, picture) for each (row, path) that can be read; why another one cannot goes to ``failures`` at its row."""
    for row, path in paths:
        try:
            yield row, open_image(path)
        except ImageError as bad:
            failures[row] = str(bad)
