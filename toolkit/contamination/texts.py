"""Captions that repeat the evaluation sets' questions, options or hints."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

# Words in a row that two texts share by more than chance; GPT-3 and PaLM removed data by 13 and 8.
WORDS = 8
SHORTEST = 5  # words of a whole question that a caption may repeat; shorter ones are everyday phrases


def words_of(text: str) -> list[str]:
    """Lower-case words and numbers; each character of scripts without spaces counts as a word."""
    return re.findall(
        r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+", text.lower()
    )


class WantedTexts:
    """Texts of the evaluation sets by their word sequences.

    Args:
        texts: name -> text, such as a question with its options.
    """

    def __init__(self, texts: Mapping[str, str]):
        self._names: dict[tuple[str, ...], str] = {}
        for name, text in texts.items():
            words = words_of(text)
            for gram in _grams(words) if len(words) >= WORDS else [tuple(words)] if len(words) >= SHORTEST else []:
                self._names.setdefault(gram, name)
        self._lengths = sorted({len(gram) for gram in self._names})

    def find(self, caption: str) -> tuple[str, str] | None:
        """(name, the words in common) of the first text that a caption shares words with, or None."""
        words = words_of(caption)
        for length in self._lengths:
            for start in range(len(words) - length + 1):
                gram = tuple(words[start : start + length])
                if gram in self._names:
                    return self._names[gram], " ".join(gram)
        return None


def _grams(words: list[str]) -> Iterable[tuple[str, ...]]:
    return (tuple(words[start : start + WORDS]) for start in range(len(words) - WORDS + 1))
