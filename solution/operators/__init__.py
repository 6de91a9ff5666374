"""Our Data-Juicer operators. Importing this package registers them all.

With Data-Juicer's own command: `custom_operator_paths: [solution/operators]`.
"""

from . import (
    caption_cleanup_mapper,
    caption_deduplicator,
    caption_latin_filter,
    caption_words_filter,
    clip_similarity_filter,
    conditional_recaption_mapper,
    fill_to_cap_selector,
    picture_deduplicator,
    picture_sharpness_filter,
)

__all__ = [
    "caption_cleanup_mapper",
    "caption_deduplicator",
    "caption_latin_filter",
    "caption_words_filter",
    "clip_similarity_filter",
    "conditional_recaption_mapper",
    "fill_to_cap_selector",
    "picture_deduplicator",
    "picture_sharpness_filter",
]
