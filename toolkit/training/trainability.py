"""Whether training would learn anything from a sample, by the tokenizer and the preset's limits."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from toolkit.files import read_json
from toolkit.mgm.conversation import require_trainable
from toolkit.presets import Preset
from toolkit.weights import image_tokens_of, require_tokenizer_files


class LazyTokenizer:
    """Gemma's tokenizer, read with the library that takes seconds to import once a text must be counted.

    Until then it knows the names of its marks, which are all that short rows are compared with.

    Args:
        folder: of the tokenizer's files.

    Raises:
        UserError: one of them is missing or no JSON.
    """

    def __init__(self, folder: Path):
        require_tokenizer_files(folder)
        self.folder = folder
        for name in ("eos_token", "pad_token"):
            mark = read_json(folder / "tokenizer_config.json").get(name)
            mark = mark.get("content") if isinstance(mark, dict) else mark
            if isinstance(mark, str):  # else it is a default of the tokenizer's class
                setattr(self, name, mark)

    @functools.cached_property
    def _loaded(self) -> Any:
        from toolkit.mgm.checkpoint import load_tokenizer

        return load_tokenizer(self.folder)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loaded, name)

    def __call__(self, *words: Any, **settings: Any) -> Any:
        """As the tokenizer. Raises UserError as `load_tokenizer` does."""
        return self._loaded(*words, **settings)


def trainability_test(preset: Preset, tokenizer: Path) -> Callable[[dict[str, Any]], None]:
    """The test that `check` makes of every row.

    Args:
        preset: gives the length of a sample and the main tower, whose `config.json` must exist.
        tokenizer: folder of the language model's tokenizer.

    Returns:
        A function of a LLaVA-format sample; it raises RowFault as `require_trainable` does.
    """
    lazy: Any = LazyTokenizer(tokenizer)
    image_tokens = image_tokens_of(preset.vision_tower)

    def test(sample: dict[str, Any]) -> None:
        require_trainable(sample["conversations"], lazy, "image" in sample, preset.max_length, image_tokens)

    return test
