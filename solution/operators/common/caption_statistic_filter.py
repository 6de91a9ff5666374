"""The base of filters that measure a caption without its special tokens."""

from abc import abstractmethod

from data_juicer.ops.base_op import Filter
from data_juicer.utils.constant import Fields

from .captions import caption_of
from .rows import Batch


class CaptionStatisticFilter(Filter):
    """Keep rows with lowest <= measure(caption) <= highest; subclasses name the stat and set the two thresholds."""

    _batched_op = True
    stat: str
    thresholds: tuple[float, float]  # lowest and highest measure to keep

    @abstractmethod
    def measure(self, caption: str) -> float:
        """The number to compare with the thresholds, for a caption without special tokens."""

    def compute_stats_batched(self, samples: Batch) -> Batch:
        """Write the measure to each row's stats."""
        for stats, text in zip(samples[Fields.stats], samples[self.text_key], strict=True):
            stats[self.stat] = self.measure(caption_of(text))
        return samples

    def process_batched(self, samples: Batch) -> list[bool]:
        """True (keep) or False per row."""
        return [self.get_keep_boolean(stats[self.stat], *self.thresholds) for stats in samples[Fields.stats]]
