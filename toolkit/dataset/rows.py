"""What one row of `processed_data.jsonl` means: its tokens, its caption, the path of its image.

{"images": ["images/00237/002375592.jpg"], "text": "<image>\\na pink dress <|__dj__eoc|>", "id": "002375592"}

`solution/runner/seed.py` reads the same rows on its own; `tests/contract/` holds the two together, case by case.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from toolkit.errors import RowFault
from toolkit.files import opened, parse_object, require_file

# The real seed writes the first, the challenge's documentation the second; both are accepted, never both in one row.
IMAGE_TOKENS = ("<__dj__image>", "<image>")
END_OF_CHUNK = "<|__dj__eoc|>"
SYNTHETIC_FOLDER = "synthetic_images"
# How Data-Juicer marks the speakers of a dialogue inside one text.
DIALOGUE_MARKERS = ("[[human]]:", "[[gpt]]:")
# What Gemma's tokenizer takes for one token of its own: in a caption they end an answer, begin a turn or pad a sample.
MODEL_TOKENS = ("<eos>", "<pad>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>")
# A drive letter, or the scheme of a URL.
_DRIVE_OR_SCHEME = re.compile(r"[A-Za-z]:|\w[\w+.-]*:/")
NAMES_KEPT = 1 << 14  # of images: each is asked for several times
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class ImageRoots:
    """The two folders a row's relative image path can point into.

    Args:
        seed: the seed's folder (`--images DIR`); holds every path but those below.
        processed: the folder of `processed_data.jsonl`; holds `synthetic_images/...`.
    """

    seed: Path
    processed: Path

    def resolve(self, relative: str) -> Path:
        """Path of a row's image; an absolute path may lie in one of the folders.

        Raises:
            RowFault: `bad_image_path`; `link_leaves_root` (a symbolic link leads outside its root).
        """
        name = normal_image_path(self.relative(relative))
        root = self.processed if is_synthetic(name) else self.seed
        path = root / name
        real = _real_path(str(path))
        if not real.startswith(os.path.join(_real_folder(str(root)), "")):
            where = "outside" if os.path.exists(real) else "which is missing, and outside"
            raise RowFault("link_leaves_root", f"{path} is a link to {real}, {where} {root}")
        return path

    def of_row(self, row: dict[str, Any]) -> Path:
        """File of a LLaVA-format row's image.

        A path that is not there is also looked for under the names the published finetuning set uses: `.png` for the
        `.jpg` of OCR sets, and `images` for Visual Genome's `VG_100K` and `VG_100K_2` folders.

        Raises:
            RowFault: malformed_row or bad_image_path.
        """
        name = row["image"]
        if not isinstance(name, str):
            raise RowFault("malformed_row", f"image must be one relative path, found {name!r}")
        path = self.resolve(name)
        if "ocr" in name:
            other = name.replace(".jpg", ".png")
        else:
            other = name.replace("VG_100K_2", "images").replace("VG_100K", "images")
        return path if other == name or path.is_file() else self.resolve(other)

    def relative(self, image: str) -> str:
        """An image path as rows write it: of an absolute one in these folders, as Data-Juicer writes it, what is below.

        A path elsewhere stays as it is.
        """
        if os.path.isabs(image):
            path = os.path.normpath(image)
            for folder, part in ((self.processed, SYNTHETIC_FOLDER), (self.seed, "")):
                for start in (os.path.abspath(folder), _real_folder(str(folder))):
                    if path.startswith(os.path.join(start, part, "")):
                        return os.path.relpath(path, start)
        return image


@lru_cache(maxsize=4096)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)


def _real_path(path: str) -> str:
    """The path without symbolic links; folders, which many files share, are looked up once."""
    folder, name = os.path.split(path)
    real = os.path.join(_real_folder(folder or "."), name)
    return os.path.realpath(real) if os.path.islink(real) else real


@lru_cache(maxsize=NAMES_KEPT)
def normal_image_path(relative: str) -> str:
    """A row's image path in its one spelling: `./a//b.jpg` becomes `a/b.jpg`.

    Raises:
        RowFault: the path is empty, absolute, a URL, holds `..` or a NUL (`bad_image_path`).
    """
    path = PurePosixPath(relative)
    if not relative.isascii() and any("\ud800" <= character <= "\udfff" for character in relative):
        raise RowFault("bad_image_path", f"{relative!r} holds half a character")
    outside = relative.startswith(("/", "\\")) or ".." in path.parts or _DRIVE_OR_SCHEME.match(relative)
    if not path.parts or outside or "\0" in relative:
        raise RowFault("bad_image_path", f"{relative!r} must be a path of a file, relative and without '..'")
    return path.as_posix()


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

    Source: Data-Juicer's dj_to_llava tool: strip, drop one trailing end-of-chunk token, then one leading or, without
    that, one trailing image token (the tool drops both; a row has one).

    Raises:
        RowFault: mixed image tokens; a token left inside the caption (`token_in_caption`); nothing left
            (`empty_caption`).
    """
    token = image_token_of(text)
    caption = text.strip().removesuffix(END_OF_CHUNK).strip()
    if token:
        caption = (caption.removeprefix(token) if caption.startswith(token) else caption.removesuffix(token)).strip()
    for left_over in (*IMAGE_TOKENS, END_OF_CHUNK):
        if left_over in caption:
            raise RowFault("token_in_caption", f"{left_over} inside the caption {caption[:60]!r}")
    if not caption:
        raise RowFault("empty_caption", "no text besides the special tokens")
    return caption


