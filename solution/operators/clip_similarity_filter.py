"""Keep rows whose caption fits its image, by CLIP similarity, in batches."""

from typing import Annotated

from data_juicer.ops.base_op import OPERATORS
from pydantic import Field, PositiveInt

from .common.captions import caption_of
from .common.clip import ClipScorer
from .common.model_score_filter import ScoreFilter
from .common.rows import MODEL_ROWS, Batch


@OPERATORS.register_module("clip_similarity_filter")
class ClipSimilarityFilter(ScoreFilter):
    """Same scores as Data-Juicer's image_text_similarity_filter, computed in batches, without gradients, and only once.

    A row whose image cannot be read fails alone, with its reason; its neighbours in the batch are scored.
    """

    stat = "clip_similarity"

    def __init__(
        self,
        hf_clip: str = "openai/clip-vit-base-patch32",
        min_score: Annotated[float, Field(ge=-1, le=1)] = 0.2,
        max_score: Annotated[float, Field(ge=-1, le=1)] = 1.0,
        model_batch: PositiveInt | None = None,
        *args,
        **kwargs,
    ) -> None:
        """Keep rows with min_score <= similarity <= max_score.

        :param hf_clip: folder (or hub name) of a CLIPModel with its processor
        :param min_score: lowest similarity to keep, -1 to 1
        :param max_score: highest similarity to keep, -1 to 1
        :param model_batch: rows in one forward pass (default: 8 on a CPU, 128 on a GPU)
        """
        super().__init__(*args, **{"batch_size": MODEL_ROWS} | kwargs)
        self.min_score = min_score
        self.max_score = max_score
        self.scorer = ClipScorer(hf_clip, model_batch, self.use_cuda())

    def compute_stats_batched(self, samples: Batch, rank: int | None = None) -> Batch:
        """Write `clip_similarity` (a float; None for a failed row) to each row's stats."""
        captions = [caption_of(text) for text in samples[self.text_key]]
        return self.add_scores(samples, *self.scorer.score(samples[self.image_key], captions, rank))
