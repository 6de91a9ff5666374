"""Copies of images, also recompressed, resized, bordered, flipped or cropped to 70 % of each side.

A 64-bit perceptual hash (the signs of the lowest frequencies of a 32 x 32 image; C. Zauner, "Implementation and
benchmarking of perceptual image hash functions", 2010) finds candidates: every wanted image is hashed whole and in 134
windows of 70 to 92 % of its sides, each also mirrored; every other image once, and without its border if it has one. A
candidate counts where image and window correlate, as a whole, in their details and colours: by hashes alone one pair
in ten thousand would be a copy, by the whole alone shoes on white.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from toolkit.dataset.images import opened
from toolkit.errors import RowFault

SIDE = 128  # px, the longer one of what is compared
LEAST_SIDE = 16
SMALL, FREQUENCIES = 32, 8  # px that are transformed, frequencies that are kept of each direction
BORDER_RANGE = 12  # grey levels within a line of a border
BLUR = 1.0  # px, standard deviation: pixels of two scalings agree only then
RADIUS = 11  # bits in which hashes of copies may differ
MIN_CORRELATION = 0.9
COARSE, MIN_DETAIL = 4.0, 0.75  # px, standard deviation; and the least correlation of what is finer
CANDIDATES = 4  # windows of a pair that are looked at closely
SCALES = (1.0, 0.92, 0.84, 0.77, 0.7)
STEP = 0.05  # of a side, between windows
STRETCHES = (0.94, 0.97, 1.0, 1.03, 1.06)  # of a window, in the close look
MARGIN = 0.08  # of a window's longer side, by which it may lie elsewhere
IMAGES_AT_ONCE = 256
COLOURS = 4  # parts of each side whose mean colours are compared
NO_COLOUR, LEAST_COLOUR, COLOUR_RANGE = 128, 6, 16  # of a chroma: of grey; of a coloured part; between copies
MIRROR = np.where(np.arange(FREQUENCIES) % 2, -1, 1)[None].astype(np.float32)  # what mirroring does to frequencies

Pixels = np.ndarray  # [H, W, 3] float32: luma and two chromas, 0 to 255
Box = tuple[int, int, int, int]  # top, left, height, width


@dataclass(frozen=True)
class Match:
    """A copy: numbers of the image and the wanted one, how well they correlate (to 1), whether it is mirrored."""

    image: int
    wanted: int
    correlation: float
    mirrored: bool


class Wanted:
    """The images that copies are looked for of.

    Args:
        images: paths or encoded images.

    Raises:
        RowFault: one cannot be read.
    """

    def __init__(self, images: Sequence[Path | bytes]):
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            found = list(pool.map(_windows_of, images))
        self.windows = [window for windows in found for window in windows]
        self.owner = np.repeat(np.arange(len(found)), [len(windows) for windows in found])
        self.near = NearHashes(np.array([window.hash for window in self.windows], dtype=np.uint64), RADIUS)

    def copies_among(self, images: Sequence[Path]) -> Iterator[list[Match] | RowFault]:
        """For each image in turn its matches, the best first, or why it cannot be read; in flat memory."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for start in range(0, len(images), IMAGES_AT_ONCE):
                some = images[start : start + IMAGES_AT_ONCE]
                looks = list(pool.map(_look_of, some))
                found: list[list[Match]] = [[] for _ in some]
                for number, match in self._candidates(looks, pool):
                    found[number].append(match)
                for number, look in enumerate(looks):
                    if isinstance(look, RowFault):
                        yield look
                    else:
                        numbered = [Match(start + number, m.wanted, m.correlation, m.mirrored) for m in found[number]]
                        yield sorted(_best(numbered), key=lambda match: -match.correlation)

    def _candidates(
        self, looks: Sequence[list[Pixels] | RowFault], pool: ThreadPoolExecutor
    ) -> Iterator[tuple[int, Match]]:
        views = [(number, view) for number, look in enumerate(looks) if not isinstance(look, RowFault) for view in look]
        for (number, _), matches in zip(views, pool.map(self._matches, (view for _, view in views)), strict=True):
            yield from ((number, match) for match in matches)

    def _matches(self, pixels: Pixels) -> list[Match]:
        """Wanted images whose closest windows correlate with one view of an image."""
        windows, distances = self.near.find(_hash(_frequencies(pixels)))
        looks, found = Counter[int](), []
        for index in np.lexsort((windows, distances)):
            window, wanted = self.windows[windows[index]], int(self.owner[windows[index]])
            looks[wanted] += 1
            if looks[wanted] <= CANDIDATES and (correlation := _correlation(pixels, window)) >= MIN_CORRELATION:
                found.append(Match(0, wanted, correlation, window.mirrored))
        return found


