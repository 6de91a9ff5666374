"""The pairs that a judge is asked about: each caption as token ids with its image and without, by blocks of rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.dataset.images import is_missing, require_missing
from toolkit.dataset.llava import IMAGE_MARK, Original
from toolkit.dataset.rows import ImageRoots, Line, id_of, parse_row, read_rows
from toolkit.dataset.training_file import convert_row
from toolkit.errors import RowFault
from toolkit.mgm.conversation import IGNORE_INDEX, encode_conversation
from toolkit.training.data import SampleReader

# Rows that are computed and kept on disk together: what a killed run computes again. Their micro-batches do not depend
# on where it was killed, so its bytes do not either.
BLOCK = 256
Tokens = tuple[list[int], list[int]]  # ids and labels of equal length


@dataclass(frozen=True)
class Pair:
    """One line of a seed.

    Args:
        row: line number in the seed, from 1.
        id: of the row; `?` where none can be read.
        caption: 16 bytes that name the caption; None where none can be read.
        sample: the row as training reads it; None for a row that cannot be judged.
        stamp: of its image: path, size and time of change; empty without one.
        fault: why the row cannot be judged; empty for any other.
    """

    row: int
    id: str
    caption: bytes | None
    sample: dict[str, Any] | None
    stamp: str
    fault: str = ""

    @property
    def length(self) -> int:
        """Characters of its texts."""
        return sum(len(turn["value"]) for turn in self.sample["conversations"]) if self.sample else 0


def digest(content: bytes) -> bytes:
    """The 16 bytes that name a caption or an image by its content."""
    return hashlib.blake2b(content, digest_size=16).digest()


def read_pairs(seed: Path, roots: ImageRoots, originals: dict[str, Original]) -> list[Pair]:
    """Every line of a seed that is not blank, in order.

    Args:
        seed: a jsonl.
        roots: folders of its images.
        originals: `stage_1.json` by id, see `load_originals`.

    Raises:
        UserError: those of `read_rows` and `require_missing`.
    """
    missing: list[Path] = []
    pairs = [_pair(number, line, roots, originals, missing) for number, line in read_rows(seed, roots)]
    require_missing(missing, roots.seed)
    return pairs


def _pair(number: int, line: Line, roots: ImageRoots, originals: dict[str, Original], missing: list[Path]) -> Pair:
    """A line's pair; an image that is not there is added to `missing`."""
    caption = None
    try:
        row = parse_row(line)
        caption = digest(row.caption.encode())
        if row.image is None:
            raise RowFault("no_image", "a text-only row")
        path = roots.resolve(row.image)
        try:
            sample = convert_row(line, originals, roots)
            state = path.stat()
        except (RowFault, FileNotFoundError) as fault:
            if isinstance(fault, RowFault) and not is_missing(fault):
                raise
            missing.append(path)
            raise RowFault("missing_image", f"{path}: no such file") from None
    except RowFault as fault:
        return Pair(number, id_of(line), caption, None, "", str(fault))
    return Pair(number, str(sample["id"]), caption, sample, f"{sample['image']} {state.st_size} {state.st_mtime_ns}")


def blocks_of(pairs: Sequence[Pair], judge: str) -> Iterator[tuple[str, Sequence[Pair]]]:
    """Blocks of pairs in order, each under a key that names its pairs and the judge."""
    for start in range(0, len(pairs), BLOCK):
        block = pairs[start : start + BLOCK]
        content = repr([judge, *((pair.row, pair.id, pair.sample, pair.stamp, pair.fault) for pair in block)])
        yield hashlib.sha256(content.encode()).hexdigest()[:24], block


def tokens_of(sample: dict[str, Any], reader: SampleReader) -> tuple[Tokens, Tokens]:
    """A caption after its question with the image's placeholder, and after the same question without.

    Both hold the same supervised tokens: those that are left when the image's own tokens are within the model's length.

    Raises:
        RowFault: those of `SampleReader.tokens`.
    """
    ids, labels = reader.tokens(sample)
    kept = reader.max_length - (reader.image_tokens - 1)
    ids, labels = ids[:kept], labels[:kept]
    question, *answers = sample["conversations"]
    asked = question["value"].replace(IMAGE_MARK, "").strip()
    blind, blind_labels = encode_conversation(
        [question | {"value": asked}, *answers], reader.tokenizer, has_image=False, max_length=reader.max_length
    )
    spare = _supervised(blind_labels) - _supervised(labels)
    end = len(blind) - max(spare, 0)
    return (ids, labels), (blind[:end], blind_labels[:end])


def _supervised(labels: list[int]) -> int:
    return sum(label != IGNORE_INDEX for label in labels)
