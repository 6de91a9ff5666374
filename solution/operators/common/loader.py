"""Model folders in transformers' format, loaded once per process and device, whichever operators share them."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import transformers

from .faults import loading
from .places import CHECKOUT


def model_folder(name: str) -> str:
    """A model's folder or hub name; a relative path starts in the working directory, else in the checkout.

    So that recipes find their models under `dj-process` too, from any folder.
    """
    if CHECKOUT and not Path(name).exists() and (CHECKOUT / name).is_dir():
        return str(CHECKOUT / name)
    return name


def device_for(on_gpu: bool, rank: int | None) -> str:
    """The device of a worker: the GPUs in turn, by rank; the CPU if ``on_gpu`` is False."""
    return f"cuda:{(rank or 0) % torch.cuda.device_count()}" if on_gpu else "cpu"


def dtype_for(device: str) -> torch.dtype:
    """bfloat16 on GPUs that compute in it, else float32; for models whose results tolerate the rounding."""
    return torch.bfloat16 if device.startswith("cuda") and torch.cuda.is_bf16_supported() else torch.float32


@lru_cache(maxsize=4)  # a recipe's later models evict its first ones from a GPU's memory
def load_model(folder: str, device: str, dtype: torch.dtype, kind: str | None = None) -> tuple[Any, Any]:
    """(model, processor) of a folder or hub name.

    ``kind`` is the name of a class of transformers; by default the class that the folder's config.json names.
    Raises SetupFault where it cannot be loaded.
    """
    with loading(folder):
        # Without the word, transformers would ask at the terminal whether a folder's own code may run.
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
        name = kind or (config.architectures or [""])[0]
        model_class = getattr(transformers, name, None)
        if model_class is None:
            raise ValueError(f"config.json names the class '{name}', which transformers does not have")
        model = model_class.from_pretrained(folder, dtype=dtype).to(device).eval()
        if name == "Qwen2VLForConditionalGeneration":
            return model, Qwen2VLProcessorWithoutVideo.from_pretrained(folder)
        return model, transformers.AutoProcessor.from_pretrained(folder, trust_remote_code=False)


class Qwen2VLProcessorWithoutVideo(transformers.Qwen2VLProcessor):
    """Qwen2-VL's processor without its video half, which needs torchvision: another torch's copy breaks every model."""

    attributes = ["image_processor", "tokenizer"]  # noqa: RUF012  the base class declares it so
    image_processor_class = "Qwen2VLImageProcessor"
