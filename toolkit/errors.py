"""The two ways something can be wrong: with what the user gave us, or with one row of the data."""

from __future__ import annotations

import argparse
import difflib
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from toolkit.terminal import visible

OnError = Literal["stop", "skip"]
LONGEST = 2000  # characters of a line


def shortened(line: str) -> str:
    """A line's ends where it is very long: data may hold ids and file names of megabytes."""
    return line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} ... {line[-LONGEST // 2 :]}"


class UserError(Exception):
    """A mistake the user can fix. The text is one line: what, where, what was expected, what to do next.

    `python -m toolkit` prints it as `error: ...` and exits with status 1, without a trace. A list of names may follow
    in lines of its own; other control characters are written out, as in `visible`.
    """

    def __str__(self) -> str:
        return "\n".join(map(shortened, visible(super().__str__(), kept="\n").split("\n")))


class RowFault(ValueError):
    """One row that cannot be trained or checked as it is.

    Args:
        reason: short, stable name of the fault, such as `empty_answer`; reports count by it.
        detail: what was seen, for a person.
    """

    def __init__(self, reason: str, detail: str):
        self.reason, self.detail = reason, visible(shortened(detail))
        super().__init__(f"{reason}: {self.detail}")

    def __reduce__(self) -> tuple:
        """Another process gets the same fault."""
        return RowFault, (self.reason, self.detail)


@dataclass(frozen=True)
class SkippedRow:
    """A row left out under `--on-error skip`, as run records list it."""

    id: str
    file: str
    reason: str
    detail: str


def advised(*words: object) -> str:
    """A command of this kit as a message advises it: it can be typed as it stands, also with a space in a path."""
    return f"python -m toolkit {shlex.join(map(str, words))}"


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean NAME?`, or nothing where no known name is near."""
    return "".join(f"; did you mean {name}?" for name in difflib.get_close_matches(word, list(known), n=1))


def part_of(chunk: int | None, chunks: int | None) -> tuple[int, int]:
    """A part's number, from 0, and how many there are, as --chunk and --chunks name them; (0, 1) without both.

    Raises:
        UserError: one of them is missing, or there is no such part.
    """
    if (chunk is None) != (chunks is None):
        given, missing = ("--chunk", "--chunks") if chunks is None else ("--chunks", "--chunk")
        raise UserError(f"{given}: has an effect with {missing} alone; add that, or leave {given} out to do all parts")
    if chunk is None or chunks is None:
        return 0, 1
    if not 0 <= chunk < chunks:
        raise UserError(f"--chunk {chunk}: expected 0 to {chunks - 1}, as --chunks is {chunks}")
    return chunk, chunks


def positive(text: str) -> int:
    """Type of a command's argument: a whole number above 0.

    Raises:
        argparse.ArgumentTypeError: anything else; argparse ends with one line that names the argument.
    """
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, found {text!r}")
    return int(text)
