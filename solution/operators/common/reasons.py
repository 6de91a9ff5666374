"""Why a row was dropped, changed or created: the texts of the audit's `reason` column, built and parsed here only.

A reason reads "what happened: details of this row". The funnel counts rows by what happened, the report reads the
details back.
"""

import re

REPEATS_CAPTION = "repeats a caption"
REPEATS_IMAGE = "repeats an image"
REPEATS_ROW = "repeats another row"
NOT_SELECTED = "not selected"
REMOVED = "removed by the operator"
OUTSIDE_THRESHOLDS = "outside the operator's thresholds"
CAPTIONED = "captioned from the image"
GENERATED = "image generated from the caption"
IMAGE_CHANGED = "another image from the operator"
NO_IMAGE = "the row has no image"
TOKENS_CHANGED = "the operator changed the number of image tokens"

_WHERE_TO = "write it to synthetic_images in the operator's work_dir, or where Data-Juicer's transfer_filename says"
_RECAPTIONED = "new caption fits better"
_GAIN = re.compile(rf"{_RECAPTIONED}: (-?[\d.]+) instead of (-?[\d.]+)")
_ORIGINAL = re.compile(rf"{REPEATS_IMAGE}: that of (.+)", re.DOTALL)


def kind_of(reason: str) -> str:
    """What happened, without the details of the row."""
    return reason.split(": ")[0]


def repeats_caption(caption: str) -> str:
    """The row repeats a kept ``caption``."""
    return f"{REPEATS_CAPTION}: {caption}"


def repeats_image(identifier: str) -> str:
    """The row's image looks like that of the kept row with this id."""
    return f"{REPEATS_IMAGE}: that of {identifier}"


def repeated_id(reason: str) -> str | None:
    """The id given to `repeats_image`, None for another reason."""
    found = _ORIGINAL.fullmatch(reason)
    return found[1] if found else None


def recaptioned(new_score: float, old_score: float) -> str:
    """A model's caption replaced the old one; scores are their similarities with the image."""
    return f"{_RECAPTIONED}: {new_score:.4f} instead of {old_score:.4f}"


def recaption_gain(reason: str) -> float | None:
    """New minus old score given to `recaptioned`, None for another reason."""
    found = _GAIN.fullmatch(reason)
    return float(found[1]) - float(found[2]) if found else None


def text_read(text: str) -> str:
    """The caption got a ``text`` that was read in the image."""
    return f"text of the image written into the caption: {text}"


def no_image_value(why: str) -> str:
    """The file of image values has none for the row."""
    return f"no image value: {why}"


def outside_threshold(stat: str, side: str, threshold: str, score: float) -> str:
    """A ``score`` above or below (``side``) a threshold, which is given with its name, as `min_score 0.3`."""
    return f"{stat} {side} {threshold}: {score:.6g}"


def not_best(cap: int, score_key: str) -> str:
    """The row is not among the ``cap`` best ones."""
    return f"not among the best {cap:,} by {score_key}"


def not_best_of_cluster(score_key: str, cluster: int) -> str:
    """The row is not among the best ones of its cluster."""
    return f"not among the best of its cluster by {score_key}: cluster {cluster}"


def outside_ranks(first: int, last: int, score_key: str, rank: int) -> str:
    """The row's ``rank`` by a score is outside the window ``first`` to ``last``."""
    return f"rank by {score_key} outside {first:,} to {last:,}: {rank:,}"


def written_into_seed(image: str) -> str:
    """The operator wrote the row's new ``image`` into the folder of the seed's images."""
    return f"the operator wrote an image into the seed's folder: {image}; {_WHERE_TO}"


def written_elsewhere(image: str) -> str:
    """The row's new ``image`` is in no folder that a row may name."""
    return f"the operator wrote an image where no row may have one: {image}; {_WHERE_TO}"


def created_from(row: int) -> str:
    """The row was created from the row with this number."""
    return f"made from row {row}"
