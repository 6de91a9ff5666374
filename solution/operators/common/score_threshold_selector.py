"""The base of selectors whose thresholds are computed from all rows' scores."""

import math
from abc import abstractmethod
from array import array
from typing import Any

import numpy as np
from data_juicer.ops.base_op import Selector
from data_juicer.utils.constant import Fields

from .reasons import outside_threshold
from .rows import count_rows, parts_of


def scores_of(dataset: Any, score_key: str) -> np.ndarray:
    """One score per row, float64 [rows], from the stats; of a list (several images, as stock filters keep it) the mean.

    Raises ValueError if a row has no such score.
    """
    scores = array("d")
    for part in parts_of(dataset, Fields.stats, "text"):
        for stats in part.get(Fields.stats) or [{}] * count_rows(part):
            score = stats.get(score_key)
            if isinstance(score, list) and score:
                score = np.mean(score)
            if not isinstance(score, int | float) or math.isnan(score):
                raise ValueError(
                    f"rows have no score '{score_key}': put the filter that computes it just before, after all mappers"
                )
            scores.append(score)
    return np.array(scores)


class ScoreThresholdSelector(Selector):
    """Keeps rows with lowest <= score <= highest, both computed from the scores; subclasses say how."""

    def __init__(self, score_key: str, *args, **kwargs) -> None:
        """``score_key``: the score in the stats that is compared."""
        super().__init__(*args, **kwargs)
        self.score_key = score_key
        self.dropped_because: dict[int, str] = {}

    @abstractmethod
    def thresholds(self, scores: np.ndarray) -> tuple[float, float]:
        """(lowest, highest) score to keep, for the ``scores`` [rows]."""

    @abstractmethod
    def describe(self, side: str) -> str:
        """The lower or upper ("below", "above") threshold in words, for the audit."""

    def process(self, dataset):
        """Dataset with stats -> the rows between the thresholds."""
        self.dropped_because = {}
        if len(dataset) == 0:
            return dataset
        scores = scores_of(dataset, self.score_key)
        lowest, highest = self.thresholds(scores)
        for position, score in enumerate(scores.tolist()):
            if score < lowest:
                self.dropped_because[position] = self._reason("below", lowest, score)
            elif score > highest:
                self.dropped_because[position] = self._reason("above", highest, score)
        return dataset.select([row for row in range(len(dataset)) if row not in self.dropped_because])

    def _reason(self, side: str, threshold: float, score: float) -> str:
        return outside_threshold(self.score_key, side, f"{self.describe(side)} {threshold:.6g}", score)