# A line as read: its object, or the fault that kept it from being one.
Line = dict[str, Any] | RowFault


@dataclass(frozen=True)
class Row:
    """One valid row: its id as text, its image's relative path if it has one, its caption."""

    id: str
    image: str | None
    caption: str


@lru_cache(maxsize=NAMES_KEPT)
def is_synthetic(image: str) -> bool:
    """Whether a row's relative image path names an image the participant made."""
    return PurePosixPath(image).parts[:1] == (SYNTHETIC_FOLDER,)


def id_of(line: Line) -> str:
    """The id of a line as reports name it, `?` where none can be read."""
    return "?" if isinstance(line, RowFault) else str(line.get("id", "?"))


def parse_row(line: Line) -> Row:
    """Read a row's fields and check them by the contract; other fields are left alone.

    Raises:
        RowFault: the line's own `not_json`, `missing_id`, `bad_id`, `bad_text`, `bad_images`, `two_images` (one row,
            different images), `bad_image_path`, `image_without_token`, `token_without_image`, `dialogue_in_caption`
            (two speakers in one text), `special_token_in_text`, and those of `caption_of`.
    """
    if isinstance(line, RowFault):
        raise line
    identifier, text = line.get("id"), line.get("text")
    if identifier is None or identifier == "":
        raise RowFault("missing_id", "expected an 'id'")
    if type(identifier) not in (str, int):
        raise RowFault("bad_id", f"expected a string or a whole number, found {identifier!r}")
    if not isinstance(text, str):
        raise RowFault("bad_text", f"expected a string under 'text', found {text!r}")
    image, token, caption = _image_of(line.get("images")), image_token_of(text), caption_of(text)
    if image and not token:
        raise RowFault("image_without_token", f"{image} has no image token in the text {text[:60]!r}")
    if token and not image:
        raise RowFault("token_without_image", f"{token} in the text but no image under 'images'")
    if all(marker in caption for marker in DIALOGUE_MARKERS):
        raise RowFault("dialogue_in_caption", f"expected one caption, found two speakers: {caption[:60]!r}")
    if mark := next((mark for mark in MODEL_TOKENS if mark in caption), None):
        raise RowFault("special_token_in_text", f"{mark!r} inside the caption {caption[:60]!r}")
    return Row(str(identifier), image, caption)


def _image_of(images: Any) -> str | None:
    if images is None:  # as tools write a text-only row among others
        return None
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise RowFault("bad_images", f"expected a list of paths under 'images', found {images!r:.80}")
    paths = list(dict.fromkeys(map(normal_image_path, images)))
    if len(paths) > 1:
        raise RowFault("two_images", f"expected one image, found {', '.join(paths)}")
    return paths[0] if paths else None


def read_rows(path: Path, roots: ImageRoots | None = None) -> Iterator[tuple[int, Line]]:
    """Yield (line number from 1, line) for every line that is not blank; for a line that is no object, its fault.

    Args:
        path: a jsonl.
        roots: where given, absolute image paths in these folders come relative to them.

    Raises:
        UserError: those of `require_file`.
    """
    require_file(path, "run a recipe first (python solution/process.py)")
    with opened(path) as file:
        for number, line in enumerate(file, 1):
            if not line.removeprefix(BYTE_ORDER_MARK).strip():
                continue
            try:
                yield number, with_relative_images(parse_object(line), roots)
            except ValueError as error:
                yield number, RowFault("not_json", str(error))


def with_relative_images(row: dict[str, Any], roots: ImageRoots | None) -> dict[str, Any]:
    """A row as read, its absolute image paths in these folders made relative to them."""
    images = row.get("images")
    if roots and isinstance(images, list):
        row["images"] = [roots.relative(image) if isinstance(image, str) else image for image in images]
    return row
