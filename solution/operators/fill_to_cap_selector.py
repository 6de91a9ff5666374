"""Bring the data set to the training cap: the best rows of a larger one, the best rows copied in a smaller one."""

from data_juicer.ops.base_op import OPERATORS, Selector
from pydantic import PositiveInt

from .score_threshold_selector import scores_of


@OPERATORS.register_module("fill_to_cap_selector")
class FillToCapSelector(Selector):
    """Ranks rows by a score of the stats and keeps or copies the best ones up to `cap` rows.

    Copies follow the original rows, best first, round after round; each names itself by `copy_index` (1, 2 ...), which
    original rows leave empty.
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
        :param max_copies: how often one row may stand in the result, the original counted
        """
        super().__init__(*args, **kwargs)
        self.cap = cap
        self.score_key = score_key
        self.max_copies = max_copies
        self.dropped_because: dict[int, str] = {}

    def process(self, dataset):
        """Dataset with stats -> dataset of at most `cap` rows, in order, copies behind."""
        self.dropped_because = {}
        ranked = self._best_first(dataset)
        best = ranked[: self.cap]
        self.dropped_because = dict.fromkeys(ranked[self.cap :], f"not among the best {self.cap:,} by {self.score_key}")
        rounds = [best] * (self.max_copies - 1)
        copies = [(row, round_ + 1) for round_, rows in enumerate(rounds) for row in rows][: self.cap - len(best)]
        if not copies:
            return dataset.select(sorted(best))
        chosen = dataset.select(sorted(best) + [row for row, _ in copies])
        before = list(chosen["copy_index"]) if "copy_index" in chosen.column_names else [None] * len(chosen)
        highest = max((index for index in before if index), default=0)
        index = before[: len(best)] + [highest + round_ for _, round_ in copies]
        kept = chosen.remove_columns("copy_index") if "copy_index" in chosen.column_names else chosen
        return kept.add_column("copy_index", index)

    def _best_first(self, dataset) -> list[int]:
        """Positions by falling score, equal ones in order. Raises ValueError where rows have no such score."""
        scores = scores_of(dataset, self.score_key)
        return sorted(range(len(scores)), key=lambda position: -scores[position])
