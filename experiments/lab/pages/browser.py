"""Questions with the answers of some arms, as data that the page's script shows, filters and searches.

Thumbnails are what makes a page large: as many as fit into a budget are embedded, those of the questions that tell most
first.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from experiments.lab.answers import Given
from experiments.lab.pages.markup import visible
from toolkit.dataset.images import opened
from toolkit.errors import RowFault

IMAGE_BYTES = 12_000_000  # of a page's thumbnails, in base64
LARGE, SMALL = 224, 168  # px, the longer side; small where there are more than MANY images
MANY = 600
LONGEST = 300  # characters shown of a text


@dataclass(frozen=True)
class Entry:
    """One question and what each arm answered to it, in all of its trainings.

    Args:
        benchmark, question_id, category, question, options, image: as in `Outcome`.
        means: of each arm, 0 to 1; None where the arm has not answered it.
        given: of each arm.
    """

    benchmark: str
    question_id: str
    category: str
    question: str
    options: tuple[str, ...]
    image: Path | str | None
    means: tuple[float | None, ...]
    given: tuple[tuple[Given, ...], ...]

    @property
    def spread(self) -> float:
        """Largest difference between two arms."""
        means = [mean for mean in self.means if mean is not None]
        return max(means) - min(means) if means else 0.0


@dataclass(frozen=True)
class Browser:
    """What the template needs to show questions.

    Args:
        data: for the script, JSON.
        shown, wanted: images embedded, and images there are.
        unreadable: images that cannot be decoded.
        missing: questions whose image is not on this machine.
    """

    data: dict[str, Any]
    shown: int
    wanted: int
    unreadable: int
    missing: int


def browser(arms: Sequence[str], entries: Sequence[Entry], image_bytes: int = IMAGE_BYTES) -> Browser:
    """The data of all entries, with thumbnails of the most telling ones: those on which arms differ most, then a draw
    by the question's hash.

    Args:
        arms: names, in the order of the entries' answers.
        entries: in the order they are shown.
        image_bytes: of all thumbnails together at most, in base64.
    """
    wanted: dict[Path | str, None] = {}
    for entry in sorted(entries, key=lambda entry: (-entry.spread, _drawn(entry))):
        if entry.image is not None:
            wanted.setdefault(entry.image)
    images: list[str] = []
    places: dict[Path | str, int] = {}
    unreadable = size = 0
    for source in wanted:
        if size >= image_bytes:
            break
        try:
            thumbnail = _thumbnail(source, SMALL if len(wanted) > MANY else LARGE)
        except RowFault:
            unreadable += 1
            continue
        places[source] = len(images)
        images.append(thumbnail)
        size += len(thumbnail)
    data = {
        "arms": list(map(visible, arms)),
        "images": images,
        "questions": [_question(entry, places.get(entry.image) if entry.image else None) for entry in entries],
    }
    return Browser(data, len(images), len(wanted), unreadable, sum(entry.image is None for entry in entries))


def _drawn(entry: Entry) -> str:
    return hashlib.sha256(
        f"{entry.benchmark} {entry.question_id} {entry.question}".encode(errors="replace")
    ).hexdigest()


def _question(entry: Entry, place: int | None) -> dict[str, Any]:
    """One entry with short keys: there are thousands of them."""
    return {
        "b": entry.benchmark,
        "n": _short(entry.question_id),
        "c": _short(entry.category),
        "q": _short(entry.question),
        "o": [_short(option) for option in entry.options],
        "i": place,
        "m": [None if mean is None else round(mean, 3) for mean in entry.means],
        "a": [
            [
                [_short(given.text), _short(given.read), _short(given.wanted), round(given.credit, 3), count]
                for given, count in Counter(answers).most_common()
            ]
            for answers in entry.given
        ],
    }


def _short(text: str) -> str:
    return visible(text if len(text) <= LONGEST else f"{text[:LONGEST]} ... ({len(text):,} characters)")


def _thumbnail(source: Path | str, side: int) -> str:
    """An image as a small JPEG in base64.

    Args:
        source: its path, or its bytes in base64.
        side: px, the longer one at most.

    Raises:
        RowFault: it cannot be decoded.
    """
    try:
        content = source if isinstance(source, Path) else base64.b64decode(source)
    except binascii.Error as error:
        raise RowFault("unreadable_image", f"embedded image: {error}") from None
    with opened(content) as image:
        image.draft("RGB", (side, side))
        small = image.convert("RGB")
        small.thumbnail((side, side), Image.Resampling.BILINEAR)
        file = io.BytesIO()
        small.save(file, "JPEG", quality=72)
    return base64.b64encode(file.getvalue()).decode()
