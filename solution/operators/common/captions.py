"""The text field of a row: one image token, a caption, the end-of-chunk token.

A seed row's text is ``<__dj__image>\\na caption <|__dj__eoc|>``; the challenge's documentation writes the image token
as ``<image>``. Every operator here reads and writes the caption alone, whatever the tokens around it.
"""

import re

IMAGE_TOKENS = ("<__dj__image>", "<image>")
END_TOKEN = "<|__dj__eoc|>"

# One white-space character on either side of the caption belongs to the frame, more of it does not.
_FRAME = re.compile(
    r"^(?P<head>(?:\s*(?:<__dj__image>|<image>))*\s?)\s*(?P<caption>.*?)\s*?(?P<tail>\s?(?:<\|__dj__eoc\|>\s*)?)$",
    re.DOTALL,
)
_SPECIAL = re.compile("|".join(re.escape(token) for token in (*IMAGE_TOKENS, END_TOKEN)))


def caption_of(text: str) -> str:
    """The caption of a row's text: every special token removed, white space at both ends too."""
    return _SPECIAL.sub(" ", text).strip()


def with_caption(text: str, caption: str) -> str:
    """``text`` with its caption replaced and its tokens kept, each with the one white-space character beside it.

    Raises ValueError where a special token stands inside the caption (several chunks): no one caption to replace.
    """
    parts = _FRAME.match(text)
    if parts is None or _SPECIAL.search(parts["caption"]):
        raise ValueError("text has a special token inside its caption")
    return f"{parts['head']}{caption}{parts['tail']}"


def image_token_of(text: str) -> str | None:
    """The image token that ``text`` uses, None without one. Raises ValueError where both kinds stand in one text."""
    found = [token for token in IMAGE_TOKENS if token in text]
    if len(found) > 1:
        raise ValueError(f"text mixes {found[0]} and {found[1]}: use one image token in a line")
    return found[0] if found else None
