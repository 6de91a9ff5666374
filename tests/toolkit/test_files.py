"""toolkit/files.py: documents that could be read but not written again are refused."""

from __future__ import annotations

import pytest

from toolkit.errors import UserError
from toolkit.files import read_json


@pytest.mark.parametrize("text", ['{"a": "\\ud83d"}', '["\\uDE00 \\ud83d"]'])
def test_half_a_character_in_a_document_is_refused(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"a.json: not Unicode text \(surrogates not allowed: '\\u"):
        read_json(path)


def test_a_character_in_two_escapes_is_one(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": "\\ud83d\\ude00"}')
    assert read_json(path) == {"a": "\N{GRINNING FACE}"}
