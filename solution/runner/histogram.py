"""The distribution of a score over the rows of one step, small enough for the run's record."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_BINS = 60
# Limits that nobody set (Data-Juicer's default maximum is the largest float) are no lines in a chart.
_ENDLESS = 1e9


def histogram(
    stat: str,
    scores: Sequence[float | None] | np.ndarray,
    is_kept: Sequence[bool] | np.ndarray,
    limits: Mapping[str, float],
) -> dict[str, Any] | None:
    """Counts of kept and dropped rows in equal bins from `low` to `high`; None where no row has a score.

    The bins span all but the lowest and highest half percent, and the limits near them; scores outside count in the
    first or last bin. Returns stat, low, high, kept and dropped (one count a bin), limits.
    """
    values = np.asarray(scores, dtype=np.float64)  # None becomes NaN
    known = np.isfinite(values)
    if not known.any():
        return None
    low, high = np.quantile(values[known], [0.005, 0.995])
    lines = {name: limit for name, limit in limits.items() if abs(limit) < _ENDLESS}
    spread = high - low
    for limit in lines.values():
        if not spread or low - spread <= limit <= high + spread:
            low, high = min(low, limit), max(high, limit)
    if low == high:
        low, high = low - 0.5, high + 0.5
    kept = np.asarray(is_kept, dtype=bool)
    counts = {
        name: np.histogram(values[known & rows].clip(low, high), bins=_BINS, range=(low, high))[0].tolist()
        for name, rows in (("kept", kept), ("dropped", ~kept))
    }
    return {"stat": stat, "low": float(low), "high": float(high), **counts, "limits": lines}
