"""Images for captions from a text-to-image pipeline of diffusers; an image does not depend on the batch."""

import importlib.util
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from PIL import Image

from .faults import loading
from .loader import device_for, dtype_for, model_folder
from .rows import row_seed


class ImageGenerator:
    """One text-to-image pipeline (Stable Diffusion 1.5, XL, 3 ...) with its settings. In bfloat16 on a GPU."""

    def __init__(
        self, model: str, steps: int, guidance: float, size: int, seed: int, model_batch: int, on_gpu: bool
    ) -> None:
        """``size``: side of the square images, px. Raises ImportError, saying what to install, without diffusers."""
        if importlib.util.find_spec("diffusers") is None:
            raise ImportError("needs the package diffusers: pip install -r solution/requirements-synthesis.txt")
        self.model = model_folder(model)
        self.steps = steps
        self.guidance = guidance
        self.size = size
        self.seed = seed
        self.model_batch = model_batch
        self.on_gpu = on_gpu

    @torch.inference_mode()
    def generate(
        self, captions: Sequence[str], row_keys: Sequence[str], rank: int | None = None
    ) -> list[Image.Image | None]:
        """One image per caption, None where the pipeline's safety check refuses it.

        ``row_keys`` name the rows: an image's noise depends on seed and key alone. At most ``model_batch`` captions.
        """
        device = device_for(self.on_gpu, rank)
        pipeline = load_pipeline(self.model, device, dtype_for(device))
        # A short batch is filled up: kernels round differently for other sizes.
        missing = self.model_batch - len(captions)
        keys = [*row_keys, *[row_keys[-1]] * missing]
        result = pipeline(
            prompt=[*captions, *[captions[-1]] * missing],
            height=self.size,
            width=self.size,
            num_inference_steps=self.steps,
            guidance_scale=self.guidance,
            # On the CPU: the noise is then the same on every device.
            generator=[torch.Generator().manual_seed(row_seed(self.seed, key)) for key in keys],
        )
        refused = getattr(result, "nsfw_content_detected", None) or [False] * len(keys)
        images = zip(result.images, refused, strict=True)
        return [None if bad else image for image, bad in images][: len(captions)]


@lru_cache(maxsize=1)
def load_pipeline(folder: str, device: str, dtype: torch.dtype) -> Any:
    """The pipeline of a folder (with model_index.json) or hub name."""
    from diffusers import DiffusionPipeline

    with loading(folder):
        pipeline = DiffusionPipeline.from_pretrained(folder, torch_dtype=dtype).to(device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
