"""Keep rows whose image helps a trained model to predict their caption."""

from typing import Annotated

from data_juicer.ops.base_op import OPERATORS, Filter
from data_juicer.utils.constant import Fields
from pydantic import Field

from .common.captions import caption_of
from .common.image_values import ImageValues
from .common.images import ImageError
from .common.rows import FAILURE, MODEL_ROWS, Batch, add_texts, count_rows

Share = Annotated[float, Field(ge=0, le=1)]


@OPERATORS.register_module("image_value_filter")
class ImageValueFilter(Filter):
    """A pair's image value: the loss of its caption without the image minus the loss with it, in nats per token.

    Near zero or below, the caption says nothing that the image shows. The values come from a file that
    `python -m toolkit judge` makes of the seed, with a line per row, found by the row's id, caption and image content.
    A row that is not in it fails: operators that change captions or images belong after this one.
    """

    _batched_op = True

    def __init__(
        self,
        values: str | list[str] = "output/judge/mgm_pretrain_stage_1.parquet",
        min_value: float = -1e9,
        max_value: float = 1e9,
        min_rank: Share = 0.0,
        max_rank: Share = 1.0,
        *args,
        **kwargs,
    ) -> None:
        """Keep rows with min_value <= value <= max_value and min_rank <= rank <= max_rank.

        :param values: the Parquet file that `python -m toolkit judge` wrote for this very seed; one for each of several
        :param min_value: lowest value to keep, nats per token
        :param max_value: highest value to keep, nats per token
        :param min_rank: 0.4 drops the 40 % of a file's judged rows with the lowest values, whatever the model's scale
        :param max_rank: 0.9 drops the 10 % of a file's judged rows with the highest values
        """
        super().__init__(*args, **{"batch_size": MODEL_ROWS} | kwargs)
        self.values = ImageValues([values] if isinstance(values, str) else values)
        self.min_value, self.max_value = min_value, max_value
        self.min_rank, self.max_rank = min_rank, max_rank

    def compute_stats_batched(self, samples: Batch) -> Batch:
        """Write `image_value` and `image_rank`, the share of judged rows with a lower value; None for a failed row."""
        failures = [""] * count_rows(samples)
        ids = samples.get("id") or [""] * count_rows(samples)
        for row, (text, images, stats) in enumerate(
            zip(samples[self.text_key], samples[self.image_key], samples[Fields.stats], strict=True)
        ):
            stats["image_value"] = stats["image_rank"] = None
            try:
                stats["image_value"], stats["image_rank"] = self.values.of(str(ids[row]), caption_of(text), images)
            except ImageError as error:
                failures[row] = str(error)
        add_texts(samples, FAILURE, failures)
        return samples

    def process_batched(self, samples: Batch) -> list[bool]:
        """True (keep) or False per row."""
        return [
            stats["image_value"] is not None
            and self.get_keep_boolean(stats["image_value"], self.min_value, self.max_value)
            and self.get_keep_boolean(stats["image_rank"], self.min_rank, self.max_rank)
            for stats in samples[Fields.stats]
        ]
