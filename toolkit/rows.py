"""What one row of `processed_data.jsonl` means: its tokens, its caption, where its image lies.

    {"images": ["images/00237/002375592.jpg"], "text": "<image>\\na pink dress <|__dj__eoc|>", "id": "002375592"}
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from toolkit.errors import RowFault

# The real seed writes the first, the challenge's documentation the second; both are accepted, never both in one row.
IMAGE_TOKENS = ("<__dj__image>", "<image>")
END_OF_CHUNK = "<|__dj__eoc|>"
SYNTHETIC_FOLDER = "synthetic_images"


@dataclass(frozen=True)
class ImageRoots:
    """The two places a row's relative image path can point into.

    Args:
        seed: the seed's folder (`--images DIR`); holds every path but those below.
        processed: the folder of `processed_data.jsonl`; holds `synthetic_images/...`.
    """

    seed: Path
    processed: Path

    def resolve(self, relative: str) -> Path:
        """Path of a row's image.

        Raises:
            RowFault: the path is absolute or leaves its root (`bad_image_path`).
        """
        parts = PurePosixPath(relative).parts
        if not parts or relative.startswith(("/", "\\")) or ":" in parts[0] or ".." in parts:
            raise RowFault("bad_image_path", f"{relative!r} must be relative and without '..'")
        root = self.processed if parts[0] == SYNTHETIC_FOLDER else self.seed
        return root.joinpath(*parts)


def image_token_of(text: str) -> str | None:
    """The image token a row uses, or None for a text-only row.

    Raises:
        RowFault: both tokens occur (`mixed_image_tokens`).
    """
    found = [token for token in IMAGE_TOKENS if token in text]
    if len(found) > 1:
        raise RowFault("mixed_image_tokens", f"{' and '.join(found)} in one text")
    return found[0] if found else None


def caption_of(text: str) -> str:
    """The caption inside a row's text, as the kit's converter cuts it out.

    Source: Data-Juicer's dj_to_llava tool: strip, drop one trailing end-of-chunk token, then one leading and one
    trailing image token.

    Raises:
        RowFault: mixed image tokens; a token left inside the caption (`token_in_caption`); nothing left
            (`empty_caption`).
    """
    token = image_token_of(text)
    caption = text.strip().removesuffix(END_OF_CHUNK).strip()
    if token:
        caption = caption.removeprefix(token).removesuffix(token).strip()
    for left_over in (*IMAGE_TOKENS, END_OF_CHUNK):
        if left_over in caption:
            raise RowFault("token_in_caption", f"{left_over} inside the caption {caption[:60]!r}")
    if not caption:
        raise RowFault("empty_caption", "no text besides the special tokens")
    return caption
