"""Drop rows that repeat an earlier row's caption, exactly or nearly."""

import math
import re
from array import array
from collections.abc import Iterator, Sequence
from functools import lru_cache
from heapq import merge
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from data_juicer.ops.base_op import OPERATORS, Deduplicator
from pydantic import Field, PositiveInt

from .common.captions import caption_of
from .common.reasons import repeats_caption
from .common.rows import parts_of


@OPERATORS.register_module("caption_deduplicator")
class CaptionDeduplicator(Deduplicator):
    """Keeps the first `max_copies` rows of each caption; with min_overlap < 1 near copies count as copies.

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
        """Drop repeated captions.

        :param max_copies: rows to keep of one caption (the first ones in order)
        :param min_overlap: lowest word overlap, 0 to 1, of captions that count as one; 1 compares whole captions only
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
        self.dropped_because = {}
        parts = [
            pa.array([" ".join(re.findall(r"\w+", caption_of(text).casefold())) for text in part[self.text_key]])
            for part in parts_of(dataset, self.text_key)
        ]
        coded = pa.chunked_array(parts, pa.string()).combine_chunks().dictionary_encode()
        captions = coded.dictionary  # distinct ones, in order
        groups = self._near_groups(captions) if self.min_overlap < 1 else np.arange(len(captions))
        seen = np.zeros(len(captions), np.int64)
        kept = []
        for position, group in enumerate(groups[coded.indices]):
            seen[group] += 1
            if seen[group] <= self.max_copies:
                kept.append(position)
            else:
                self.dropped_because[position] = repeats_caption(captions[group].as_py())
        return dataset.select(kept), {}

    def _near_groups(self, captions: pa.StringArray) -> np.ndarray:
        """Each caption's group, named by its leader, the first kept caption that it overlaps: int32 [captions].

        ``captions`` are distinct.
        """
        starts, words, count = _word_sets(captions)
        # Each word has two linked lists of leaders, in order: those whose rarest word it is, and those that have it
        # among their other rare words. Sets would take a kilobyte per leader.
        first, last = np.full((2, 2, count), -1, np.int32)
        entries, following = array("i"), array("i")  # leaders, and the number of the next entry of the list
        groups = np.arange(len(captions), dtype=np.int32)
        for caption in range(len(captions)):
            own = words[starts[caption] : starts[caption + 1]].tolist()
            rarest = own[: len(own) - math.ceil(self.min_overlap * len(own)) + 1]
            word_set = set(own)
            candidates = (
                entries[entry]
                for index, word in enumerate(rarest)
                for entry in merge(
                    *(
                        _chain(first[kind, word], following)
                        for kind in _useful_chains(len(own), index, self.min_overlap)
                    )
                )
            )
            for leader in candidates:
                other = words[starts[leader] : starts[leader + 1]]
                # Sets of very different size cannot overlap enough: most candidates fail here.
                most = min(len(other), len(own)) / max(len(other), len(own))
                if most >= self.min_overlap and self._overlap(word_set, other.tolist()) >= self.min_overlap:
                    groups[caption] = leader
                    break
            else:
                for index, word in enumerate(rarest):
                    kind = min(index, 1)
                    if first[kind, word] < 0:
                        first[kind, word] = len(entries)
                    else:
                        following[last[kind, word]] = len(entries)
                    last[kind, word] = len(entries)
                    entries.append(caption)
                    following.append(-1)
        return groups

    @staticmethod
    def _overlap(one: set[int], other: list[int]) -> float:
        """Jaccard index of a word set and another caption's distinct words."""
        shared = sum(word in one for word in other)
        return shared / (len(one) + len(other) - shared)


@lru_cache(maxsize=4096)
def _useful_chains(size: int, index: int, overlap: float) -> tuple[int, ...]:
    """Which chains of a word can hold a caption that overlaps enough: 0 (its rarest word), 1 (one of its others).

    The word has this ``index`` among the caption's ``size`` words, and is the rarest one that both captions share (a
    rarer one was tried before): only the words from it on can be shared. Chains of common words are rarely useful.
    """
    return tuple(
        kind
        for kind in (0, 1)
        if any(
            (shared := min(size - index, other - kind)) / (size + other - shared) >= overlap
            for other in range(kind + 1, math.ceil(size / overlap) + 2)
        )
    )


def _chain(entry: int, following: Sequence[int]) -> Iterator[int]:
    """The entries of a chain, from its first one (-1: none)."""
    while entry >= 0:
        yield entry
        entry = following[entry]


def _word_sets(captions: pa.StringArray) -> tuple[np.ndarray, np.ndarray, int]:
    """(starts [captions + 1], words, number of distinct words): caption i has words[starts[i]:starts[i + 1]].

    Words are numbers, the rarest one 0, equally rare ones by alphabet; those of a caption are distinct and ascend.
    """
    split = pc.split_pattern(captions, " ")
    coded = split.flatten().dictionary_encode()
    count = len(coded.dictionary)
    # Each word once per caption, as caption * count + word; changed in place, as this is the largest array.
    pairs = np.repeat(np.arange(len(captions)), pc.list_value_length(split))
    pairs *= count
    pairs += coded.indices.to_numpy()
    pairs = np.unique(pairs)
    codes = pairs % count
    keys = pa.table({"frequency": np.bincount(codes, minlength=count), "word": coded.dictionary})
    rank = np.empty(count, np.int64)
    rank[pc.sort_indices(keys, sort_keys=[("frequency", "ascending"), ("word", "ascending")])] = np.arange(count)
    pairs -= codes
    pairs += rank[codes]
    pairs.sort()
    starts = np.searchsorted(pairs, np.arange(len(captions) + 1) * count)
    return starts, (pairs % count).astype(np.int32), count
