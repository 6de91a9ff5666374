"""solution/operators/common/captions.py: a caption is replaced, the tokens around it stay."""

import pytest

from solution.operators.common.captions import split_text, with_caption


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<__dj__image>\na dress <|__dj__eoc|>", "<__dj__image>\nNEW <|__dj__eoc|>"),
        ("<image> a dress", "<image> NEW"),
        ("<image>\n\n  a dress  <|__dj__eoc|>\n", "<image>\nNEW <|__dj__eoc|>\n"),
        ("<image>\n  <|__dj__eoc|>", "<image>\nNEW<|__dj__eoc|>"),
        ("a dress\n<image> <|__dj__eoc|>", "NEW\n<image> <|__dj__eoc|>"),
        ("a dress <image>", "NEW <image>"),
        ("a dress", "NEW"),
        ("", "NEW"),
    ],
)
def test_the_tokens_stay_where_they_are(text, expected):
    assert with_caption(text, "NEW") == expected


@pytest.mark.parametrize(
    "text", ["<image> a <image>", "<image> a <|__dj__eoc|> b", "a <image> b", "a <|__dj__eoc|> <image>"]
)
def test_a_token_inside_the_caption_is_refused(text):
    with pytest.raises(ValueError, match="inside its caption"):
        split_text(text)
