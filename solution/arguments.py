"""How all commands read their words: as argparse does, with the nearest known name where one is misspelt."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn


class Arguments(argparse.ArgumentParser):
    """An argument parser; its subparsers are of this kind, too."""

    _words: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """As in argparse; but words that are left over end it here, where the options of their command are known."""
        self._words = list(args)
        found, rest = super().parse_known_args(args, namespace)
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return found, rest

    def error(self, message: str) -> NoReturn:
        """End with one line and status 2; it names the option that an unknown one is nearest to."""
        known = {option.lstrip("-"): option for option in self._option_string_actions}
        for word in self._words:
            name = word.partition("=")[0]
            if name.startswith("--") and not any(option.startswith(name) for option in known.values()):
                near = difflib.get_close_matches(name.lstrip("-"), known, n=1)
                message += "".join(f"; did you mean {known[one]} instead of {name}?" for one in near)
        super().error(message)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Refuse a value that is none of an argument's choices; a sub-command, for example."""
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            hint = nearest(str(value), map(str, action.choices or ()))
            raise argparse.ArgumentError(action, f"{error.message}{hint}") from None


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean NAME?`, or nothing where no known name is near."""
    return "".join(f"; did you mean {name}?" for name in difflib.get_close_matches(word, list(known), n=1))
