"""Images of MGM, scaled once for the aux tower, from which the main tower's smaller view is made; their tokens in text.

Where tokens go is computed on the CPU, in training by the loader's workers: asking a GPU for lengths and positions
would make the process wait for it dozens of times per batch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from toolkit.dataset.images import opened
from toolkit.mgm.conversation import IGNORE_INDEX, IMAGE_TOKEN_INDEX

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
    # Filled on the device: for a copy from here the process would wait until the device has done all before it.
    return torch.stack([torch.full((1, 1), value, dtype=torch.float32, device=like.device) for value in values])


def _pad_to_square(image: Image.Image) -> Image.Image:
    width, height = image.size
    if width == height:
        return image
    side = max(width, height)
    square = Image.new("RGB", (side, side), PADDING_COLOUR)
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square


def expand(
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    labels: torch.Tensor | None,
    image_tokens: int,
    max_length: int,
    padding_side: Literal["left", "right"] = "right",
) -> dict[str, Any]:
    """Replace each placeholder by its image's tokens, cut to `max_length`, and pad again; by indices only.

    Args:
        input_ids: [B, L] with IMAGE_TOKEN_INDEX at most once per row.
        attention_mask: [B, L], nonzero on real tokens.
        labels: [B, L] or None.
        image_tokens: how many tokens an image takes (576).
        max_length: a longer row is cut.
        padding_side: where the zeros go.

    Returns:
        source [B, M]: rows of the table that holds B * L words, then N * 576 image tokens, then one of zeros; labels
        [B, M], IGNORE_INDEX on images and padding; supervised [S]: positions of [B * M] whose next token is learnt;
        images: N. Tensors are int64, on the CPU.
    """
    input_ids, attention_mask = input_ids.cpu(), attention_mask.cpu()
    words, images = input_ids.numel(), 0
    rows = []
    for ids, source in zip(input_ids, torch.arange(words).view_as(input_ids), strict=True):
        kept = attention_mask[len(rows)].bool()
        places = (ids[kept] == IMAGE_TOKEN_INDEX).nonzero().flatten().tolist()
        source = source[kept]
        for at in places[:1]:
            features = torch.arange(image_tokens) + words + images * image_tokens
            source = torch.cat([source[:at], features, source[at + 1 :]])
            images += 1
        rows.append(source[:max_length])
    zeros = words + images * image_tokens
    source = torch.nn.utils.rnn.pad_sequence(rows, True, zeros, padding_side)
    known = torch.full((zeros + 1,), IGNORE_INDEX)
    if labels is not None:
        known[:words] = labels.flatten()
    found = known[source]
    ahead = F.pad(found[:, 1:], (0, 1), value=IGNORE_INDEX)
    supervised = (ahead.flatten() != IGNORE_INDEX).nonzero().flatten()
    return {"source": source, "labels": found, "supervised": supervised, "images": images}
