"""Whether training would learn anything from a sample, by the tokenizer and the preset's limits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from toolkit.mgm.checkpoint import load_tokenizer
from toolkit.mgm.conversation import require_trainable
from toolkit.presets import Preset
from toolkit.training.data import image_tokens_of


def trainability_test(preset: Preset, tokenizer: Path) -> Callable[[dict[str, Any]], None]:
    """The test that `check` makes of every row.

    Args:
        preset: gives the length of a sample and the main tower, whose `config.json` must exist.
        tokenizer: folder of the language model's tokenizer.

    Returns:
        A function of a LLaVA-format sample; it raises RowFault as `require_trainable` does.
    """
    loaded, image_tokens = load_tokenizer(tokenizer), image_tokens_of(preset.vision_tower)

    def test(sample: dict[str, Any]) -> None:
        require_trainable(sample["conversations"], loaded, "image" in sample, preset.max_length, image_tokens)

    return test
