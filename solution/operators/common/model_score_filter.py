"""The bases of filters that score images with a model: many in one forward pass, each pair only once."""

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice
from math import fsum

import torch
from data_juicer.ops.base_op import Filter
from data_juicer.utils.constant import Fields
from PIL import Image

from .captions import caption_of
from .images import open_images
from .loader import device_for, dtype_for, load_model, model_folder
from .rows import FAILURE, MODEL_ROWS, Batch, add_texts
from .score_store import ScoreStore, blocks_of, revision_of, score_folder, values_per_row


class ScoreFilter(Filter):
    """Keep rows with min_score <= score <= max_score; subclasses name the stat and compute the scores of a batch."""

    _accelerator = "cuda"
    _batched_op = True
    stat: str
    min_score: float
    max_score: float

    def process_batched(self, samples: Batch) -> list[bool]:
        """True (keep) or False per row."""
        scores = [stats[self.stat] for stats in samples[Fields.stats]]
        return [score is not None and self.get_keep_boolean(score, self.min_score, self.max_score) for score in scores]

    def add_scores(self, samples: Batch, scores: Sequence[float | None], failures: Sequence[str]) -> Batch:
        """Write one score per row (None for a failed one) to the stats, and the failures."""
        for stats, score in zip(samples[Fields.stats], scores, strict=True):
            stats[self.stat] = score
        add_texts(samples, FAILURE, failures)
        return samples


class ModelScoreFilter(ScoreFilter):
    """Scores from a model, many images in one forward pass; subclasses name stat and version, and score images.

    The score of a row with several images is their mean. A row whose image cannot be read fails alone. Scores are
    kept on disk: with the same model, the same pair is never scored again. Every forward pass of a group has
    the same shape, so the other rows of a batch affect the seventh digit at most; a run that was killed between two
    blocks resumes with the same blocks, hence the same bits.
    """

    version = 1  # of preprocessing and score; a change of either invalidates stored scores
    reads_caption = False  # whether the score depends on the caption

    def __init__(self, model: str, min_score: float, max_score: float, model_batch: int, *args, **kwargs) -> None:
        """``model``: folder or hub name; ``model_batch``: images in one forward pass."""
        super().__init__(*args, **({"batch_size": MODEL_ROWS} | kwargs))
        self.model = model_folder(model)
        self.model_batch = model_batch
        self.min_score = min_score
        self.max_score = max_score

    @abstractmethod
    def score(self, images: Sequence[Image.Image], captions: Sequence[str], device: str) -> list[float]:
        """One score per image; ``captions`` holds the caption of each image's row."""

    def group(self, caption: str) -> int:
        """Captions of different groups never share a forward pass: a group sets its shape, apart from its size."""
        return 0

    def dtype(self, device: str) -> torch.dtype:
        """The model's precision; float32 unless a subclass says otherwise."""
        return torch.float32

    @cached_property
    def store(self) -> ScoreStore[float]:
        """Scores that this filter's model has given before."""
        settings = (self.stat, self.version, revision_of(self.model), self.dtype(device_for(self.use_cuda(), None)))
        return ScoreStore(score_folder(), " ".join(map(str, (*settings, *self.settings()))), float)

    def settings(self) -> tuple[object, ...]:
        """Parameters that the score depends on, besides the model."""
        return ()

    def compute_stats_batched(self, samples: Batch, rank: int | None = None) -> Batch:
        """Write the score (None for a failed row) to each row's stats."""
        captions = [caption_of(text) for text in samples[self.text_key]]
        images = samples[self.image_key]
        texts = [[caption] if self.reads_caption else [] for caption in captions]

        def compute(rows: list[int], failures: list[str]) -> Iterator[dict[int, float]]:
            for block in blocks_of(rows):
                yield self._score_rows(block, images, captions, failures, rank)

        return self.add_scores(samples, *values_per_row(self.store, images, texts, compute))

    def _score_rows(
        self,
        rows: Sequence[int],
        images: Sequence[Sequence[str]],
        captions: Sequence[str],
        failures: list[str],
        rank: int | None,
    ) -> dict[int, float]:
        """Row -> mean score over its images; a row with a bad image goes to ``failures`` instead."""
        device = device_for(self.use_cuda(), rank)
        groups: dict[int, list[tuple[int, str]]] = defaultdict(list)
        for row in rows:
            groups[self.group(captions[row])] += [(row, path) for path in images[row]]
        scores: dict[int, list[float]] = defaultdict(list)
        for group in groups.values():
            opened = open_images(group, failures)
            while batch := list(islice(opened, self.model_batch)):
                # A short batch is filled up: kernels round differently for other sizes.
                filled = batch + batch[-1:] * (self.model_batch - len(batch))
                new = self.score([image for _, image in filled], [captions[row] for row, _ in filled], device)
                for (row, _), score in zip(batch, new, strict=False):
                    scores[row].append(score)
        return {row: fsum(scores[row]) / len(scores[row]) for row in rows if not failures[row]}


class ImageClassifierFilter(ModelScoreFilter):
    """Keep images with min_score <= probability of the second label <= max_score; subclasses name stat and model.

    The usual detectors have two labels, the second one for what is unwanted. In bfloat16 on a GPU.
    """

    def dtype(self, device: str) -> torch.dtype:
        """bfloat16 on a GPU that has it."""
        return dtype_for(device)

    @torch.inference_mode()
    def score(self, images: Sequence[Image.Image], captions: Sequence[str], device: str) -> list[float]:
        """The probability of the second label, one per image."""
        model, processor = load_model(self.model, device, self.dtype(device))
        inputs = processor(images=list(images), return_tensors="pt").to(device, model.dtype)
        return model(**inputs).logits.float().softmax(dim=-1)[:, 1].tolist()
