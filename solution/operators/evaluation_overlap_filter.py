"""Drop rows whose image or caption is in the evaluation sets."""

from typing import Annotated

from data_juicer.ops.base_op import OPERATORS, Filter
from data_juicer.utils.constant import Fields
from pydantic import Field

from .common.captions import caption_of
from .common.evaluation_overlaps import EvaluationOverlaps
from .common.images import ImageError
from .common.rows import FAILURE, MODEL_ROWS, Batch, add_texts, count_rows


@OPERATORS.register_module("evaluation_overlap_filter")
class EvaluationOverlapFilter(Filter):
    """What a row shares with the evaluation sets, as `python -m toolkit check --contamination DIR` found it.

    Images count by their content, captions by their text. A row whose image or caption was not compared fails:
    operators that change captions or images belong after this one.
    """

    _batched_op = True

    def __init__(
        self,
        overlaps: str = "output/contamination/overlaps.parquet",
        max_overlap: Annotated[float, Field(ge=0, le=1)] = 0.0,
        *args,
        **kwargs,
    ) -> None:
        """Keep rows that share nothing.

        :param overlaps: the Parquet file that `python -m toolkit check SEED.jsonl --contamination DIR` wrote
        :param max_overlap: 0 drops rows that share anything; 1 keeps all, so that the audit shows their scores
        """
        super().__init__(*args, **{"batch_size": MODEL_ROWS} | kwargs)
        self.max_overlap = max_overlap
        self.overlaps = EvaluationOverlaps(overlaps)

    def compute_stats_batched(self, samples: Batch) -> Batch:
        """Write `evaluation_overlap`: 1 for a row that shares something, else 0; None for a failed row."""
        failures = [""] * count_rows(samples)
        rows = zip(samples[self.text_key], samples[self.image_key], samples[Fields.stats], strict=True)
        for row, (text, images, stats) in enumerate(rows):
            stats["evaluation_overlap"] = None
            try:
                stats["evaluation_overlap"] = float(self.overlaps.has(caption_of(text), images or []))
            except ImageError as error:
                failures[row] = str(error)
        add_texts(samples, FAILURE, failures)
        return samples

    def process_batched(self, samples: Batch) -> list[bool]:
        """True (keep) or False per row."""
        values = (stats["evaluation_overlap"] for stats in samples[Fields.stats])
        return [value is not None and value <= self.max_overlap for value in values]
