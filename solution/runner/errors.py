"""Exceptions of a run, and recipes as others may read them."""

import re

from solution.operators.common.addresses import shown_address
from solution.operators.common.faults import SetupFault
from solution.terminal import visible

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
