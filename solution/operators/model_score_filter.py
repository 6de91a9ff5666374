"""The base of filters that judge pictures with a model: many in one forward pass, each pair once and for all."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from math import fsum

import torch
from data_juicer.ops.base_op import Filter
from data_juicer.utils.constant import Fields
from PIL import Image

from .captions import caption_of
from .loader import device_for
from .pictures import PictureError, open_row_pictures
from .rows import FAILURE, Batch, add_texts
from .score_store import ScoreStore, revision_of, score_folder, score_key


class ModelScoreFilter(Filter):
    """Keep rows with min_score <= score <= max_score; subclasses name stat and version, and judge pictures.

    The score of a row with several pictures is their mean. A row whose picture cannot be read fails alone. Scores are
    kept on disk: with the same model, the same pair is never judged again.
    """

    _accelerator = "cuda"
    _batched_op = True
    stat: str
    version = 1  # of preprocessing and score; a change of either makes stored scores worthless
    reads_caption = False  # whether the score depends on the caption

    def __init__(self, model: str, min_score: float, max_score: float, model_batch: int, *args, **kwargs) -> None:
        """``model``: folder or hub name; ``model_batch``: rows in one forward pass."""
        super().__init__(*args, **kwargs)
        self.model = model
        self.model_batch = model_batch
        self.min_score = min_score
        self.max_score = max_score

    @abstractmethod
    def judge(self, pictures: Sequence[Image.Image], captions: Sequence[str], device: str) -> list[float]:
        """One score a picture; ``captions`` holds the caption of each picture's row."""

    def dtype(self, device: str) -> torch.dtype:
        """What the model computes in; float32 unless a subclass knows better."""
        return torch.float32

    @cached_property
    def store(self) -> ScoreStore:
        """What this filter's model has judged before."""
        settings = (self.stat, self.version, revision_of(self.model), self.dtype(device_for(self.use_cuda(), None)))
        return ScoreStore(score_folder(), " ".join(map(str, (*settings, *self.settings()))))

    def settings(self) -> tuple[object, ...]:
        """Parameters that the score depends on, beside the model."""
        return ()

    def compute_stats_batched(self, samples: Batch, rank: int | None = None) -> Batch:
        """Write the score (None for a failed row) to each row's stats."""
        captions = [caption_of(text) for text in samples[self.text_key]]
        images = samples[self.image_key]
        failures = [""] * len(images)
        keys: dict[int, bytes] = {}
        for row, paths in enumerate(images):
            try:
                if not paths:
                    raise PictureError("the row has no image")
                keys[row] = score_key(paths, *([captions[row]] if self.reads_caption else []))
            except PictureError as bad:
                failures[row] = str(bad)
        scores = dict(zip(keys, self.store.get(list(keys.values())), strict=True))
        unknown = [row for row, score in scores.items() if score is None]
        for batch in self._readable_batches(unknown, images, failures):
            new = self._judge_rows(batch, captions, device_for(self.use_cuda(), rank))
            self.store.add([keys[row] for row in new], list(new.values()))
            scores |= new
        for row, stats in enumerate(samples[Fields.stats]):
            stats[self.stat] = scores.get(row)
        add_texts(samples, FAILURE, failures)
        return samples

    def process_batched(self, samples: Batch) -> list[bool]:
        """One True (keep) or False a row."""
        scores = [stats[self.stat] for stats in samples[Fields.stats]]
        return [score is not None and self.get_keep_boolean(score, self.min_score, self.max_score) for score in scores]

    def _judge_rows(
        self, batch: dict[int, list[Image.Image]], captions: Sequence[str], device: str
    ) -> dict[int, float]:
        """Row -> mean score over its pictures, in one forward pass."""
        owners = [row for row, pictures in batch.items() for _ in pictures]
        pictures = [picture for pictures in batch.values() for picture in pictures]
        judged = self.judge(pictures, [captions[row] for row in owners], device)
        own = {row: [score for owner, score in zip(owners, judged, strict=True) if owner == row] for row in batch}
        return {row: fsum(values) / len(values) for row, values in own.items()}

    def _readable_batches(
        self, rows: Sequence[int], images: Sequence[Sequence[str]], failures: list[str]
    ) -> Iterator[dict[int, list[Image.Image]]]:
        """Batches of row -> its decoded pictures; a row with a bad picture goes to ``failures`` instead."""
        for start in range(0, len(rows), self.model_batch):
            batch = {}
            for row in rows[start : start + self.model_batch]:
                try:
                    batch[row] = open_row_pictures(images[row])
                except PictureError as bad:
                    failures[row] = str(bad)
            if batch:
                yield batch
