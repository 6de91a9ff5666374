"""Copies of images, also recompressed, resized, bordered, flipped or cropped to 70 % of each side.

A 64-bit perceptual hash (the signs of an image's lowest frequencies; C. Zauner, "Implementation and benchmarking of
perceptual image hash functions", 2010) finds candidates: every wanted image is hashed whole and in 134 windows of 70 to
92 % of its sides, each also mirrored; every other image once, and without its border if it has one. Candidates whose
frequencies agree in size too are looked at closely: they count where image and window correlate, as a whole, in their
details and colours. By hashes alone one pair in ten thousand would be a copy, by the whole alone shoes on white.
"""

from __future__ import annotations

import hashlib
import math
import multiprocessing
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from toolkit.contamination.hashes import MIRROR, NearHashes, frequencies_of, hashes_of, windows_of
from toolkit.dataset.images import opened
from toolkit.errors import RowFault, UserError

SIDE = 128  # px, the longer one of what is compared
LEAST_SIDE = 16
BORDER_RANGE = 12  # grey levels within a line of a border
BLUR = 1.0  # px, standard deviation: pixels of two scalings agree only then
RADIUS = 11  # bits in which hashes of copies may differ
MIN_LIKENESS = 0.8  # of frequencies, before the close look
MIN_CORRELATION = 0.9
MIN_COARSE = 0.85  # correlation at half the size, before that of all pixels
COARSE, MIN_DETAIL = 4.0, 0.75  # px, standard deviation; and the least correlation of what is finer
CANDIDATES = 4  # windows of a pair that are looked at closely
STRETCHES = (0.94, 0.97, 1.0, 1.03, 1.06)  # of a window, in the close look
MARGIN = 0.08  # of a window's longer side, by which it may lie elsewhere
DIGEST_BYTES = 16
IMAGES_AT_ONCE, WORTH_FORKING = 64, 512  # of a worker's task; from how many images on there are workers
COLOURS = 4  # parts of each side whose mean colours are compared
NO_COLOUR, LEAST_COLOUR, COLOUR_RANGE = 128, 6, 16  # of a chroma: of grey; of a coloured part; between copies

Pixels = np.ndarray  # [H, W, 3] uint8: luma and two chromas


@dataclass(frozen=True)
class Match:
    """A copy: number of the wanted image, how well they correlate (to 1), whether it is mirrored."""

    wanted: int
    correlation: float
    mirrored: bool


@dataclass(frozen=True)
class Looked:
    """One image that was compared: its content's digest, and its copies, the best first."""

    digest: bytes
    matches: list[Match]


def digest_of(content: bytes) -> bytes:
    """What images and captions are known by."""
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()


class Wanted:
    """The images that copies are looked for of.

    Args:
        images: paths or encoded images.

    Raises:
        RowFault: one cannot be read.
    """

    def __init__(self, images: Sequence[Path | bytes]):
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            found = list(pool.map(_wanted_views, images))
        self._views = [(number, view) for number, views in enumerate(found) for view, *_ in views]
        windows = [some for views in found for some in views]
        self._view_of = np.repeat(np.arange(len(windows)), [len(boxes) for _, boxes, *_ in windows])
        self._boxes = np.concatenate([boxes for _, boxes, *_ in windows])
        self._shapes = np.concatenate([shapes for _, _, shapes, _ in windows])
        # Of all windows, then of all mirrored.
        self._near = NearHashes(np.concatenate([hashes for *_, hashes in windows], axis=1).ravel(), RADIUS)

    def copies_among(self, images: Sequence[Path]) -> Iterator[Looked | RowFault]:
        """For each image in turn its copies, or why it cannot be read; in flat memory.

        Raises:
            UserError: the machine cannot read an image, or killed a process that compared some.
        """
        if len(images) < WORTH_FORKING:
            yield from map(self._look_at, images)
            return
        # Threads would wait for each other: much of the work is many short calls of NumPy.
        cv2.setNumThreads(1)  # ends OpenCV's own threads, for which a fork would wait for ever
        fork = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(os.cpu_count(), fork, _WORKERS_OWN.append, (self,)) as pool:
            try:
                yield from pool.map(_look_in_worker, images, chunksize=IMAGES_AT_ONCE)
            except BrokenProcessPool:
                raise UserError("a process that compares images was killed; try again: what it knows is kept") from None

    def _look_at(self, image: Path) -> Looked | RowFault:
        try:
            views = _views_of(image)
            digest = digest_of(image.read_bytes())
        except RowFault as fault:
            return fault
        best: dict[int, Match] = {}
        for view in views:
            for wanted, correlation, mirrored in self._closest(view):
                if wanted not in best or best[wanted].correlation < correlation:
                    best[wanted] = Match(wanted, correlation, mirrored)
        return Looked(digest, sorted(best.values(), key=lambda match: -match.correlation))

    def _closest(self, view: Pixels) -> Iterator[tuple[int, float, bool]]:
        """(wanted image, correlation, mirrored) of the windows most like one view of an image."""
        frequencies = frequencies_of(view[..., 0])[None]
        places = self._near.find(hashes_of(frequencies)[0])
        if not len(places):
            return
        windows, mirrored = places % len(self._boxes), places >= len(self._boxes)
        shapes = _shapes_of(np.concatenate([frequencies, frequencies * MIRROR]))
        likeness = np.einsum("wf,wf->w", self._shapes[windows].astype(np.float32), shapes[mirrored.astype(int)])
        looks = Counter[int]()
        for index in np.argsort(-likeness, kind="stable"):
            if likeness[index] < MIN_LIKENESS:
                return
            wanted, whole = self._views[self._view_of[windows[index]]]
            looks[wanted] += 1
            if looks[wanted] > CANDIDATES:
                continue
            flipped = bool(mirrored[index])
            turned = np.ascontiguousarray(view[:, ::-1]) if flipped else view
            if (correlation := _correlation(turned, whole, self._boxes[windows[index]])) >= MIN_CORRELATION:
                yield wanted, correlation, flipped


