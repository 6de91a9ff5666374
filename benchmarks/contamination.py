"""Copies of the evaluation sets' images: how many of each kind are found, what else is taken for one, how fast.

    python -m benchmarks.contamination [--images FOLDER] [--count 200]

Every second image of a folder is wanted; of the first COUNT of them copies of each kind are planted and looked for, and
then the folder's other images, among which there are none. Without a folder the images are coloured noise of all
scales, which shows the speed but little of the false pairs. CPU seconds count the work of all processes.
"""

from __future__ import annotations

import argparse
import io
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from toolkit.contamination.images import Wanted
from toolkit.errors import RowFault

SIZE = (360, 280)  # px, of made images
ROWS = 200_000  # of a full submission

Change = Callable[[Image.Image, int], Image.Image]  # image and its number -> its copy


def photograph(number: int) -> Image.Image:
    """Something like one: shapes of all sizes, of random colours."""
    random = np.random.default_rng(number)
    layers = np.zeros((SIZE[1], SIZE[0], 3))
    for cells in (3, 6, 12, 24, 48):
        noise = Image.fromarray(random.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        layers += np.asarray(noise.resize(SIZE, Image.Resampling.BICUBIC), dtype=float) / cells**0.5
    layers -= layers.min()
    return Image.fromarray((layers * 255 / layers.max()).astype(np.uint8))


def _recompressed(image: Image.Image, _number: int) -> Image.Image:
    content = io.BytesIO()
    image.save(content, "JPEG", quality=30)
    return Image.open(content)


def _resized(width: float, height: float) -> Change:
    return lambda image, _: image.resize((round(image.width * width), round(image.height * height)))


def _bordered(*borders: tuple[float, str]) -> Change:
    def border(image: Image.Image, _number: int) -> Image.Image:
        for share, colour in borders:
            image = ImageOps.expand(image, round(share * max(image.size)), colour)
        return image

    return border


def _cropped(share: float) -> Change:
    def crop(image: Image.Image, number: int) -> Image.Image:
        width, height = (round(side * share) for side in image.size)
        left, top = np.random.default_rng(number).integers(0, (image.width - width + 1, image.height - height + 1))
        return image.crop((left, top, left + width, top + height))

    return crop


# kind -> how it is made, the least share of it that must be found
COPIES: dict[str, tuple[Change, float]] = {
    "the same": (lambda image, _: image, 1.0),
    "recompressed": (_recompressed, 0.95),
    "half the size": (_resized(0.5, 0.5), 0.95),
    "twice the size": (_resized(2, 2), 0.95),
    "narrower": (_resized(5 / 6, 1), 0.95),
    "grey": (lambda image, _: image.convert("L"), 0.95),
    "with a border": (_bordered((0.11, "white")), 0.95),
    "with two borders": (_bordered((0.055, "white"), (0.025, "black")), 0.95),
    "letterboxed": (lambda image, _: ImageOps.pad(image, (2 * max(image.size), max(image.size)), color="black"), 0.95),
    "mirrored": (lambda image, _: ImageOps.mirror(image), 0.95),
    "70 % of the area": (_cropped(0.7**0.5), 0.85),
    "70 % of each side": (_cropped(0.7), 0.85),
    "a mirrored crop": (lambda image, number: ImageOps.mirror(_cropped(0.8)(image, number)), 0.85),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder of images, those of its folders too")
    parser.add_argument("--count", type=int, default=200, help="copies of each kind (default: 200)")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = sorted(path for path in words.images.rglob("*") if path.is_file()) if words.images else _made(folder)
        wanted, others = paths[::2], paths[1::2]
        start = _cpu_seconds()
        look = Wanted(wanted)
        print(f"{len(wanted)} images wanted: {1000 * (_cpu_seconds() - start) / len(wanted):.1f} ms of CPU each")
        for kind, (change, least) in COPIES.items():
            copies = _plant(wanted[: words.count], change, folder / "copies")
            found = [
                not isinstance(looked, RowFault) and any(match.wanted == number for match in looked.matches)
                for number, looked in enumerate(look.copies_among(copies))
            ]
            print(f"  {kind:18} {100 * np.mean(found):5.1f} % of {len(copies)} found, at least {100 * least:.0f} asked")
        start, begun = _cpu_seconds(), time.monotonic()
        looks = list(look.copies_among(others))
        seconds = _cpu_seconds() - start
    false = [
        f"{path.name} = {wanted[looked.matches[0].wanted].name}"
        for path, looked in zip(others, looks, strict=True)
        if not isinstance(looked, RowFault) and looked.matches
    ]
    print(f"{len(false)} of {len(others)} other images taken for a copy" + (f": {', '.join(false)}" if false else ""))
    each = seconds / len(others)
    print(
        f"{1000 * each:.2f} ms of CPU an image ({time.monotonic() - begun:.1f} s in all): "
        f"{each * ROWS / 2 / 60:.1f} minutes for {ROWS:,} on two free cores"
    )


def _made(folder: Path) -> list[Path]:
    paths = [folder / f"{number:03d}.jpg" for number in range(200)]
    for number, path in enumerate(paths):
        photograph(number).save(path)
    return paths


def _plant(images: list[Path], change: Change, folder: Path) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{number:05d}.png" for number in range(len(images))]
    for number, (source, path) in enumerate(zip(images, paths, strict=True)):
        with Image.open(source) as image:
            change(image.convert("RGB"), number).save(path, compress_level=1)
    return paths


def _cpu_seconds() -> float:
    uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in uses)


if __name__ == "__main__":
    main()
