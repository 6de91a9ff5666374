"""Drop rows whose image looks like an earlier row's image."""

from array import array
from collections import defaultdict
from collections.abc import Iterator
from typing import Annotated, ClassVar

import numpy as np
import pyarrow as pa
from data_juicer.ops.base_op import OPERATORS, Deduplicator
from PIL import Image
from pydantic import Field

from .common.measures import measured
from .common.reasons import repeats_image
from .common.rows import FAILURE, Batch, add_texts, parts_of

SIDE = 16  # hash of 16 x 16 = 256 bits
_BLOCK = 4096  # rows whose bits are compared at once
_SAMPLED = 64  # px: the image is resized to 64 x 64 before its cosine transform


def _cosine_rows(count: int, length: int) -> np.ndarray:
    """The first `count` rows of the discrete cosine transform of `length` points, without the constant one."""
    frequency, point = np.arange(1, count + 1)[:, None], np.arange(length)[None, :]
    return np.cos(np.pi * frequency * (2 * point + 1) / (2 * length))


_COSINES = _cosine_rows(SIDE, _SAMPLED)  # [16, 64]


def perceptual_hash(image: Image.Image) -> str:
    """256 bits (64 hexadecimal digits) from the signs of an image's low frequencies against their median.

    Rescaled, recompressed or slightly blurred copies differ in a few bits, unrelated images in about half of them.
    """
    grey = image if image.mode == "L" else image.convert("L")  # which would copy one that is grey
    grey = np.asarray(grey.resize((_SAMPLED, _SAMPLED), Image.Resampling.BILINEAR), dtype=np.float64)
    low = _COSINES @ grey @ _COSINES.T  # [16, 16]
    return np.packbits(low > np.median(low)).tobytes().hex()


@OPERATORS.register_module("picture_deduplicator")
class PictureDeduplicator(Deduplicator):
    """Keeps the first of rows whose images' hashes differ in at most `max_distance` of 256 bits.

    The search is exact: two hashes within d bits agree in at least one of d + 1 slices. Rows of one id (extra captions
    of an image) are not copies of each other. A row with an unreadable image fails.
    """

    _batched_op = True
    measures: ClassVar = {"picture_hash": perceptual_hash}

    def __init__(self, max_distance: Annotated[int, Field(ge=0, le=63)] = 10, *args, **kwargs) -> None:
        """Drop rows whose images look the same.

        :param max_distance: bits of 256 in which copies may differ, 0 (same hash) to 63; above 30 the search is slow
        """
        super().__init__(*args, **kwargs)
        self.max_distance = max_distance
        self.dropped_because: dict[int, str] = {}

    def compute_hash(self, samples: Batch) -> Batch:
        """Add `picture_hash` (hexadecimal; empty for a failed row) to each row."""
        hashes, failures = measured(samples, self.image_key, "picture_hash", perceptual_hash)
        samples["picture_hash"] = list(map("".join, hashes))
        add_texts(samples, FAILURE, failures)
        return samples

    def process(self, dataset, show_num: int = 0):
        """Dataset with hashes -> (dataset without repeats and without hashes, no traced pairs)."""
        self.dropped_because = {}
        codes: dict[int, list[np.ndarray]] = defaultdict(list)  # length of a row's hash -> parts, [rows, bytes]
        rows: dict[int, array[int]] = defaultdict(lambda: array("q"))  # the same rows' positions
        names = []
        start = 0
        for part in parts_of(dataset, "picture_hash", "id"):
            hashes = part["picture_hash"]
            for length in set(map(len, hashes)) - {0}:
                indices = [index for index, text in enumerate(hashes) if len(text) == length]
                packed = bytes.fromhex("".join(hashes[index] for index in indices))
                codes[length].append(np.frombuffer(packed, np.uint8).reshape(len(indices), -1))
                rows[length].extend(start + index for index in indices)
            names.append(pa.array(part.get("id") or map(str, range(start, start + len(hashes)))))
            start += len(hashes)
        ids = pa.chunked_array(names, pa.string())
        numbers = np.concatenate([chunk.indices.to_numpy() for chunk in ids.dictionary_encode().chunks] or [[]])
        for length, parts in codes.items():  # hashes of different length are never alike
            positions = np.array(rows.pop(length))
            for copy, original in self._repeats(np.concatenate(parts), numbers[positions]):
                self.dropped_because[int(positions[copy])] = repeats_image(ids[positions[original]].as_py())
        kept = np.delete(np.arange(len(dataset)), list(self.dropped_because))
        return dataset.select(kept).remove_columns("picture_hash"), {}

    def _repeats(self, codes: np.ndarray, ids: np.ndarray) -> Iterator[tuple[int, int]]:
        """(row, the kept row that it repeats), as indices into ``codes`` [rows, bytes]; ``ids`` [rows]."""
        # Kept rows that share a slice's value form a chain: `last` has the latest one of each value, and its row of
        # `chain`, which held its slice values before, then gives the previous one for each slice.
        chain = _slice_values(codes, self.max_distance + 1)  # [rows, slices]
        last = np.full(int(chain.max(initial=-1)) + 1, -1, np.int32)
        for row in range(len(codes)):
            values = chain[row].copy()
            previous = last[values]
            near: set[int] = set()
            for number in np.flatnonzero(previous >= 0).tolist():
                other = int(previous[number])
                while other >= 0:
                    near.add(other)
                    other = int(chain[other, number])
            original = self._original(codes[row], sorted(other for other in near if ids[other] != ids[row]), codes)
            if original is None:
                last[values], chain[row] = row, previous
            else:
                yield row, original

    def _original(self, code: np.ndarray, candidates: list[int], codes: np.ndarray) -> int | None:
        """The first of the kept rows `candidates` whose hash is near enough, None without one."""
        if not candidates:
            return None
        near = np.unpackbits(codes[candidates] ^ code, axis=1).sum(axis=1) <= self.max_distance
        return candidates[int(near.argmax())] if near.any() else None


def _slice_values(codes: np.ndarray, count: int) -> np.ndarray:
    """Each hash's bits cut in ``count`` slices, a number for each slice: int32 [rows, slices].

    Equal slices have equal numbers, numbers of different slices differ; others are equal with negligible probability.
    """
    weights = np.random.default_rng(0).integers(1 << 63, size=8 * codes.shape[1], dtype=np.uint64) * 2 + 1
    values = np.empty((len(codes), count), np.int32)
    used = 0
    for number, piece in enumerate(np.array_split(np.arange(len(weights)), count)):
        keys = [
            (np.unpackbits(codes[start : start + _BLOCK], axis=1)[:, piece] * weights[piece]).sum(axis=1)
            for start in range(0, len(codes), _BLOCK)
        ]
        different, values[:, number] = np.unique(np.concatenate(keys), return_inverse=True)
        values[:, number] += used
        used += len(different)
    return values
