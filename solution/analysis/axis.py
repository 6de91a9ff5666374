"""A statistic's values as small whole numbers with which a page counts exactly.

The thresholds that the page offers are short decimals, the *edges*; each value is sent as its place among them. Counts
are exact for every threshold that is an edge, and for any between two edges that have no value between them: nothing
else can be chosen.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

STAYS, GOES = 65535, 65534  # codes of rows without a value: the filter keeps them, or does not
MOST_EDGES = 4000
_DECADES = 50  # a statistic whose middle 98 % spans this factor gets a logarithmic axis
_BINS = 72


@dataclass(frozen=True)
class Axis:
    """What a chart shows: from `low` to `high` in `bins`, values outside count in the first or last one."""

    low: float
    high: float
    is_log: bool
    bins: int


def axis_of(values: np.ndarray, limits: Collection[float], is_whole: bool) -> Axis:
    """The axis that fits finite values, with the thresholds that drop some of them on it."""
    low, high = float(values.min()), float(values.max())
    is_log = _spans_decades(values) and not (is_whole and high - low < _BINS)
    if is_log:
        low = float(values[values > 0].min())
    inner = np.quantile(values[values >= low], [0.001, 0.999])
    if _length(low, high, is_log) > 1.3 * _length(*inner, is_log):
        low, high = map(float, inner)
    for limit in limits:
        low, high = min(low, limit) if limit > 0 or not is_log else low, max(high, limit)
    if is_whole and not is_log and high - low < _BINS:
        return Axis(low - 0.5, high + 0.5, False, round(high - low) + 1)
    if low == high:
        low, high = (low / 2, high * 2) if is_log else (low - 0.5, high + 0.5)
    return Axis(low, high, is_log, _BINS)


def _spans_decades(values: np.ndarray) -> bool:
    positive = values[values > 0]
    if values.min() < 0 or len(positive) < 0.95 * len(values):
        return False
    low, high = np.quantile(positive, [0.01, 0.99])
    return bool(high >= _DECADES * low)


def _length(low: float, high: float, is_log: bool) -> float:
    return math.log(high / low) if is_log else high - low


def edges_of(values: np.ndarray, limits: Collection[float], axis: Axis, is_whole: bool, most: int) -> np.ndarray:
    """Rising numbers from at or below the lowest value to at or above the highest, those of ``limits`` among them.

    At most about ``most``, short in decimals, dense where the axis is.
    """
    low, high = float(values.min()), float(values.max())
    grid = _log_grid(values, most) if axis.is_log else _even_grid(low, high, axis, is_whole, most)
    edges = np.unique(np.concatenate([grid, np.fromiter(limits, float)]))
    return np.unique(np.concatenate([np.floor(edges), np.ceil(edges)])) if is_whole else edges


def _log_grid(values: np.ndarray, most: int) -> np.ndarray:
    """Numbers of three digits, of two where that is too many; 0 where it is a value."""
    positive = values[values > 0]
    first, last = (math.floor(math.log10(value)) for value in (positive.min(), positive.max()))
    digits = 2 if 900 * (last - first + 1) <= most else 1
    heads = np.arange(10**digits, 10 ** (digits + 1))
    grid = [_decimal(heads, exponent - digits) for exponent in range(first, last + 2)]
    edges = np.concatenate([np.zeros(int(values.min() == 0)), *grid])
    low, high = np.searchsorted(edges, [values.min(), values.max()])
    return edges[max(0, low - 1) : high + 1]


def _even_grid(low: float, high: float, axis: Axis, is_whole: bool, most: int) -> np.ndarray:
    """Multiples of a round step on the axis, of a wider one outside."""
    near = _multiples(max(low, axis.low), min(high, axis.high), most // 2, is_whole)
    far = _multiples(low, high, most // 4, is_whole)
    return np.concatenate([near, far[(far < near[0]) | (far > near[-1])]])


def _multiples(low: float, high: float, most: int, is_whole: bool) -> np.ndarray:
    """The multiples of 1, 2 or 5 times a power of ten that span two numbers; the finest that are at most ``most``."""
    exponent = math.floor(math.log10((high - low) / most)) if high > low else 0 if is_whole else -3
    exponent = max(0, exponent) if is_whole else exponent
    for power in range(exponent, exponent + 3):
        for factor in (1, 2, 5):
            step = factor * 10.0**power
            if (high - low) / step <= most:
                return _decimal(np.arange(math.floor(low / step), math.ceil(high / step) + 1) * factor, power)
    raise AssertionError("a step of a thousand times the finest one is always wide enough")


def _decimal(heads: np.ndarray, exponent: int) -> np.ndarray:
    """Whole numbers times a power of ten, each the float nearest to its decimal text."""
    return heads / 10.0**-exponent if exponent < 0 else heads * 10.0**exponent


def codes_of(values: np.ndarray, edges: np.ndarray, is_kept: np.ndarray) -> np.ndarray:
    """uint16 per value: 2i+1 where it equals edge i, 2i where it lies between edges i-1 and i.

    So a value is at least edge i exactly where its code is at least 2i+1, and at most edge i where it is at most 2i+1.
    """
    codes = np.searchsorted(edges, values, "left") + np.searchsorted(edges, values, "right")
    return np.where(np.isnan(values), np.where(is_kept, STAYS, GOES), codes).astype(np.uint16)