_WORKERS_OWN: list[Wanted] = []  # filled in a worker, which is a fork: nothing is copied


def _look_in_worker(image: Path) -> Looked | RowFault:
    return _WORKERS_OWN[0]._look_at(image)


def _shapes_of(frequencies: np.ndarray) -> np.ndarray:
    """Frequencies [..., 8, 8] without the mean, as vectors [..., 63] of length 1."""
    values = frequencies.reshape(*frequencies.shape[:-2], -1)[..., 1:].astype(np.float32)
    return values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-6)


def _wanted_views(source: Path | bytes) -> list[tuple[Pixels, np.ndarray, np.ndarray, np.ndarray]]:
    """Each view of a wanted image with its windows' boxes, shapes, and hashes as they are and mirrored [2, N]."""
    views = _views_of(source)
    found = []
    for view in {view.shape: view for view in (views[0], views[-1])}.values():
        boxes, frequencies = windows_of(view[..., 0])
        hashes = np.stack([hashes_of(frequencies), hashes_of(frequencies * MIRROR)])
        found.append((view, boxes, _shapes_of(frequencies).astype(np.float16), hashes))
    return found


def _views_of(source: Path | bytes) -> list[Pixels]:
    views = _without_borders(_pixels(source))
    return [cv2.GaussianBlur(np.ascontiguousarray(view), (0, 0), BLUR) for view in views]


def _pixels(source: Path | bytes) -> Pixels:
    """The image's luma and chroma, its longer side SIDE pixels."""
    with opened(source) as image:
        if image.format == "JPEG":
            image.draft("YCbCr", (SIDE, SIDE))
        colours = image if image.mode == "YCbCr" else image.convert("RGB").convert("YCbCr")
        scale = SIDE / max(colours.size)
        width, height = (max(LEAST_SIDE, round(side * scale)) for side in colours.size)
        kind = Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR
        return np.asarray(colours.resize((width, height), kind, reducing_gap=2))


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


def _correlation(view: Pixels, whole: Pixels, box: np.ndarray) -> float:
    """The highest correlation of an image with a window of another, a little moved and stretched.

    -1 where details or colours differ, or at half the size all does; a grey image may be a copy of a coloured one.
    """
    top, left, height, width = map(int, box)
    margin = max(4, round(MARGIN * max(height, width)))
    place = slice(max(0, top - margin), top + height + margin), slice(max(0, left - margin), left + width + margin)
    around = whole[place]
    grey, luma = np.ascontiguousarray(around[..., 0], np.float32), np.ascontiguousarray(view[..., 0], np.float32)
    half = cv2.resize(grey, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    if max(_place(half, luma, height / 2, width / 2, stretch)[0] for stretch in STRETCHES) < MIN_COARSE:
        return -1.0
    details = np.ascontiguousarray(_details(whole[..., 0])[place])
    best = -1.0
    for stretch in STRETCHES:
        value, x, y, template = _place(grey, luma, height, width, stretch)
        if not max(best, MIN_CORRELATION) <= value:
            continue
        same = cv2.matchTemplate(details, _details(template), cv2.TM_CCOEFF_NORMED)
        if same[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].max() < MIN_DETAIL:
            continue
        if _same_colours(around[y : y + template.shape[0], x : x + template.shape[1]], view):
            best = value
    return best


def _place(
    around: np.ndarray, luma: np.ndarray, height: float, width: float, stretch: float
) -> tuple[float, int, int, np.ndarray]:
    """Where a stretched image correlates best with a place around a window: correlation, x, y, the stretched image."""
    size = (min(round(width * stretch), around.shape[1]), min(round(height * stretch), around.shape[0]))
    template = cv2.resize(luma, size, interpolation=cv2.INTER_AREA)
    _, value, _, (x, y) = cv2.minMaxLoc(cv2.matchTemplate(around, template, cv2.TM_CCOEFF_NORMED))
    return (float(value) if math.isfinite(value) else -1.0), x, y, template


def _details(grey: np.ndarray) -> np.ndarray:
    """Without what is larger than a few pixels: shoes on white have one outline, and laces of their own."""
    grey = np.ascontiguousarray(grey, np.float32)
    return grey - cv2.GaussianBlur(grey, (0, 0), COARSE)


def _same_colours(one: Pixels, other: Pixels) -> bool:
    chromas = [
        cv2.resize(np.ascontiguousarray(view[..., 1:], np.float32), (COLOURS, COLOURS), interpolation=cv2.INTER_AREA)
        - NO_COLOUR
        for view in (one, other)
    ]
    if min(np.abs(chroma).max() for chroma in chromas) < LEAST_COLOUR:
        return True
    return bool(np.abs(chromas[0] - chromas[1]).max() <= COLOUR_RANGE)
