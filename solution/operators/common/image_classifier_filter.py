"""The base of filters that use the probability an image classifier gives its second label."""

from collections.abc import Sequence

import torch
from PIL import Image

from .loader import dtype_for, load_model
from .model_score_filter import ModelScoreFilter


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
