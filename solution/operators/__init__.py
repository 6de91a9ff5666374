"""Our Data-Juicer operators. Importing this package registers them all.

With Data-Juicer's own command: `custom_operator_paths: [solution/operators]`.
"""

from . import (
    blip_matching_filter,
    caption_cleanup_mapper,
    caption_deduplicator,
    caption_latin_filter,
    caption_words_filter,
    caption_writer_mapper,
    clip_similarity_filter,
    cluster_balanced_selector,
    conditional_recaption_mapper,
    fill_to_cap_selector,
    percentile_selector,
    phrase_grounding_filter,
    picture_aesthetics_filter,
    picture_deduplicator,
    picture_nsfw_filter,
    picture_painter_mapper,
    picture_sharpness_filter,
    picture_watermark_filter,
    sigma_selector,
    synthetic_score_filter,
)

__all__ = [
    "blip_matching_filter",
    "caption_cleanup_mapper",
    "caption_deduplicator",
    "caption_latin_filter",
    "caption_words_filter",
    "caption_writer_mapper",
    "clip_similarity_filter",
    "cluster_balanced_selector",
    "conditional_recaption_mapper",
    "fill_to_cap_selector",
    "percentile_selector",
    "phrase_grounding_filter",
    "picture_aesthetics_filter",
    "picture_deduplicator",
    "picture_nsfw_filter",
    "picture_painter_mapper",
    "picture_sharpness_filter",
    "picture_watermark_filter",
    "sigma_selector",
    "synthetic_score_filter",
]
