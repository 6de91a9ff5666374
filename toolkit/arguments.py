"""How all commands read their words: as argparse does, with the nearest known name where one is misspelt."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
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
        """End with one line and status 2; it names unknown options, and what to type in place of each."""
        names = [word.partition("=")[0] for word in self._words if word.startswith("--")]
        unknown = [name for name in names if not any(option.startswith(name) for option in self._option_string_actions)]
        # With sub-commands, an option that is unknown here may be one of theirs.
        if unknown and not self._subparsers and not message.startswith("unrecognized arguments"):
            message = f"unrecognized arguments: {' '.join(unknown)}; {message}"
        message += "".join(f"; {advice}" for name in unknown if (advice := self.advice(name)))
        if "did you mean" not in message and "--help" not in message:
            message += "; --help lists what there is"
        self.exit(2, f"error: {self.prog}: {message}\n".replace("\n", " ", message.count("\n")))

    def advice(self, name: str) -> str:
        """What to type in place of an unknown option; empty where nobody can tell."""
        known = {option.lstrip("-"): option for option in self._option_string_actions}
        near = difflib.get_close_matches(name.lstrip("-"), known, n=1)
        return f"did you mean {known[near[0]]} instead of {name}?" if near else ""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Refuse a value that is none of an argument's choices; a sub-command, for example."""
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            near = difflib.get_close_matches(str(value), [str(choice) for choice in action.choices or ()], n=1)
            hint = "".join(f"; did you mean {choice}?" for choice in near)
            raise argparse.ArgumentError(action, f"{error.message}{hint}") from None
