"""Image-text similarity of many rows at once with a CLIP model in transformers' format."""

import math
from collections.abc import Iterator, Sequence

import torch
from data_juicer.utils.model_utils import get_model, prepare_model

from .pictures import PictureError, open_row_pictures

# (model, images, caption) -> score, for this process: a second check after recaptioning pays for new captions only.
_KNOWN: dict[tuple[str, tuple[str, ...], str], float] = {}


class ClipScorer:
    """Scores rows with one CLIP model; ``on_gpu`` says whether Data-Juicer gave the operator a GPU."""

    def __init__(self, model: str, model_batch: int, on_gpu: bool) -> None:
        self.model = model
        self.model_batch = model_batch
        self.on_gpu = on_gpu
        self.model_key = prepare_model("huggingface", pretrained_model_name_or_path=model)

    def score(
        self, images: Sequence[Sequence[str]], captions: Sequence[str], rank: int | None = None
    ) -> tuple[list[float], list[str]]:
        """Similarity of each row's caption with its pictures.

        ``images`` holds each row's picture paths. Returns one score a row (logits / 100 as Data-Juicer's own filter has
        it, which is the cosine for CLIP's usual scale of 100; mean over a row's pictures) and one failure text a row:
        empty for a good row, else the score is NaN.
        """
        scores, failures = [math.nan] * len(captions), [""] * len(captions)
        unknown = []
        for row, (paths, caption) in enumerate(zip(images, captions, strict=True)):
            known = _KNOWN.get((self.model, tuple(paths or ()), caption))
            if known is None:
                unknown.append(row)
            else:
                scores[row] = known
        for rows, pictures in self._readable_batches(unknown, images, failures):
            batch_scores = self._forward([captions[row] for row in rows], pictures, rank)
            for row, score in zip(rows, batch_scores, strict=True):
                scores[row] = _KNOWN[self.model, tuple(images[row]), captions[row]] = score
        return scores, failures

    def _readable_batches(
        self, rows: Sequence[int], images: Sequence[Sequence[str]], failures: list[str]
    ) -> Iterator[tuple[list[int], list[list]]]:
        """Batches of (rows, their decoded pictures); a row with a bad picture goes to ``failures`` instead."""
        for start in range(0, len(rows), self.model_batch):
            good, pictures = [], []
            for row in rows[start : start + self.model_batch]:
                try:
                    pictures.append(open_row_pictures(images[row]))
                    good.append(row)
                except PictureError as bad:
                    failures[row] = str(bad)
            if good:
                yield good, pictures

    @torch.inference_mode()
    def _forward(self, captions: list[str], pictures: list[list], rank: int | None) -> list[float]:
        model, processor = get_model(self.model_key, rank, self.on_gpu)
        flat = [picture for row in pictures for picture in row]
        inputs = processor(
            text=captions,
            images=flat,
            return_tensors="pt",
            padding=True,
            truncation=True,
            max_length=model.config.text_config.max_position_embeddings,
        ).to(model.device)
        logits = model(**inputs).logits_per_text / 100.0  # [rows, pictures]
        owner = torch.tensor([row for row, own in enumerate(pictures) for _ in own], device=logits.device)
        own = torch.arange(len(captions), device=logits.device)[:, None] == owner[None, :]  # [rows, pictures]
        return ((logits * own).sum(dim=1) / own.sum(dim=1)).float().cpu().tolist()
