"""The base of filters that ask a picture classifier for the probability of its second label."""

from collections.abc import Sequence

import torch
from PIL import Image

from .loader import dtype_for, load_model
from .model_score_filter import ModelScoreFilter


class PictureClassifierFilter(ModelScoreFilter):
    """Keep pictures with min_score <= probability of the second label <= max_score; subclasses name stat and model.

    Of the two labels of the usual detectors the second one is the fault. In bfloat16 on a GPU.
    """

    def dtype(self, device: str) -> torch.dtype:
        """bfloat16 on a GPU that has it."""
        return dtype_for(device)

    @torch.inference_mode()
    def judge(self, pictures: Sequence[Image.Image], captions: Sequence[str], device: str) -> list[float]:
        """The probability of the second label, one a picture."""
        model, processor = load_model(self.model, device, self.dtype(device))
        inputs = processor(images=list(pictures), return_tensors="pt").to(device, model.dtype)
        return model(**inputs).logits.float().softmax(dim=-1)[:, 1].tolist()
