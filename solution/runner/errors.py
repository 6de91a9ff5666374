"""Exceptions of a run, and texts that a terminal or a page can show."""

import re

from solution.operators.common.addresses import shown_address
from solution.operators.common.faults import SetupFault

# Characters that move a cursor, colour a terminal or turn the reading direction.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str, kept: str = "") -> str:
    """The text with control and direction characters written out, as `\\x1b`; those in ``kept`` stay."""
    return _UNSAFE.sub(lambda found: found[0] if found[0] in kept else ascii(found[0])[1:-1], text)


_SECRET = re.compile(
    r"""([\w-]*(?:api[_-]?key|secret|password|access[_-]?token|auth[_-]?token|authorization)["']?[ \t]*:[ \t]*)"""
    r"""("[^"\n]*"|'[^'\n]*'|(?:Bearer[ \t]+)?[^\s,}\]#][^\s,}\]]*)""",
    re.IGNORECASE,
)


_ADDRESS = re.compile(
    r"""([\w-]*(?:endpoint|url|api_base)["']?[ \t]*:[ \t]*["']?)([a-z]+://[^\s"',}\]]+)""", re.IGNORECASE
)


def without_secrets(recipe: str) -> str:
    """A recipe's text for others to read: values of keys such as `api_key`, and keys in addresses, are left out."""
    recipe = _ADDRESS.sub(lambda found: found[1] + shown_address(found[2]), recipe)
    return _SECRET.sub(r"\1(not shown)", recipe)


class UserError(Exception):
    """A mistake in what the user gave: a line that names file, row or key, and the next step; a line for each."""

    def __str__(self) -> str:
        return "\n".join(visible(str(line)) for line in self.args)


class RowFault(Exception):
    """An operator raised; the text says what. Unlike many exceptions, this one comes through between processes."""


def one_line(error: BaseException) -> str:
    """The first line of an exception's text, with its type where the text alone says little."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if isinstance(error, ValueError | ImportError | RowFault | SetupFault) and first:
        return first
    return f"{type(error).__name__}: {first}".rstrip(": ")
