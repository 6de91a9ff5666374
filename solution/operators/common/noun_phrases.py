"""The things a caption names: its noun phrases, found with NLTK's part-of-speech tagger."""

import importlib.util
import re
from functools import lru_cache

_TAGGER = "averaged_perceptron_tagger_eng"
_PUNCTUATION = str.maketrans("", "", "|:;@()[]{}^'\"’`?$%#!&*+,.")
_PHRASE = re.compile("D?J*N+")  # an article, adjectives, nouns


def require_tagger() -> None:
    """Raise ImportError without NLTK, ValueError without its tagger's data; both say how to get it."""
    if importlib.util.find_spec("nltk") is None:
        raise ImportError("needs the package nltk: pip install -r solution/requirements-grounding.txt")
    import nltk

    try:
        nltk.data.find(f"taggers/{_TAGGER}/")
    except LookupError:
        raise ValueError(
            f"NLTK's tagger is missing: fetch it with `python -m nltk.downloader {_TAGGER}` "
            "(NLTK_DATA names another folder)"
        ) from None


@lru_cache(maxsize=1 << 16)
def noun_phrases(caption: str) -> tuple[str, ...]:
    """The distinct noun phrases of a caption, in order, lower case, without punctuation.

    A phrase is an optional article, any adjectives and one or more nouns, as GLIP cuts captions for grounding.
    """
    import nltk

    # A full stop inside is set apart here: NLTK's own sentence splitter needs another data file.
    words = nltk.word_tokenize(re.sub(r"\.(?=\s)", " .", caption.lower()), preserve_line=True)
    letters = "".join(
        "D" if tag == "DT" else "J" if tag.startswith("JJ") else "N" if tag.startswith("NN") else "-"
        for _, tag in nltk.pos_tag(words)
    )
    found = (" ".join(words[match.start() : match.end()]) for match in _PHRASE.finditer(letters))
    return tuple(dict.fromkeys(phrase for text in found if (phrase := text.translate(_PUNCTUATION).strip())))
