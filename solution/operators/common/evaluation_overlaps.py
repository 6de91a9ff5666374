"""What `python -m toolkit check --contamination` found in the evaluation sets, by image content and caption."""

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from .images import ImageError
from .loader import model_folder
from .score_store import image_digest

_METADATA = b"overlaps"
_COLUMNS = ["image", "image_in", "caption", "text_in"]


class EvaluationOverlaps:
    """The file, read when the first row is looked up. Raises ValueError where it is missing or no such file."""

    def __init__(self, file: str) -> None:
        self.file = model_folder(file)
        advice = (
            "`python -m toolkit check SEED.jsonl --images DIR --preset P --contamination output/contamination` makes it"
        )
        if not Path(self.file).is_file():
            what = "a folder; name overlaps.parquet in it" if Path(self.file).is_dir() else f"missing; {advice}"
            raise ValueError(f"{self.file} is {what}")
        try:
            about = json.loads((pq.read_schema(self.file).metadata or {}).get(_METADATA, b"null"))
        except (pa.ArrowInvalid, ValueError):
            about = None
        if not isinstance(about, dict) or about.get("version") != 1:
            raise ValueError(f"{self.file} is no file of `check --contamination`; {advice}")

    def __reduce__(self) -> tuple:
        """Another process reads the file itself."""
        return EvaluationOverlaps, (self.file,)

    def has(self, caption: str, images: Sequence[str]) -> bool:
        """Whether the caption or an image is in the evaluation sets. Raises ImageError for what was not compared."""
        of_images, of_captions = self._known
        words = hashlib.blake2b(caption.encode(), digest_size=16).digest()
        try:
            found = [of_captions[words], *(of_images[image_digest(image)] for image in images)]
        except KeyError:
            raise ImageError(
                f"was not compared with the evaluation sets: {self.file} lacks its image or caption; operators that "
                "change them belong after evaluation_overlap_filter"
            ) from None
        return any(found)

    @cached_property
    def _known(self) -> tuple[dict[bytes, bool], dict[bytes, bool]]:
        """Digest -> whether it is in the evaluation sets, of images and of captions."""
        images: dict[bytes, bool] = {}
        captions: dict[bytes, bool] = {}
        for row in pq.read_table(self.file, columns=_COLUMNS).to_pylist():
            if row["image"] is not None:
                images[row["image"]] = images.get(row["image"], False) or bool(row["image_in"])
            captions[row["caption"]] = captions.get(row["caption"], False) or bool(row["text_in"])
        return images, captions
