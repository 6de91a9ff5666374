"""The first use of a GPU's libraries, on a side thread while a model's weights are read.

cuDNN and cuBLAS read kernels from disk and choose among them when something is first asked of them: 2.3 s on one H100,
more than half of a first pass over 256 questions. Modules are not used here: accelerate, which makes the empty model
meanwhile, changes how every module of the process registers its parameters.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import sdpa_kernel

from toolkit.eval.decoding import PLANLESS
from toolkit.mgm.model import MGMConfig
from toolkit.weights import first_line


class FirstUse:
    """Work that is done beside other work and may fail.

    Args:
        work: called once, at once.
    """

    def __init__(self, work: Callable[[], None]):
        self._work = work
        self._fault = ""
        self._thread = threading.Thread(target=self._run, name="first use")
        self._thread.start()

    def _run(self) -> None:
        try:
            self._work()
        except Exception as error:  # whatever it is, the real use will show it, or do without
            self._fault = f"{type(error).__name__}: {first_line(error)}"

    def end(self) -> str:
        """Wait until it has ended; says how it failed, else nothing."""
        self._thread.join()
        return self._fault


def use_towers(fields: dict[str, Any], device: torch.device, dtype: torch.dtype) -> None:
    """Do once, with zeros, what both towers do with one image: each kind of operation, in their shapes and layouts.

    Args:
        fields: of the model's config.json.
        device, dtype: of the model.
    """
    config = MGMConfig(**{name: value for name, value in fields.items() if name != "model_type"})
    clip, dims = config.vision_config, config.vision_config_aux["dims"]

    def zeros(*shape: int) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype, device=device)

    with torch.inference_mode(), sdpa_kernel(PLANLESS):
        side = config.image_size_aux
        x = zeros(1, 3, side, side).contiguous(memory_format=torch.channels_last)
        x = F.conv2d(x, zeros(dims[0], 3, 4, 4), zeros(dims[0]), stride=4)
        first = x.shape[-2:]
        for before, width in itertools.pairwise([dims[0], *dims]):
            if before != width:
                x = F.conv2d(x, zeros(width, before, 2, 2), zeros(width), stride=2)
            x = F.conv2d(x, zeros(width, 1, 7, 7), zeros(width), padding=3, groups=width)
            y = F.layer_norm(x.permute(0, 2, 3, 1), (width,), zeros(width), zeros(width))
            F.linear(F.gelu(F.linear(y, zeros(4 * width, width), zeros(4 * width))), zeros(width, 4 * width))
            F.interpolate(x.float(), size=first, mode="bilinear", align_corners=False)
        width, patch, size = clip["hidden_size"], clip["patch_size"], clip["image_size"]
        x = F.conv2d(zeros(1, 3, size, size), zeros(width, 3, patch, patch), stride=patch).flatten(2).transpose(1, 2)
        heads = x.unflatten(-1, (clip["num_attention_heads"], -1)).transpose(1, 2)
        F.scaled_dot_product_attention(heads, heads, heads)
        F.linear(x, zeros(width, width), zeros(width)).sum().item()  # by then all of it is done
