"""95 % intervals of a score over its questions."""

from __future__ import annotations

import numpy as np
from scipy.special import betaincinv

DRAWS = 2000  # of a bootstrap
TAILS = (0.025, 0.975)


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % interval of a mean over questions: Jeffreys's where each is right or wrong, else a bootstrap.

    Args:
        values: credits of at least one question, 0 to 1.
    """
    count, right = len(values), float(values.sum())
    if np.isin(values, (0.0, 1.0)).all():
        low, high = betaincinv(right + 0.5, count - right + 0.5, TAILS)
        return float(low) if right else 0.0, float(high) if right < count else 1.0
    return bootstrap(values)


def bootstrap(values: np.ndarray) -> tuple[float, float]:
    """95 % percentile interval of the mean of values, or of paired differences, over questions drawn again."""
    draws = np.random.default_rng(0)
    means = [values[draws.integers(0, len(values), len(values))].mean() for _ in range(DRAWS)]
    low, high = np.quantile(means, TAILS)
    return float(low), float(high)
