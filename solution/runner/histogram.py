"""The distribution of a score over the rows of one step, small enough for the run's record."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_BINS = 60
# Thresholds that nobody set (Data-Juicer's default maximum is the largest float) are no lines in a chart.
ENDLESS = 1e9


def histogram(
    stat: str,
    scores: Sequence[float | None] | np.ndarray,
    is_kept: Sequence[bool] | np.ndarray,
    thresholds: Mapping[str, float],
) -> dict[str, Any] | None:
    """Counts of kept and dropped rows in equal bins from `low` to `high`; None where no row has a score.

    The bins span all but the lowest and highest half percent, and the thresholds near them; scores outside count in the
    first or last bin. Returns stat, low, high, kept and dropped (one count per bin), limits (the thresholds).
    """
    values = np.asarray(scores, dtype=np.float64)  # None becomes NaN
    known = np.isfinite(values)
    if not known.any():
        return None
    low, high = np.quantile(values[known], [0.005, 0.995])
    lines = {name: threshold for name, threshold in thresholds.items() if abs(threshold) < ENDLESS}
    spread = high - low
    for threshold in lines.values():
        if not spread or low - spread <= threshold <= high + spread:
            low, high = min(low, threshold), max(high, threshold)
    if low == high:
        low, high = low - 0.5, high + 0.5
    kept = np.asarray(is_kept, dtype=bool)
    counts = {
        name: np.histogram(values[known & rows].clip(low, high), bins=_BINS, range=(low, high))[0].tolist()
        for name, rows in (("kept", kept), ("dropped", ~kept))
    }
    return {"stat": stat, "low": float(low), "high": float(high), **counts, "limits": lines}
