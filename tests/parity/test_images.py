"""Pixel tensors against the reference, for every odd kind of image it was measured on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from toolkit.mgm.images import normalise, open_image, scale_image

# An image three pixels high is read by the reference as if its rows were colour channels: its fault, not matched.
GARBLED_BY_REFERENCE = {"square/height3.png"}


def test_pixel_tensors(goldens: Path) -> None:
    slices = np.load(goldens / "images.npz")
    stats = json.loads((goldens / "image_stats.json").read_text())
    images = {key.rsplit("/", 1)[0] for key in slices} - {"square/text", "pad/text"} - GARBLED_BY_REFERENCE
    assert len(images) > 20
    for image in sorted(images):
        aspect, name = image.split("/")
        pixels = scale_image(open_image(goldens / "images" / name), 768, aspect)
        main, aux = (tensor[0] for tensor in normalise(pixels[None], 336))
        for key, tensor, stride in (("image", main, 21), ("image_aux", aux, 48)):
            golden = slices[f"{image}/{key}"]
            assert np.abs(tensor[:, ::stride, ::stride].numpy() - golden).max() <= 1e-5, (image, key)
            measured = stats[image][key]
            assert tensor.mean(dim=(1, 2)).tolist() == pytest.approx(measured["mean"], abs=1e-5), (image, key)
            assert tensor.max().item() == pytest.approx(measured["max"], abs=1e-5), (image, key)


def test_flat_images_the_reference_stumbles_over(goldens: Path) -> None:
    for name in ("height1.png", "height3.png"):
        image = open_image(goldens / "images" / name)
        pixels = scale_image(image, 768, "square")
        assert pixels.shape == (3, 768, 768)
        # The middle of the image, stretched: the middle pixel's colour, not channels taken for rows.
        middle = image.getpixel((image.width // 2, image.height // 2))
        assert pixels[:, 384, 384].tolist() == pytest.approx(middle, abs=60)
