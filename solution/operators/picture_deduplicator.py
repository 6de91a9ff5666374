"""Drop rows whose picture looks like an earlier row's picture."""

from collections import defaultdict
from typing import Annotated

import numpy as np
from data_juicer.ops.base_op import OPERATORS, Deduplicator
from PIL import Image
from pydantic import Field

from .pictures import PictureError, open_row_pictures
from .rows import FAILURE, Batch, add_texts

SIDE = 16  # hash of 16 x 16 = 256 bits
_SAMPLED = 64  # px: the picture is resized to 64 x 64 before its cosine transform


def _cosine_rows(count: int, length: int) -> np.ndarray:
    """The first `count` rows of the discrete cosine transform of `length` points, without the constant one."""
    frequency, point = np.arange(1, count + 1)[:, None], np.arange(length)[None, :]
    return np.cos(np.pi * frequency * (2 * point + 1) / (2 * length))


_COSINES = _cosine_rows(SIDE, _SAMPLED)  # [16, 64]


def perceptual_hash(picture: Image.Image) -> bytes:
    """256 bits (32 bytes) from the signs of a picture's low frequencies against their median.

    Rescaled, recompressed or slightly blurred copies differ in a few bits, unrelated pictures in about half of them.
    """
    grey = np.asarray(picture.convert("L").resize((_SAMPLED, _SAMPLED), Image.Resampling.BILINEAR), dtype=np.float64)
    low = _COSINES @ grey @ _COSINES.T  # [16, 16]
    return np.packbits(low > np.median(low)).tobytes()


@OPERATORS.register_module("picture_deduplicator")
class PictureDeduplicator(Deduplicator):
    """Keeps the first of rows whose pictures' hashes differ in at most `max_distance` of 256 bits.

    The search is exact: two hashes within d bits agree in at least one of d + 1 slices. Rows of one id (extra captions
    of a picture) are no copies of each other. A row with an unreadable picture fails.
    """

    _batched_op = True

    def __init__(self, max_distance: Annotated[int, Field(ge=0, le=63)] = 10, *args, **kwargs) -> None:
        """Drop what looks the same.

        :param max_distance: bits of 256 in which copies may differ, 0 (same hash) to 63; above 30 the search grows slow
        """
        super().__init__(*args, **kwargs)
        self.max_distance = max_distance
        self.dropped_because: dict[int, str] = {}

    def compute_hash(self, samples: Batch) -> Batch:
        """Add `picture_hash` (hexadecimal; empty for a failed row) to each row."""
        hashes, failures = [], []
        for paths in samples[self.image_key]:
            try:
                hashes.append("".join(perceptual_hash(picture).hex() for picture in open_row_pictures(paths)))
                failures.append("")
            except PictureError as bad:
                hashes.append("")
                failures.append(str(bad))
        samples["picture_hash"] = hashes
        add_texts(samples, FAILURE, failures)
        return samples

    def process(self, dataset, show_num: int = 0):
        """Dataset with hashes -> (dataset without repeats and without hashes, no traced pairs)."""
        # As lists: a column of a data set is read from its table anew for every single index.
        hashes = list(dataset["picture_hash"])
        names = list(dataset["id"]) if "id" in dataset.column_names else list(map(str, range(len(hashes))))
        self.dropped_because = {}
        # Nearly every slice has one row: a list for each would be most of the memory.
        first: dict[int, int] = {}
        further: dict[int, list[int]] = defaultdict(list)
        codes = {position: np.frombuffer(bytes.fromhex(text), np.uint8) for position, text in enumerate(hashes) if text}
        kept = []
        for position in range(len(hashes)):
            keys = self._slice_keys(codes[position]) if position in codes else []
            near = {other for key in keys if key in first for other in (first[key], *further.get(key, ()))}
            candidates = sorted(other for other in near if names[other] != names[position])
            twin = self._twin(position, candidates, codes)
            if twin is None:
                kept.append(position)
                for key in keys:
                    if first.setdefault(key, position) != position:
                        further[key].append(position)
            else:
                self.dropped_because[position] = f"repeats a picture: that of {names[twin]}"
        return dataset.select(kept).remove_columns("picture_hash"), {}

    def _slice_keys(self, code: np.ndarray) -> list[int]:
        """The hash's bits in max_distance + 1 slices; a number for each, which two slices share by rare chance only."""
        slices = np.array_split(np.unpackbits(code), self.max_distance + 1)
        return [hash((number, piece.tobytes())) for number, piece in enumerate(slices)]

    def _twin(self, position: int, candidates: list[int], codes: dict[int, np.ndarray]) -> int | None:
        """The first of the kept rows `candidates` whose hash is near enough, None without one."""
        alike = [other for other in candidates if len(codes[other]) == len(codes[position])]
        if not alike:
            return None
        differing = np.stack([codes[other] for other in alike]) ^ codes[position]  # [candidates, bytes]
        near = np.unpackbits(differing, axis=1).sum(axis=1) <= self.max_distance
        return alike[int(near.argmax())] if near.any() else None
