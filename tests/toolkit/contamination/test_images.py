"""Planted copies are found, other images are not; the quick search finds what comparing all hashes finds."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from benchmarks.contamination import COPIES, photograph
from toolkit.contamination import images
from toolkit.contamination.hashes import NearHashes, frequencies_of, windows_of
from toolkit.contamination.images import RADIUS, Wanted
from toolkit.errors import RowFault

COUNT = 20


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> Wanted:
    folder = tmp_path_factory.mktemp("wanted")
    for number in range(COUNT):
        photograph(number).save(folder / f"{number:02d}.png")
    images: list[Path | bytes] = sorted(folder.iterdir())
    return Wanted([images[0].read_bytes(), *images[1:]])  # MMBench's are no files


@pytest.mark.parametrize("kind", COPIES)
def test_copies_are_found(wanted: Wanted, tmp_path: Path, kind: str) -> None:
    change, share = COPIES[kind]
    paths = [tmp_path / f"{number}.png" for number in range(COUNT)]
    for number, path in enumerate(paths):
        change(photograph(number), number).save(path)
    found = list(wanted.copies_among(paths))
    right = [bool(look.matches) and look.matches[0].wanted == number for number, look in enumerate(found)]
    assert np.mean(right) >= share
    if kind in ("mirrored", "the same"):
        assert all(look.matches[0].mirrored == (kind == "mirrored") for look in found if look.matches)


def test_other_images_are_not(wanted: Wanted, tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.jpg" for number in range(100, 160)]
    for number, path in enumerate(paths, 100):
        photograph(number).save(path)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"none")
    *found, last = wanted.copies_among([*paths, broken])
    assert [look.matches for look in found] == [[]] * len(paths)
    assert isinstance(last, RowFault)


def test_nearly_uniform_images_match_nothing(wanted: Wanted, tmp_path: Path) -> None:
    paths = [tmp_path / "white.png", tmp_path / "line.png"]
    Image.new("L", (200, 200), 255).save(paths[0])
    Image.new("L", (3, 400), 90).save(paths[1])
    assert [look.matches for look in wanted.copies_among(paths)] == [[], []]


def test_workers_find_what_one_process_does(wanted: Wanted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(5)]
    for number, path in enumerate(paths[:-1]):
        photograph(number * 10).save(path)
    alone = list(wanted.copies_among(paths))
    monkeypatch.setattr(images, "WORTH_FORKING", 0)
    monkeypatch.setattr(images, "IMAGES_AT_ONCE", 2)
    cv2.setNumThreads(2)
    cv2.GaussianBlur(np.zeros((2000, 2000, 3), np.uint8), (0, 0), 3.0)  # OpenCV's threads are there, as in a real run
    assert [str(found) for found in wanted.copies_among(paths)] == list(map(str, alone))
    assert [bool(found.matches) for found in alone[:-1]] == [True, True, False, False]
    assert isinstance(alone[-1], RowFault)


def test_frequencies_of_windows_are_those_of_their_pixels() -> None:
    grey = np.asarray(photograph(1).convert("L").resize((128, 96)))
    boxes, frequencies = windows_of(grey)
    assert len(boxes) == 135
    for (top, left, height, width), found in zip(boxes, frequencies, strict=True):
        alone = frequencies_of(grey[top : top + height, left : left + width])
        assert np.allclose(found, alone, atol=1e-3)


def test_near_hashes_are_those_of_comparing_all() -> None:
    random = np.random.default_rng(0)
    hashes = random.integers(0, 1 << 64, 3000, dtype=np.uint64)
    for count in range(16):  # some near ones: so many bits changed
        bits = sum(np.uint64(1) << np.uint64(bit) for bit in random.choice(64, count, replace=False))
        hashes[count * 7] = hashes[2999] ^ np.uint64(bits)
    near = NearHashes(hashes, RADIUS)
    for wanted_hash in (hashes[2999], hashes[5], np.uint64(0)):
        distances = np.bitwise_count(hashes ^ wanted_hash)
        assert near.find(wanted_hash).tolist() == np.nonzero(distances <= RADIUS)[0].tolist()
    assert len(near.find(hashes[2999])) >= RADIUS + 1
