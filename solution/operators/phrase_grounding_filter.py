"""Keep rows whose image shows the things that its caption names."""

from collections.abc import Sequence
from typing import Annotated

import torch
from data_juicer.ops.base_op import OPERATORS
from PIL import Image
from pydantic import Field, PositiveInt

from .common.loader import load_model
from .common.model_score_filter import ModelScoreFilter
from .common.noun_phrases import noun_phrases, require_tagger

Share = Annotated[float, Field(ge=0, le=1)]
Box = Sequence[float]  # left, top, right, bottom in px


@OPERATORS.register_module("phrase_grounding_filter")
class PhraseGroundingFilter(ModelScoreFilter):
    """The share of a caption's noun phrases that OWL-ViT finds: Data-Juicer's phrase_grounding_recall_filter, batched.

    As many boxes as there are phrases are examined, the surest first; a box finds its phrase unless it covers nearly
    the whole image or overlaps one that was counted before. A caption without noun phrases scores 1.
    """

    stat = "phrase_grounding_recall"
    reads_caption = True

    def __init__(
        self,
        hf_owlvit: str = "google/owlvit-base-patch32",
        min_score: Share = 0.1,
        max_score: Share = 1.0,
        box_overlap: Share = 0.5,
        box_area: Share = 0.95,
        model_batch: PositiveInt = 16,
        *args,
        **kwargs,
    ) -> None:
        """Keep rows with min_score <= share of phrases found <= max_score.

        :param hf_owlvit: folder (or hub name) of an OwlViTForObjectDetection with its processor
        :param min_score: lowest share to keep, 0 to 1
        :param max_score: highest share to keep, 0 to 1
        :param box_overlap: a box that overlaps a counted one more than this (intersection over union) is not counted
        :param box_area: a box that covers more than this share of the image is not counted
        :param model_batch: rows in one forward pass
        """
        super().__init__(hf_owlvit, min_score, max_score, model_batch, *args, **kwargs)
        require_tagger()
        self.box_overlap = box_overlap
        self.box_area = box_area

    def settings(self) -> tuple[object, ...]:
        """The two thresholds on boxes."""
        return self.box_overlap, self.box_area

    def group(self, caption: str) -> int:
        """The number of phrases: all rows of a forward pass are asked for the same number of things."""
        return len(noun_phrases(caption))

    @torch.inference_mode()
    def score(self, images: Sequence[Image.Image], captions: Sequence[str], device: str) -> list[float]:
        """The share of phrases found, one per image."""
        phrases = [noun_phrases(caption) for caption in captions]
        count = len(phrases[0])
        if not count:
            return [1.0] * len(images)
        model, processor = load_model(self.model, device, self.dtype(device), "OwlViTForObjectDetection")
        inputs = processor(
            text=[list(own) for own in phrases],
            images=list(images),
            return_tensors="pt",
            padding="max_length",
            max_length=model.config.text_config.max_position_embeddings,
            truncation=True,
        ).to(device)
        outputs = model(**inputs)  # logits [rows, patches, phrases], pred_boxes [rows, patches, 4]
        recalls = []
        for logits, boxes, image in zip(outputs.logits, outputs.pred_boxes, images, strict=True):
            scores, labels = logits.sigmoid().max(dim=-1)
            surest = scores.argsort(descending=True, stable=True)[:count]
            corners = _pixel_boxes(boxes[surest], image.size)
            recalls.append(self._found(labels[surest].tolist(), corners, image.width * image.height) / count)
        return recalls

    def _found(self, labels: list[int], boxes: list[Box], area: int) -> int:
        """How many phrases the boxes find, the surest box first; ``area`` of the image in px."""
        counted: dict[int, Box] = {}
        for label, box in zip(labels, boxes, strict=True):
            too_large = (box[2] - box[0]) * (box[3] - box[1]) / area > self.box_area
            covered = any(overlap(box, other) > self.box_overlap for other in counted.values())
            if label not in counted and not too_large and not covered:
                counted[label] = box
        return len(counted)


def _pixel_boxes(boxes: torch.Tensor, size: tuple[int, int]) -> list[Box]:
    """Boxes [N, 4] as centre, width, height in shares of the image -> corners in px; ``size`` is width, height."""
    centre, extent = boxes[:, :2], boxes[:, 2:]
    scale = torch.tensor([*size, *size], device=boxes.device)
    return (torch.cat([centre - extent / 2, centre + extent / 2], dim=1) * scale).tolist()


def overlap(one: Box, other: Box) -> float:
    """Intersection over union of two boxes, 0 for boxes apart or without area."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0.0) * max(height, 0.0)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return shared / (areas - shared) if areas > shared else 0.0
