"""Exceptions of a run, whose fault each is, and texts that a terminal or a page can show."""

import errno
import re
import sqlite3
from collections.abc import Iterator

# Characters that move a cursor, colour a terminal or turn the reading direction.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_MACHINE = (
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE,
    errno.ENODEV, errno.ENOTCONN,
)  # fmt: skip
_MACHINE_WORDS = ("CUDA error", "CUDA out of memory", "out of memory", "disk I/O error", "database or disk is full")


def visible(text: str, kept: str = "") -> str:
    """The text with control and direction characters written out, as `\\x1b`; those in ``kept`` stay."""
    return _UNSAFE.sub(lambda found: found[0] if found[0] in kept else ascii(found[0])[1:-1], text)


class UserError(Exception):
    """A mistake in what the user gave: its text is one line that names file, row or key, and the next step."""

    def __str__(self) -> str:
        return visible(super().__str__())


class SetupFault(Exception):
    """An operator cannot work whatever row it gets: its model cannot be loaded, or the machine fails."""


class RowFault(Exception):
    """An operator raised; the text says what. Unlike many exceptions, this one comes through between processes."""


def one_line(error: BaseException) -> str:
    """The first line of an exception's text, with its type where the text alone says little."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if isinstance(error, ValueError | ImportError | RowFault | SetupFault) and first:
        return first
    return f"{type(error).__name__}: {first}".rstrip(": ")


def machine_fault(error: BaseException) -> str:
    """What failed of the machine where an exception, or one that it came from, says so; else empty.

    A full or lost disk, too many open files, memory, or a GPU: with none of these is a row at fault.
    """
    for cause in _causes(error):
        text = one_line(cause)
        if (
            isinstance(cause, MemoryError)
            or (isinstance(cause, OSError) and cause.errno in _MACHINE)
            or (isinstance(cause, RuntimeError | sqlite3.Error) and any(word in text for word in _MACHINE_WORDS))
        ):
            return text
    return ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
