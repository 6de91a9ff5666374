"""Texts of others as a terminal or a page can show them.

`toolkit/terminal.py` and `solution/terminal.py` are equal, because neither folder imports the other.
"""

import re

# Characters that move a cursor, colour a terminal or turn the reading direction.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str, kept: str = "") -> str:
    """The text with control and direction characters written out, as `\\x1b`; those in ``kept`` stay."""
    return _UNSAFE.sub(lambda found: found[0] if found[0] in kept else ascii(found[0])[1:-1], text)
