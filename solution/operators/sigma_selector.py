"""Drop the rows whose score lies many standard deviations from the mean of all rows' scores."""

import math

import numpy as np
from data_juicer.ops.base_op import OPERATORS
from pydantic import NonNegativeFloat

from .common.score_threshold_selector import ScoreThresholdSelector


@OPERATORS.register_module("sigma_selector")
class SigmaSelector(ScoreThresholdSelector):
    """Keeps mean - sigmas_below x deviation <= score <= mean + sigmas_above x deviation."""

    def __init__(
        self,
        score_key: str = "clip_similarity",
        sigmas_below: NonNegativeFloat = 3.0,
        sigmas_above: NonNegativeFloat = 3.0,
        *args,
        **kwargs,
    ) -> None:
        """Keep rows near the mean.

        :param score_key: the score in the stats that is compared
        :param sigmas_below: standard deviations below the mean that are kept; .inf keeps all
        :param sigmas_above: standard deviations above the mean that are kept; .inf keeps all
        """
        super().__init__(score_key, *args, **kwargs)
        self.sigmas_below = sigmas_below
        self.sigmas_above = sigmas_above

    def thresholds(self, scores: np.ndarray) -> tuple[float, float]:
        """Mean minus and plus the given numbers of standard deviations (of the rows as the whole population)."""
        mean, deviation = float(scores.mean()), float(scores.std())
        low = -math.inf if math.isinf(self.sigmas_below) else mean - self.sigmas_below * deviation
        high = math.inf if math.isinf(self.sigmas_above) else mean + self.sigmas_above * deviation
        return low, high

    def describe(self, side: str) -> str:
        """`mean - 3 sigma`."""
        return f"mean - {self.sigmas_below:g} sigma" if side == "below" else f"mean + {self.sigmas_above:g} sigma"
