"""Files that are one long JSON array, as LLaVA-format data sets are, read entry by entry."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from toolkit.errors import UserError
from toolkit.files import opened, require_file

BLOCK = 1 << 20  # characters
LONGEST_ENTRY = 1 << 26  # characters; a data set's longest conversations have some 10^5
_NOT_BLANK = re.compile(r"[^ \t\r\n]")


class _Text:
    """The part of a file that is in memory, and how far it has been used."""

    def __init__(self, file: TextIO):
        self._file, self.text, self.index = file, "", 0

    def read_more(self, size: int) -> bool:
        """Drop what was used and read on; False at the end of the file."""
        if block := self._file.read(size):
            self.text, self.index = self.text[self.index :] + block, 0
        return bool(block)

    def peek(self) -> str:
        """The next character that is not blank, without using it; empty at the end of the file."""
        while True:
            if found := _NOT_BLANK.search(self.text, self.index):
                self.index = found.start()
                return found[0]
            self.index = len(self.text)
            if not self.read_more(BLOCK):
                return ""

    def entry(self) -> dict[str, Any]:
        """The object that begins here. Raises JSONDecodeError."""
        size = BLOCK
        while True:
            try:
                value, self.index = json.JSONDecoder().raw_decode(self.text, self.index)
                return value
            except json.JSONDecodeError:
                # Cut off where the block ends, or wrong: more text tells.
                if len(self.text) - self.index > LONGEST_ENTRY or not self.read_more(size):
                    raise
            size *= 2


def read_array(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (number from 0, entry) of a JSON array of objects, one entry at a time in memory.

    Raises:
        UserError: those of `require_file`; the file is no JSON array of objects, or an entry is longer than 64 million
            characters; names the entry.
    """
    require_file(path)
    number = 0
    with opened(path) as file:
        text = _Text(io.TextIOWrapper(file, encoding="utf-8-sig"))
        try:
            if (found := text.peek()) != "[":
                raise UserError(f"{path}: expected a JSON array, found {found or 'nothing'!r} at its beginning")
            text.index += 1
            while (found := text.peek()) != "]":
                if number:
                    if found != ",":
                        seen = repr(found) if found else "the end"
                        raise UserError(f"{path}: expected ',' or ']' after entry {number - 1}, found {seen}")
                    text.index += 1
                    found = text.peek()
                if found != "{":
                    raise UserError(f"{path}: entry {number}: expected an object, found {found or 'the end'!r}")
                yield number, text.entry()
                number += 1
            text.index += 1
            if found := text.peek():
                raise UserError(f"{path}: {found!r} after the end of the JSON array")
        except json.JSONDecodeError as error:
            raise UserError(f"{path}: entry {number} is not JSON, or cut short ({error.msg})") from None
        except RecursionError:
            raise UserError(f"{path}: entry {number} is nested too deeply") from None
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not UTF-8 near entry {number} ({error.reason})") from None
