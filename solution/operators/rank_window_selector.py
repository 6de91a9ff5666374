"""Keep a window of ranks by one score, or by several put together: "rank 2,000 to 202,000"."""

import numpy as np
from data_juicer.ops.base_op import OPERATORS, Selector
from pydantic import PositiveInt

from .common.reasons import outside_ranks
from .common.score_threshold_selector import scores_of


@OPERATORS.register_module("rank_window_selector")
class RankWindowSelector(Selector):
    """Rank 1 is the row with the highest sum of weighted scores; each score is first scaled to 0 to 1 over all rows.

    Scaled, a CLIP's cosine (0.1 to 0.4) and a matching probability (0 to 1) count alike. Ties keep the rows' order.
    """

    def __init__(
        self,
        weights: dict[str, float] | None = None,
        min_rank: PositiveInt = 1,
        max_rank: PositiveInt = 200_000,
        *args,
        **kwargs,
    ) -> None:
        """Keep the rows with min_rank <= rank <= max_rank.

        :param weights: score in the stats -> its weight in the sum; a negative one ranks low scores first
        :param min_rank: first rank to keep; 2001 leaves out the best 2,000
        :param max_rank: last rank to keep
        """
        super().__init__(*args, **kwargs)
        self.weights = weights or {"clip_similarity": 1.0}
        self.min_rank = min_rank
        self.max_rank = max_rank
        self.dropped_because: dict[int, str] = {}

    def process(self, dataset):
        """Dataset with stats -> the rows of the window, in order. Raises ValueError where a row lacks a score."""
        self.dropped_because = {}
        if len(dataset) == 0:
            return dataset
        total = np.zeros(len(dataset))
        for key, weight in self.weights.items():
            total += weight * _scaled(scores_of(dataset, key))
        ranked = np.argsort(-total, kind="stable")  # position of rank 1, rank 2 ...
        window = ranked[self.min_rank - 1 : self.max_rank]
        outside = [*enumerate(ranked[: self.min_rank - 1], 1), *enumerate(ranked[self.max_rank :], self.max_rank + 1)]
        name = " + ".join(self.weights)
        for rank, position in outside:
            self.dropped_because[int(position)] = outside_ranks(self.min_rank, self.max_rank, name, rank)
        return dataset.select(np.sort(window))


def _scaled(scores: np.ndarray) -> np.ndarray:
    """Scores [rows] scaled to 0 to 1; all 0 where they are equal."""
    lowest, highest = scores.min(), scores.max()
    return (scores - lowest) / (highest - lowest) if highest > lowest else np.zeros_like(scores)
