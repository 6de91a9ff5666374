"""Structural similarity of two images (Wang, Bovik, Sheikh, Simoncelli: Image Quality Assessment, 2004)."""

import numpy as np
from PIL import Image

SIDE = 256  # px; images of different sizes are compared at this one
_WINDOW, _SIGMA = 11, 1.5  # px; the paper's Gaussian window
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2  # the paper's constants against small denominators


def _weights() -> np.ndarray:
    """The window along one axis [11], with sum 1."""
    offsets = np.arange(_WINDOW) - _WINDOW // 2
    bell = np.exp(-(offsets**2) / (2 * _SIGMA**2))
    return bell / bell.sum()


def structural_similarity(one: Image.Image, other: Image.Image) -> float:
    """Mean structural similarity of the grey images at 256 x 256 px: 1 for equal ones, near 0 for unrelated ones."""
    x, y = (
        np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR), dtype=np.float64)
        for image in (one, other)
    )
    mean_x, mean_y = _blurred(x), _blurred(y)
    variance_x, variance_y = _blurred(x * x) - mean_x**2, _blurred(y * y) - mean_y**2
    covariance = _blurred(x * y) - mean_x * mean_y
    likeness = (2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)
    return float((likeness / ((mean_x**2 + mean_y**2 + _C1) * (variance_x + variance_y + _C2))).mean())


def _blurred(field: np.ndarray) -> np.ndarray:
    """Means under the window at each position inside the ``field``: [S, S] -> [S - 10, S - 10]."""
    weights = _weights()
    for axis in (0, 1):
        field = np.lib.stride_tricks.sliding_window_view(field, _WINDOW, axis=axis) @ weights
    return field