class NearHashes:
    """Finds 64-bit hashes within a radius, by looking only at those that nearly agree in a quarter of their bits.

    Where two hashes differ in at most `radius` bits, one of their four quarters differs in at most a quarter as many.
    """

    def __init__(self, hashes: np.ndarray, radius: int):
        self.hashes, self.radius = hashes, radius
        bits = range(radius // 4 + 1)
        self._changes = np.array(
            [sum(1 << bit for bit in some) for count in bits for some in combinations(range(16), count)], np.uint16
        )
        self._orders, self._starts = [], []
        for quarter in hashes.view(np.uint16).reshape(-1, 4).T:
            order = np.argsort(quarter, kind="stable")
            self._orders.append(order)
            self._starts.append(np.searchsorted(quarter[order], np.arange((1 << 16) + 1)))

    def find(self, wanted: np.uint64) -> tuple[np.ndarray, np.ndarray]:
        """Places of the hashes that differ in at most `radius` bits, in rising order, and in how many they do."""
        quarters = np.array([wanted]).view(np.uint16)
        places = []
        for quarter, order, starts in zip(quarters, self._orders, self._starts, strict=True):
            values = (self._changes ^ quarter).astype(np.int64)
            places += [
                order[starts[value] : starts[value + 1]] for value in values if starts[value] < starts[value + 1]
            ]
        found = np.unique(np.concatenate(places)) if places else np.empty(0, np.int64)
        distances = np.bitwise_count(self.hashes[found] ^ wanted)
        near = distances <= self.radius
        return found[near], distances[near]


def _best(matches: list[Match]) -> list[Match]:
    best: dict[int, Match] = {}
    for match in matches:
        if match.wanted not in best or best[match.wanted].correlation < match.correlation:
            best[match.wanted] = match
    return list(best.values())


@dataclass(frozen=True)
class _Window:
    pixels: Pixels  # the whole image
    box: Box
    mirrored: bool
    hash: np.uint64


def _windows_of(source: Path | bytes) -> list[_Window]:
    whole = _pixels(source)
    windows = []
    for pixels in {view.shape: view for view in (whole, _without_borders(whole)[-1])}.values():
        blurred = _blurred(pixels)
        for box in _boxes(*pixels.shape[:2]):
            top, left, height, width = box
            found = _frequencies(blurred[top : top + height, left : left + width])
            windows.append(_Window(blurred, box, False, _hash(found)))
            windows.append(_Window(blurred, box, True, _hash(found * MIRROR)))
    return windows


def _look_of(path: Path) -> list[Pixels] | RowFault:
    try:
        return [_blurred(pixels) for pixels in _without_borders(_pixels(path))]
    except RowFault as fault:
        return fault


def _pixels(source: Path | bytes) -> Pixels:
    """The image's luma and chroma, its longer side SIDE pixels."""
    with opened(source) as image:
        if image.format == "JPEG":
            image.draft("YCbCr", (SIDE, SIDE))
        colours = image if image.mode == "YCbCr" else image.convert("RGB").convert("YCbCr")
        scale = SIDE / max(colours.size)
        width, height = (max(LEAST_SIDE, round(side * scale)) for side in colours.size)
        kind = Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR
        return np.asarray(colours.resize((width, height), kind, reducing_gap=2), dtype=np.float32)


def _without_borders(pixels: Pixels) -> list[Pixels]:
    """The image, then without its border, then without the next one: a frame around a white margin is two."""
    views = [pixels]
    for _ in range(3):
        grey = views[-1][..., 0]
        cut = [_border(lines) for lines in (grey, grey[::-1], grey.T, grey.T[::-1])]
        top, bottom, left, right = (lines + (lines > 0) for lines in cut)  # one more: there the border is mixed in
        height, width = grey.shape
        has_border = (cut[0] and cut[1]) or (cut[2] and cut[3])  # the sky of a photograph is on one side
        if not has_border or height - top - bottom < LEAST_SIDE or width - left - right < LEAST_SIDE:
            break
        views.append(views[-1][top : height - bottom, left : width - right])
    return views


def _border(lines: np.ndarray) -> int:
    """How many lines in front are of one colour each."""
    uniform = np.ptp(lines, axis=1) <= BORDER_RANGE
    return int(np.argmin(uniform)) if not uniform.all() else 0


def _blurred(pixels: Pixels) -> Pixels:
    return cv2.GaussianBlur(np.ascontiguousarray(pixels), (0, 0), BLUR)


def _boxes(height: int, width: int) -> Iterator[Box]:
    for scale in SCALES:
        count = 1 if scale == 1 else max(2, math.ceil((1 - scale) / STEP) + 1)
        box = round(height * scale), round(width * scale)
        for top in np.linspace(0, height - box[0], count):
            for left in np.linspace(0, width - box[1], count):
                yield round(top), round(left), *box


def _frequencies(pixels: Pixels) -> np.ndarray:
    small = cv2.resize(np.ascontiguousarray(pixels[..., 0]), (SMALL, SMALL), interpolation=cv2.INTER_AREA)
    return cv2.dct(small)[:FREQUENCIES, :FREQUENCIES]


def _hash(frequencies: np.ndarray) -> np.uint64:
    values = frequencies.flatten()[1:]  # without the mean
    return np.packbits(np.append(values > np.median(values), False)).view(np.uint64)[0]


def _correlation(pixels: Pixels, window: _Window) -> float:
    """The highest correlation of an image with a window, a little moved and stretched.

    -1 where details or colours differ; a grey image may be a copy of a coloured one.
    """
    top, left, height, width = window.box
    margin = max(4, round(MARGIN * max(height, width)))
    place = slice(max(0, top - margin), top + height + margin), slice(max(0, left - margin), left + width + margin)
    around = window.pixels[place]
    grey = np.ascontiguousarray(around[..., 0])
    details = np.ascontiguousarray(_details(window.pixels[..., 0])[place])
    view = np.ascontiguousarray(pixels[:, ::-1]) if window.mirrored else pixels
    best = -1.0
    for stretch in STRETCHES:
        size = (min(round(width * stretch), grey.shape[1]), min(round(height * stretch), grey.shape[0]))
        template = cv2.resize(view, size, interpolation=cv2.INTER_AREA)
        luma = np.ascontiguousarray(template[..., 0])
        _, value, _, (x, y) = cv2.minMaxLoc(cv2.matchTemplate(grey, luma, cv2.TM_CCOEFF_NORMED))
        if not max(best, MIN_CORRELATION) <= value < math.inf:
            continue
        same = cv2.matchTemplate(details, _details(luma), cv2.TM_CCOEFF_NORMED)
        if same[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].max() < MIN_DETAIL:
            continue
        if _same_colours(around[y : y + size[1], x : x + size[0]], template):
            best = float(value)
    return best


def _details(grey: np.ndarray) -> np.ndarray:
    """Without what is larger than a few pixels: shoes on white have one outline, and laces of their own."""
    return grey - cv2.GaussianBlur(np.ascontiguousarray(grey), (0, 0), COARSE)


def _same_colours(one: Pixels, other: Pixels) -> bool:
    chromas = [
        cv2.resize(np.ascontiguousarray(view[..., 1:]), (COLOURS, COLOURS), interpolation=cv2.INTER_AREA) - NO_COLOUR
        for view in (one, other)
    ]
    if min(np.abs(chroma).max() for chroma in chromas) < LEAST_COLOUR:
        return True
    return bool(np.abs(chromas[0] - chromas[1]).max() <= COLOUR_RANGE)
