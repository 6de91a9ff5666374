"""Pictures of MGM: one picture becomes a high-resolution tensor for the aux tower and a small one for the main tower."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError

from toolkit.errors import RowFault

# OpenAI CLIP's statistics; both towers use them.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
PADDING_COLOUR = tuple(int(255 * mean) for mean in MEAN)


def open_image(source: Path | bytes) -> Image.Image:
    """Decode a picture whole, as RGB: alpha is dropped and EXIF orientation ignored, as in the reference.

    Raises:
        RowFault: `missing_image`, or `unreadable_image` for a file that is broken, truncated or no picture.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            return image.convert("RGB")
    except FileNotFoundError:
        raise RowFault("missing_image", f"{source}: no such file") from None
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        name = source if isinstance(source, Path) else "embedded picture"
        raise RowFault("unreadable_image", f"{name}: {error}") from None


@dataclass(frozen=True)
class ImageProcessor:
    """Turns a picture into the two tensors MGM sees.

    Args:
        image_size: px of the main tower's square input (336 in MGM-2B).
        image_size_aux: px of the aux tower's (768).
    """

    image_size: int
    image_size_aux: int

    def __call__(self, image: Image.Image, aspect: Literal["square", "pad"]) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale, crop and normalise.

        Args:
            image: RGB.
            aspect: `square` cuts the sides of a picture that is not square; `pad` first centres it on a square of the
                mean colour.

        Returns:
            main [3, image_size, image_size] and aux [3, image_size_aux, image_size_aux], float32, normalised.
        """
        if aspect == "pad":
            image = _pad_to_square(image)
        size = self.image_size_aux
        width, height = image.size
        short, long = min(width, height), max(width, height)
        scaled = (size, int(size * long / short)) if width <= height else (int(size * long / short), size)
        image = image.resize(scaled, Image.Resampling.BICUBIC)
        left, top = (scaled[0] - size) // 2, (scaled[1] - size) // 2
        pixels = np.asarray(image.crop((left, top, left + size, top + size)), dtype=np.float32)  # [size, size, 3]
        aux = (torch.from_numpy(pixels).permute(2, 0, 1) / 255 - _column(MEAN)) / _column(STD)
        # Plain bilinear from the normalised aux tensor, without antialiasing: the reference's, ratio 16/7 at full size.
        main = F.interpolate(aux[None], size=(self.image_size,) * 2, mode="bilinear", align_corners=False)[0]
        return main, aux.contiguous()


def _column(values: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)[:, None, None]


def _pad_to_square(image: Image.Image) -> Image.Image:
    width, height = image.size
    if width == height:
        return image
    side = max(width, height)
    square = Image.new("RGB", (side, side), PADDING_COLOUR)
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square
