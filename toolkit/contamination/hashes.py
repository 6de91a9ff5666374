"""Perceptual hashes of images and of their windows, and the search for near ones."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import combinations

import numpy as np

FREQUENCIES = 8  # the lowest of each direction
SCALES = (1.0, 0.92, 0.84, 0.77, 0.7)  # of the sides of windows
STEP = 0.05  # of a side, between windows
MIRROR = np.where(np.arange(FREQUENCIES) % 2, -1, 1)[None].astype(np.float32)  # what mirroring does to frequencies


def frequencies_of(grey: np.ndarray) -> np.ndarray:
    """The lowest frequencies of an image [H, W] by the cosine transform, [8, 8]; those of any size compare."""
    height, width = grey.shape
    return _waves(height) @ grey.astype(np.float32) @ _waves(width).T


def windows_of(grey: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Windows of an image [H, W]: boxes (top, left, height, width) [N, 4], and their frequencies [N, 8, 8]."""
    boxes, frequencies = [], []
    grey = grey.astype(np.float32)
    for scale in SCALES:
        (tops, height, rows), (lefts, width, columns) = (_lines(side, scale) for side in grey.shape)
        found = (rows @ grey @ columns.T).reshape(len(tops), FREQUENCIES, len(lefts), FREQUENCIES)
        frequencies.append(found.transpose(0, 2, 1, 3).reshape(-1, FREQUENCIES, FREQUENCIES))
        boxes += [(top, left, height, width) for top in tops for left in lefts]
    return np.array(boxes, np.int16), np.concatenate(frequencies)


@lru_cache(maxsize=1024)
def _lines(side: int, scale: float) -> tuple[list[int], int, np.ndarray]:
    """Along one side: where windows begin, how long they are, and what gives their frequencies, [8 windows, side]."""
    count = 1 if scale == 1 else max(2, math.ceil((1 - scale) / STEP) + 1)
    length = round(side * scale)
    starts = [round(start) for start in np.linspace(0, side - length, count)]
    waves = np.zeros((count, FREQUENCIES, side), np.float32)
    for window, start in zip(waves, starts, strict=True):
        window[:, start : start + length] = _waves(length)
    return starts, length, waves.reshape(-1, side)


@lru_cache(maxsize=1024)
def _waves(length: int) -> np.ndarray:
    """The cosine transform's lowest waves along so many pixels, as means: [8, length]."""
    places = (np.arange(length) + 0.5) / length
    return (np.cos(np.pi * np.outer(np.arange(FREQUENCIES), places)) / length).astype(np.float32)


def hashes_of(frequencies: np.ndarray) -> np.ndarray:
    """64-bit hashes of frequencies [N, 8, 8]: which are above their median, the mean left out."""
    values = frequencies.reshape(len(frequencies), -1)[:, 1:]
    middle = values.shape[1] // 2
    medians = np.partition(values, middle, axis=1)[:, middle, None]
    bits = np.concatenate([values > medians, np.zeros((len(values), 1), bool)], axis=1)
    return np.packbits(bits, axis=1).view(np.uint64)[:, 0]


class NearHashes:
    """Finds 64-bit hashes within a radius, by looking only at those that nearly agree in a quarter of their bits.

    Where two hashes differ in at most `radius` bits, one of their four quarters differs in at most a quarter as many.
    """

    def __init__(self, hashes: np.ndarray, radius: int):
        self._radius = radius
        bits = range(radius // 4 + 1)
        self._changes = np.array(
            [sum(1 << bit for bit in some) for count in bits for some in combinations(range(16), count)], np.uint16
        )
        quarters = hashes.view(np.uint16).reshape(-1, 4).T
        orders = [np.argsort(quarter, kind="stable").astype(np.int32) for quarter in quarters]
        values = np.arange((1 << 16) + 1)
        starts = [np.searchsorted(quarter[order], values) for quarter, order in zip(quarters, orders, strict=True)]
        self._starts = np.stack(starts) + np.arange(4)[:, None] * len(hashes)  # in all four orders, one after another
        self._order = np.concatenate(orders)
        self._hashes = hashes[self._order]

    def find(self, wanted: np.uint64) -> np.ndarray:
        """Places of the hashes that differ in at most `radius` bits, in rising order."""
        values = self._changes ^ np.array([wanted]).view(np.uint16)[:, None]  # [4, changes]
        first = np.take_along_axis(self._starts, values.astype(np.int64), axis=1).ravel()
        counts = np.take_along_axis(self._starts, values.astype(np.int64) + 1, axis=1).ravel() - first
        before = np.cumsum(counts) - counts
        places = np.arange(counts.sum()) + np.repeat(first - before, counts)
        near = np.bitwise_count(self._hashes[places] ^ wanted) <= self._radius
        return np.unique(self._order[places[near]])
