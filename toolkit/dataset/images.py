"""Inspection of many image files at once: whether each decodes to its last byte, and what is odd about it."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import ExifTags, Image
from tqdm import tqdm

from toolkit.errors import RowFault, UserError

# Formats of images in data sets (MPO counts as JPEG). Pillow reads more: for EPS it would run Ghostscript.
IMAGE_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
# Training fits an image to a square: `pad` makes a square of its long side, `square` scales its short side to the aux
# tower's input and cuts the rest off. Neither may take more than Pillow decodes at most, 1.4 GB in memory.
AUX_SIDE = 768  # px, of MGM-2B
MAX_CANVAS_PIXELS = 357_913_940
# Below the first, the reference's data path takes the height for the channels; beyond the others, preparing one
# image costs as much memory as preparing hundreds.
TINY_SIDE = 3
LONG_RATIO = 20
HUGE_PIXELS = 50_000_000
FILES_PER_TASK = 32
# Errors of the system that say nothing of a file's content.
MACHINE_FAULTS = {errno.EMFILE, errno.ENFILE, errno.EIO, errno.ENOMEM, errno.ENOBUFS, errno.ESTALE, errno.ETIMEDOUT}
# libjpeg's smallest scale: it still reads every byte of the file, and leaves out most of the arithmetic.
DRAFT_SCALE = 8

NOTES = {
    "oriented": "carry an EXIF orientation, which training ignores",
    "tiny": f"have a side of at most {TINY_SIDE} pixels",
    "long": f"are more than {LONG_RATIO} times as long as wide",
    "huge": f"have more than {HUGE_PIXELS // 1_000_000} million pixels",
    "greyscale": "are greyscale",
    "deep": "have more than 8 bits per channel, which training clips, nearly always to white",
    "cmyk": "are CMYK, which training turns to RGB without a colour profile",
    "transparent": "carry transparency, which training drops without a background",
    "animated": "are animated; training sees the first frame",
}


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What is known of a readable image.

    Args:
        width, height: px, as stored.
        mode: Pillow's name of its pixel type, such as RGB, L, CMYK, I;16.
        oriented: its EXIF says it must be turned.
        transparent: it has an alpha channel or a transparent colour.
        animated: it has several frames that are shown one after another.
    """

    width: int
    height: int
    mode: str = "RGB"
    oriented: bool = False
    transparent: bool = False
    animated: bool = False

    @property
    def notes(self) -> list[str]:
        """Keys of NOTES that hold for this image."""
        short, long = sorted((self.width, self.height))
        holds = {
            "oriented": self.oriented,
            "tiny": short <= TINY_SIDE,
            "long": long > LONG_RATIO * short,
            "huge": short * long > HUGE_PIXELS,
            "greyscale": self.mode in ("1", "L", "LA", "La"),
            "deep": self.mode.startswith(("I", "F")),
            "cmyk": self.mode == "CMYK",
            "transparent": self.transparent,
            "animated": self.animated,
        }
        return [name for name in NOTES if holds[name]]


