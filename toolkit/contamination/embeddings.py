"""Pairs that a CLIP takes for alike though their pixels are not: for a person to look at, not a verdict."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import CLIPImageProcessor, CLIPModel

from toolkit.dataset.images import opened
from toolkit.errors import RowFault, UserError

IMAGES_AT_ONCE = 64
SHOWN = 50  # pairs


@dataclass(frozen=True, order=True)
class Alike:
    """Cosine similarity of two embeddings, an image and the number of the wanted one."""

    similarity: float
    image: Path
    wanted: int


def nearest_pairs(images: Sequence[Path], wanted: Sequence[Path | bytes], folder: Path) -> list[Alike]:
    """The images that are nearest to a wanted one, each with its nearest, the most alike first; at most SHOWN.

    Args:
        images: unreadable ones are left out.
        wanted: paths or encoded images.
        folder: of a CLIP, with its projection and image processor.

    Raises:
        UserError: the folder holds no CLIP.
    """
    embedder = _Embedder(folder)
    targets = np.concatenate([vectors for _, vectors in embedder.embed(wanted)])
    best: list[Alike] = []
    for some, vectors in embedder.embed(images):
        similarity = vectors @ targets.T
        nearest = similarity.argmax(axis=1)
        new = [Alike(float(similarity[row, nearest[row]]), path, int(nearest[row])) for row, path in enumerate(some)]
        best = heapq.nlargest(SHOWN, [*best, *new])
    return best


class _Embedder:
    def __init__(self, folder: Path):
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self._processor = CLIPImageProcessor.from_pretrained(folder, local_files_only=True)
            self._model = CLIPModel.from_pretrained(folder, local_files_only=True).eval().to(self._device)
        except (OSError, ValueError) as error:
            raise UserError(f"--clip {folder}: no folder of a CLIP ({str(error).splitlines()[0]})") from None

    def embed(self, images: Sequence[Path | bytes]) -> Iterator[tuple[list, np.ndarray]]:
        """(images, their vectors of length 1 [N, D]) by batches; unreadable images are left out."""
        for start in range(0, len(images), IMAGES_AT_ONCE):
            some, pixels = [], []
            for image in images[start : start + IMAGES_AT_ONCE]:
                try:
                    with opened(image) as file:
                        pixels.append(self._processor(file.convert("RGB"), return_tensors="pt")["pixel_values"][0])
                except RowFault:
                    continue
                some.append(image)
            if some:
                yield some, self._vectors(torch.stack(pixels))

    @torch.inference_mode()
    def _vectors(self, pixels: torch.Tensor) -> np.ndarray:
        found = self._model.get_image_features(pixels.to(self._device))
        found = found if isinstance(found, torch.Tensor) else found.pooler_output  # of transformers 5
        return torch.nn.functional.normalize(found.float(), dim=-1).cpu().numpy()
