"""The text field of a row: one image token, a caption, the end-of-chunk token.

A seed row's text is ``<__dj__image>\\na caption <|__dj__eoc|>``; the challenge's documentation writes the image token
as ``<image>``. Every operator here reads and writes the caption alone; the tokens around it may differ.
"""

import re
from collections.abc import Sequence

IMAGE_TOKENS = ("<__dj__image>", "<image>")
END_TOKEN = "<|__dj__eoc|>"

# One white-space character on either side of the caption belongs to the frame, more of it does not.
_HEAD = re.compile(r"(?:\s*(?:<__dj__image>|<image>))*\s?")
_SPECIAL = re.compile("|".join(re.escape(token) for token in (*IMAGE_TOKENS, END_TOKEN)))


def caption_of(text: str) -> str:
    """The caption of a row's text: every special token removed, white space at both ends too."""
    return _SPECIAL.sub(" ", text).strip()


def split_text(text: str) -> tuple[str, str, str]:
    """(head, caption, tail) of a row's text: head and tail are the tokens, each with the white space next to it.

    The image token stands in front of the caption or, where it does not, at its end. Raises ValueError where a special
    token stands inside the caption (several chunks): no one caption to replace.
    """
    body, tail = _without_end(text, (END_TOKEN,))
    head = _head_of(body)
    if not head.strip():
        body, token = _without_end(body, IMAGE_TOKENS)
        head, tail = _head_of(body), token + tail
    caption = body[len(head) :].strip()
    if _SPECIAL.search(caption):
        raise ValueError("text has a special token inside its caption")
    return head, caption, (body[len(body.rstrip()) :][-1:] if caption else "") + tail


def _head_of(text: str) -> str:
    """The image tokens at the start of a text, with the white space around them; empty without any."""
    return next(_HEAD.finditer(text))[0]  # matches at the start of every text


def _without_end(text: str, tokens: Sequence[str]) -> tuple[str, str]:
    """The text before the token that it ends with, and the rest, which is empty for a text without such an end."""
    trimmed = text.rstrip()
    length = next((len(token) for token in tokens if trimmed.endswith(token)), 0)
    return (text[: len(trimmed) - length], text[len(trimmed) - length :]) if length else (text, "")


def with_caption(text: str, caption: str) -> str:
    """``text`` with its caption replaced and its tokens kept. Raises ValueError as `split_text` does."""
    head, _, tail = split_text(text)
    return f"{head}{caption}{tail}"


def image_token_of(text: str) -> str | None:
    """The image token that ``text`` uses, None without one. Raises ValueError where both kinds stand in one text."""
    found = [token for token in IMAGE_TOKENS if token in text]
    if len(found) > 1:
        raise ValueError(f"text mixes {found[0]} and {found[1]}: use one kind of image token in a row")
    return found[0] if found else None
