"""Bring the data set to the training cap: the best rows of a larger one, the best rows copied in a smaller one."""

import numpy as np
from data_juicer.ops.base_op import OPERATORS, Selector
from pydantic import PositiveInt

from .common.reasons import not_best
from .common.score_threshold_selector import scores_of


@OPERATORS.register_module("fill_to_cap_selector")
class FillToCapSelector(Selector):
    """Ranks rows by a score of the stats and keeps or copies the best ones up to `cap` rows.

    Copies follow the original rows, best first, round after round; `copy_index` numbers the copies of a row (1, 2 ...)
    and is empty for original rows.
    """

    def __init__(
        self,
        cap: PositiveInt = 200_000,
        score_key: str = "clip_similarity",
        max_copies: PositiveInt = 4,
        *args,
        **kwargs,
    ) -> None:
        """Fill to the cap.

        :param cap: rows to end with
        :param score_key: the score in the stats that says which rows are best (highest first)
        :param max_copies: how often one row may occur in the result, the original included
        """
        super().__init__(*args, **kwargs)
        self.cap = cap
        self.score_key = score_key
        self.max_copies = max_copies
        self.dropped_because: dict[int, str] = {}

    def process(self, dataset):
        """Dataset with stats -> dataset of at most `cap` rows, in order, copies at the end."""
        self.dropped_because = {}
        scores = scores_of(dataset, self.score_key)
        ranked = np.argsort(-scores, kind="stable")  # ties in order
        best = ranked[: self.cap]
        reason = not_best(self.cap, self.score_key)
        self.dropped_because = dict.fromkeys(ranked[self.cap :].tolist(), reason)
        rounds = self.max_copies - 1
        copies = np.tile(best, rounds)[: self.cap - len(best)]
        if not len(copies):
            return dataset.select(np.sort(best))
        copy_index = np.repeat(np.arange(1, rounds + 1), len(best))[: len(copies)]
        chosen = dataset.select(np.concatenate([np.sort(best), copies]))
        before = list(chosen["copy_index"]) if "copy_index" in chosen.column_names else [None] * len(chosen)
        highest = max((index for index in before if index), default=0)
        index = before[: len(best)] + (highest + copy_index).tolist()
        kept = chosen.remove_columns("copy_index") if "copy_index" in chosen.column_names else chosen
        return kept.add_column("copy_index", index)
