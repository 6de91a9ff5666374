"""Faults that no row is to blame for: a model that cannot be loaded, a disk, memory, a GPU, a folder that is gone."""

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

IMAGE_ROOT = "SEED_IMAGES"  # environment variable: the folder of a run's images, which must be there while it lasts
_MACHINE = (
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE,
    errno.ENODEV, errno.ENOTCONN,
)  # fmt: skip
_MACHINE_WORDS = ("CUDA error", "CUDA out of memory", "out of memory", "disk I/O error", "database or disk is full")


class SetupFault(Exception):
    """An operator cannot work whatever row it gets: its model cannot be loaded, or the machine fails."""


def machine_fault(error: BaseException) -> str:
    """What failed of the machine where an exception, or one that it came from, says so; else empty."""
    for cause in _causes(error):
        text = f"{type(cause).__name__}: {cause}".partition("\n")[0].rstrip(": ")
        if (
            isinstance(cause, MemoryError)
            or (isinstance(cause, OSError) and cause.errno in _MACHINE)
            or (isinstance(cause, RuntimeError | sqlite3.Error) and any(word in text for word in _MACHINE_WORDS))
        ):
            return text
        root = os.environ.get(IMAGE_ROOT)
        if isinstance(cause, FileNotFoundError | NotADirectoryError) and root and not os.path.isdir(root):
            return f"the image folder {root} is not there"
    return ""


@contextmanager
def loading(model: str) -> Iterator[None]:
    """Raises SetupFault for whatever goes wrong in the block, but ImportError: it names a package."""
    try:
        yield
    except ImportError:
        raise
    except Exception as error:
        text = next(filter(None, map(str.strip, str(error).splitlines())), "")
        raise SetupFault(f"its model {model} cannot be loaded: {type(error).__name__}: {text}".rstrip(": ")) from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