def require_regular_file(path: Path) -> None:
    """Refuse what is no regular file before it is opened: opening a named pipe may wait for ever.

    Raises:
        RowFault: `missing_image`, `not_a_regular_file`, or `unreadable_image` where the system refuses the path.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise RowFault("missing_image", f"{path}: no such file") from None
    except OSError as error:
        raise RowFault("unreadable_image", f"{path}: {error.strerror}") from None
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
        raise RowFault("not_a_regular_file", f"{path} is {kinds.get(stat.S_IFMT(mode), 'a device')}")


def require_missing(images: Iterable[Path], folder: Path) -> None:
    """Make sure that images are missing, and not away for a moment, as a folder on a network's disk may be.

    Args:
        images: that were not there.
        folder: that image paths start from.

    Raises:
        UserError: the folder is not there, or one of the images is.
    """
    for image in images:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder, so nothing is known of its images; run again when it is there")
        if image.is_file():
            raise UserError(f"{image}: was not there and is now, so more may have been away; run the same again")


def refuse_machine_fault(error: OSError, name: object) -> None:
    """Raise UserError where an error says nothing of the file: too many open files, a failing disk, no memory."""
    if error.errno in MACHINE_FAULTS:
        raise UserError(f"reading {name}: {error.strerror}; nothing is known of the image: try again") from None


@contextlib.contextmanager
def opened(source: Path | bytes) -> Iterator[Image.Image]:
    """Open an image; what goes wrong until the block ends, decoding included, is the image's fault.

    Raises:
        UserError: the machine cannot read it: too many open files, a failing disk, no memory.
        RowFault: those of `require_regular_file`; `unreadable_image` for a file that is broken, truncated or in none
            of IMAGE_FORMATS; `canvas_too_large` for one that takes gigabytes to fit to a square.
    """
    name = source if isinstance(source, Path) else "embedded image"
    if isinstance(source, Path):
        require_regular_file(source)
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        with Image.open(file, formats=IMAGE_FORMATS) as image:
            width, height = image.size
            if canvas_pixels(width, height) > MAX_CANVAS_PIXELS:
                size = f"{width} x {height} pixels"
                raise RowFault("canvas_too_large", f"{name}: {size} take gigabytes to fit to a square")
            yield image
    except (RowFault, MemoryError):
        raise
    except OSError as error:
        refuse_machine_fault(error, name)
        if isinstance(error, FileNotFoundError):  # it has gone a moment ago
            raise RowFault("missing_image", f"{name}: no such file") from None
        raise RowFault("unreadable_image", f"{name}: {error}") from None
    except Exception as error:  # decoders raise many types (OSError, SyntaxError, RuntimeError ...); all mean one thing
        raise RowFault("unreadable_image", f"{name}: {error}") from None


def canvas_pixels(width: int, height: int) -> int:
    """Pixels of the largest image that fitting to a square makes on its way."""
    short, long = sorted((width, height))
    return max(long * long, AUX_SIDE * AUX_SIDE * long // short)


def inspect_images(paths: Sequence[Path], folder: Path) -> dict[Path, ImageInfo | RowFault]:
    """Decode every file whole, on all cores, with a progress bar on a terminal.

    Args:
        paths: different files.
        folder: that their paths start from.

    Returns:
        For each path what is known of its image, or the fault of `opened`.

    Raises:
        UserError: those of `opened` and `require_missing`.
    """
    tasks = [paths[start : start + FILES_PER_TASK] for start in range(0, len(paths), FILES_PER_TASK)]
    found: dict[Path, ImageInfo | RowFault] = {}
    # Threads suffice: Pillow releases the interpreter lock while it decodes.
    with (
        warnings.catch_warnings(),
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(total=len(paths), unit=" images", desc="images", disable=None, leave=False) as progress,
    ):
        warnings.filterwarnings("ignore", module="PIL")  # corrupt EXIF, large images: counted, not shouted
        for task, results in zip(tasks, pool.map(_inspect_task, tasks), strict=True):
            found.update(zip(task, results, strict=True))
            progress.update(len(task))
    require_missing((path for path, image in found.items() if is_missing(image)), folder)
    return found


def is_missing(found: object) -> bool:
    """Whether what was found of an image is that there is none."""
    return isinstance(found, RowFault) and found.reason == "missing_image"


def _inspect_task(paths: Sequence[Path]) -> list[ImageInfo | RowFault]:
    return [_inspect(path) for path in paths]


def _inspect(path: Path) -> ImageInfo | RowFault:
    try:
        with opened(path) as image:
            width, height = image.size  # of the whole image: draft() changes them
            info = ImageInfo(
                width,
                height,
                image.mode,
                oriented=_orientation(image) != 1,
                transparent=image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info,
                # A phone's JPEG may hold further views of the scene; those are no animation.
                animated=getattr(image, "is_animated", False) and image.format != "MPO",
            )
            if image.format in ("JPEG", "MPO"):
                image.draft(None, (max(1, width // DRAFT_SCALE), max(1, height // DRAFT_SCALE)))
            image.convert("RGB")
    except RowFault as fault:
        return fault
    return info


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except SyntaxError:  # what Pillow raises for EXIF that is none
        return 1
