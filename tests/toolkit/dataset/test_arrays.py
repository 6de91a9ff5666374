"""toolkit/dataset/arrays.py: long JSON arrays of objects, in small pieces."""

from __future__ import annotations

import json
import random
import tracemalloc

import pytest

from toolkit.dataset import arrays
from toolkit.dataset.arrays import read_array
from toolkit.errors import UserError

ENTRIES = [{}, {"x": [1, {"y": "]"}]}, {'a"]b,é ': -1.5e10}, {"b": None, "c": "\\"}, {"long": "word " * 50}]


@pytest.mark.parametrize("block", [1, 3, 7, 64, 1 << 20])
def test_any_block_size_gives_the_same_entries(block, tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "BLOCK", block)
    draw = random.Random(block)
    for _ in range(40):
        entries = draw.choices(ENTRIES, k=draw.randint(0, 6))
        text = json.dumps(entries, indent=draw.choice([None, 2]), ensure_ascii=draw.random() < 0.5)
        (tmp_path / "a.json").write_text(text, encoding=draw.choice(["utf-8", "utf-8-sig"]))
        assert list(read_array(tmp_path / "a.json")) == list(enumerate(entries))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a JSON array, found 'nothing'"),
        ("{}", "expected a JSON array, found '{'"),
        ("[", "entry 0: expected an object, found 'the end'"),
        ("[{}", "after entry 0, found the end"),
        ("[{},]", "entry 1: expected an object"),
        ("[{} {}]", "expected ',' or ']' after entry 0"),
        ("[{}] x", "'x' after the end"),
        ("[{}, 3]", "entry 1: expected an object, found '3'"),
        ('[{"a": 1}, {"a"', "entry 1 is not JSON, or cut short"),
        ('[{"a": nope}]', "entry 0 is not JSON"),
    ],
)
def test_broken_arrays_are_refused_where_they_break(text, message, tmp_path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError) as error:
        list(read_array(tmp_path / "a.json"))
    assert str(error.value).startswith(f"{tmp_path / 'a.json'}: ")
    assert message in str(error.value)


def test_other_encodings_are_named(tmp_path):
    (tmp_path / "a.json").write_bytes(b'[{"a": "\xff"}]')
    with pytest.raises(UserError, match="not UTF-8"):
        list(read_array(tmp_path / "a.json"))


def test_memory_does_not_grow_with_the_file(tmp_path):
    entry = json.dumps({"id": "0" * 9, "text": "word " * 40})
    (tmp_path / "a.json").write_text("[" + ",".join([entry] * 40_000) + "]")
    tracemalloc.start()
    assert sum(1 for _ in read_array(tmp_path / "a.json")) == 40_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < (tmp_path / "a.json").stat().st_size
