"""Drop rows that repeat an earlier row's caption, exactly or nearly."""

import math
import re
from collections import Counter, defaultdict
from typing import Annotated

from data_juicer.ops.base_op import OPERATORS, Deduplicator
from pydantic import Field, PositiveInt

from .captions import caption_of


@OPERATORS.register_module("caption_deduplicator")
class CaptionDeduplicator(Deduplicator):
    """Keeps the first `max_copies` rows of each caption; with min_overlap < 1 near copies count as copies too.

    Captions are compared as lower-case words. The overlap of two captions is the Jaccard index of their word sets; the
    search is exact (prefix filtering: two sets with overlap >= t share one of their rarest n - ceil(t n) + 1 words).
    """

    _batched_op = True

    def __init__(
        self,
        max_copies: PositiveInt = 1,
        min_overlap: Annotated[float, Field(gt=0, le=1)] = 1.0,
        *args,
        **kwargs,
    ) -> None:
        """Drop what repeats.

        :param max_copies: rows to keep of one caption (the first ones in order)
        :param min_overlap: word overlap, 0 to 1, from which two captions count as one; 1 compares whole captions only
        """
        super().__init__(*args, **kwargs)
        self.max_copies = max_copies
        self.min_overlap = min_overlap
        self.dropped_because: dict[int, str] = {}

    def compute_hash(self, samples):
        """Nothing to hash: captions are short enough to be compared themselves."""
        return samples

    def process(self, dataset, show_num: int = 0):
        """Dataset -> (dataset without repeats, no traced pairs)."""
        captions = [" ".join(re.findall(r"\w+", caption_of(text).casefold())) for text in dataset[self.text_key]]
        groups = self._near_groups(captions) if self.min_overlap < 1 else captions
        self.dropped_because = {}
        seen: Counter[str] = Counter()
        first: dict[str, int] = {}
        kept = []
        for position, group in enumerate(groups):
            first.setdefault(group, position)
            seen[group] += 1
            if seen[group] <= self.max_copies:
                kept.append(position)
            else:
                self.dropped_because[position] = f"repeats a caption: {captions[first[group]]}"
        return dataset.select(kept), {}

    def _near_groups(self, captions: list[str]) -> list[str]:
        """Each caption's group, named by the first caption of the group that it overlaps."""
        frequency = Counter(word for caption in set(captions) for word in set(caption.split()))
        leaders: dict[str, list[tuple[frozenset[str], str]]] = defaultdict(list)
        group_of: dict[str, str] = {}
        for caption in captions:
            if caption in group_of:
                continue
            words = sorted(set(caption.split()), key=lambda word: (frequency[word], word))
            prefix = words[: len(words) - math.ceil(self.min_overlap * len(words)) + 1]
            word_set = frozenset(words)
            candidates = (leader for word in prefix for leader in leaders[word])
            group = next(
                (name for other, name in candidates if self._overlap(word_set, other) >= self.min_overlap), None
            )
            if group is None:
                group = caption
                for word in prefix:
                    leaders[word].append((word_set, caption))
            group_of[caption] = group
        return [group_of[caption] for caption in captions]

    @staticmethod
    def _overlap(one: frozenset[str], other: frozenset[str]) -> float:
        """Jaccard index of two word sets."""
        return len(one & other) / len(one | other)
