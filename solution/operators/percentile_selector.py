"""Keep the rows whose score lies between two percentiles of all rows' scores."""

from typing import Annotated

import numpy as np
from data_juicer.ops.base_op import OPERATORS
from pydantic import Field

from .common.score_threshold_selector import ScoreThresholdSelector

Percentile = Annotated[float, Field(ge=0, le=100)]


@OPERATORS.register_module("percentile_selector")
class PercentileSelector(ScoreThresholdSelector):
    """Thresholds that follow from the data: `min_percentile: 70` keeps the best 30 % on any model's scale."""

    def __init__(
        self,
        score_key: str = "clip_similarity",
        min_percentile: Percentile = 0.0,
        max_percentile: Percentile = 100.0,
        *args,
        **kwargs,
    ) -> None:
        """Keep rows from the min_percentile-th to the max_percentile-th percentile.

        :param score_key: the score in the stats that is compared
        :param min_percentile: rows below this percentile are dropped, 0 to 100
        :param max_percentile: rows above this percentile are dropped, 0 to 100
        """
        super().__init__(score_key, *args, **kwargs)
        self.min_percentile = min_percentile
        self.max_percentile = max_percentile

    def thresholds(self, scores: np.ndarray) -> tuple[float, float]:
        """The two percentiles, interpolated between neighbouring scores."""
        low, high = np.percentile(scores, [self.min_percentile, self.max_percentile])
        return float(low), float(high)

    def describe(self, side: str) -> str:
        """`percentile 25`."""
        return f"percentile {self.min_percentile if side == 'below' else self.max_percentile:g}"
