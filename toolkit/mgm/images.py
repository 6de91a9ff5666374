"""Images of MGM: scaled once for the aux tower, from which the main tower's smaller view is made."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from toolkit.dataset.images import opened

# OpenAI CLIP's statistics; both towers use them.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
PADDING_COLOUR = tuple(int(255 * mean) for mean in MEAN)


def open_image(source: Path | bytes) -> Image.Image:
    """Decode an image whole, as RGB: alpha is dropped and EXIF orientation ignored, as in the reference.

    Raises:
        RowFault: those of `toolkit.dataset.images.opened`.
    """
    with opened(source) as image:
        return image.convert("RGB")


def scale_image(image: Image.Image, size: int, aspect: Literal["square", "pad"]) -> torch.Tensor:
    """Scale and crop an image for the aux tower; `normalise` makes both towers' inputs of it, on the device.

    Args:
        image: RGB.
        size: px of the aux tower's square input (768 in MGM-2B).
        aspect: `square` cuts the sides of an image that is not square; `pad` first centres it on a square of the mean
            colour.

    Returns:
        [3, size, size], uint8: a fifth of the bytes of both towers' float tensors.
    """
    if aspect == "pad":
        image = _pad_to_square(image)
    width, height = image.size
    short, long = min(width, height), max(width, height)
    scaled = (size, int(size * long / short)) if width <= height else (int(size * long / short), size)
    image = image.resize(scaled, Image.Resampling.BICUBIC)
    left, top = (scaled[0] - size) // 2, (scaled[1] - size) // 2
    pixels = np.asarray(image.crop((left, top, left + size, top + size)))  # [size, size, 3]
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def normalise(pixels: torch.Tensor, image_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs of the main and the aux tower from scaled images.

    Args:
        pixels: [N, 3, A, A], uint8, of `scale_image`.
        image_size: px of the main tower's square input (336 in MGM-2B).

    Returns:
        main [N, 3, image_size, image_size] and aux [N, 3, A, A], float32.
    """
    aux = (pixels.float() / 255 - _column(MEAN, pixels)) / _column(STD, pixels)
    # Plain bilinear from the normalised aux tensor, without antialiasing: the reference's, ratio 16/7 at full size.
    return F.interpolate(aux, size=(image_size, image_size), mode="bilinear", align_corners=False), aux


def _column(values: tuple[float, ...], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32, device=like.device)[:, None, None]


def _pad_to_square(image: Image.Image) -> Image.Image:
    width, height = image.size
    if width == height:
        return image
    side = max(width, height)
    square = Image.new("RGB", (side, side), PADDING_COLOUR)
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square
