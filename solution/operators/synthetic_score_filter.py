"""Rank generated images: do they show the caption (CLIPScore), is their structure that of the original (SSIM)?"""

from typing import Annotated

from data_juicer.ops.base_op import OPERATORS
from pydantic import Field, PositiveInt

from .common.captions import caption_of
from .common.clip import ClipScorer
from .common.images import ImageError, open_image
from .common.model_score_filter import ScoreFilter
from .common.rows import MODEL_ROWS, ORIGINAL, Batch, count_rows
from .common.ssim import structural_similarity


@OPERATORS.register_module("synthetic_score_filter")
class SyntheticScoreFilter(ScoreFilter):
    """Score: (1 - ssim_share) x CLIP similarity + ssim_share x SSIM to the original image, as SynthVLM ranks.

    A row without a generated image is its own original: SSIM 1. A row with an unreadable image fails alone.
    """

    stat = "synthetic_score"

    def __init__(
        self,
        hf_clip: str = "openai/clip-vit-base-patch32",
        ssim_share: Annotated[float, Field(ge=0, le=1)] = 0.5,
        min_score: Annotated[float, Field(ge=-1, le=1)] = -1.0,
        max_score: Annotated[float, Field(ge=-1, le=1)] = 1.0,
        model_batch: PositiveInt = 32,
        *args,
        **kwargs,
    ) -> None:
        """Keep rows with min_score <= score <= max_score.

        :param hf_clip: folder (or hub name) of a CLIPModel with its processor
        :param ssim_share: share of the structural similarity in the score, 0 to 1
        :param min_score: lowest score to keep, -1 to 1
        :param max_score: highest score to keep, -1 to 1
        :param model_batch: rows in one forward pass
        """
        super().__init__(*args, **{"batch_size": MODEL_ROWS} | kwargs)
        self.ssim_share = ssim_share
        self.min_score = min_score
        self.max_score = max_score
        self.scorer = ClipScorer(hf_clip, model_batch, self.use_cuda())

    def compute_stats_batched(self, samples: Batch, rank: int | None = None) -> Batch:
        """Write `synthetic_score` (None for a failed row) to each row's stats."""
        images = samples[self.image_key]
        originals = samples.get(ORIGINAL) or [None] * count_rows(samples)
        fits, failures = self.scorer.score(images, [caption_of(text) for text in samples[self.text_key]], rank)
        scores: list[float | None] = [None] * len(fits)
        for row, (fit, original) in enumerate(zip(fits, originals, strict=True)):
            if fit is not None:
                try:
                    ssim = 1.0
                    if original:
                        ssim = structural_similarity(open_image(images[row][0]), open_image(original[0]))
                    scores[row] = (1 - self.ssim_share) * fit + self.ssim_share * ssim
                except ImageError as bad:
                    failures[row] = str(bad)
        return self.add_scores(samples, scores, failures)
