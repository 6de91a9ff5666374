"""Keep rows whose image is in focus."""

import sys
from typing import ClassVar

import numpy as np
from data_juicer.ops.base_op import OPERATORS, Filter
from data_juicer.utils.constant import Fields
from PIL import Image
from pydantic import NonNegativeFloat

from .common.measures import measured
from .common.rows import FAILURE, Batch, add_texts


def sharpness(image: Image.Image, longest: int = 512) -> float:
    """Variance of the Laplacian of the grey image (0 to 255), larger images reduced to `longest` px first."""
    grey = image if image.mode == "L" else image.convert("L")  # which would copy one that is grey
    if max(grey.size) > longest:
        grey = grey.copy()
        grey.thumbnail((longest, longest))
    pixels = np.asarray(grey).astype(np.int16)  # 16 bits hold every difference, at half the memory of floats
    if min(pixels.shape) < 3:
        return 0.0
    laplacian = pixels[:-2, 1:-1] + pixels[2:, 1:-1]
    laplacian += pixels[1:-1, :-2]
    laplacian += pixels[1:-1, 2:]
    pixels <<= 2
    laplacian -= pixels[1:-1, 1:-1]
    return float(laplacian.astype(np.float32).var())


@OPERATORS.register_module("picture_sharpness_filter")
class PictureSharpnessFilter(Filter):
    """A blurred image has a small second derivative everywhere; a row is as sharp as its least sharp image."""

    _batched_op = True
    measures: ClassVar = {"picture_sharpness": sharpness}

    def __init__(
        self,
        min_sharpness: NonNegativeFloat = 50.0,
        max_sharpness: NonNegativeFloat = sys.float_info.max,
        *args,
        **kwargs,
    ) -> None:
        """Keep images with min_sharpness <= sharpness <= max_sharpness.

        :param min_sharpness: lowest variance of the Laplacian to keep (photos: about 100 is soft, above 500 crisp)
        :param max_sharpness: highest variance to keep (noise has a very high one)
        """
        super().__init__(*args, **kwargs)
        self.min_sharpness = min_sharpness
        self.max_sharpness = max_sharpness

    def compute_stats_batched(self, samples: Batch) -> Batch:
        """Write `picture_sharpness` (None for a failed row) to each row's stats."""
        rows, failures = measured(samples, self.image_key, "picture_sharpness", sharpness)
        for stats, values in zip(samples[Fields.stats], rows, strict=True):
            stats["picture_sharpness"] = min(values, default=None)
        add_texts(samples, FAILURE, failures)
        return samples

    def process_batched(self, samples: Batch) -> list[bool]:
        """True (keep) or False per row."""
        scores = [stats["picture_sharpness"] for stats in samples[Fields.stats]]
        return [
            score is not None and self.get_keep_boolean(score, self.min_sharpness, self.max_sharpness)
            for score in scores
        ]
