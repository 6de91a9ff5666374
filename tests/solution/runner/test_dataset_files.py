"""Files of a data set in every format give the same rows; what is not read is named as what it is."""

import gzip
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from solution.runner.configuration import dataset_files
from solution.runner.configuration.dataset_files import DataSet, files_in, numbering, rows_of
from solution.runner.errors import UserError
from solution.runner.seed import Folders, _parsed

ROWS = [
    {"id": f"{number}", "text": f"<image>\na dög, no. {number}", "images": [f"{number}.jpg"]} for number in range(9)
]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
ARRAY = json.dumps(ROWS, indent=1).encode()


def zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


def parsed(file) -> list[dict]:
    return [json.loads(row) if isinstance(row, bytes) else row for _, row in rows_of(file)]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", LINES), ("a.jsonl.gz", gzip.compress(LINES)), ("a.jsonl.zst", zstd(LINES)),
        ("gz_without_the_ending.jsonl", gzip.compress(LINES)), ("a.json", ARRAY), ("a.json.gz", gzip.compress(ARRAY)),
        ("an_array.jsonl", ARRAY), ("lines.json", LINES), ("a.json.zst", zstd(ARRAY)),
        ("with_a_mark.json", b"\xef\xbb\xbf" + ARRAY),
        ("two_members.jsonl.gz", gzip.compress(LINES[:9]) + gzip.compress(LINES[9:])),
    ],
)  # fmt: skip
def test_formats_give_the_same_rows(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    assert parsed(tmp_path / name) == ROWS


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a b.jsonl", LINES), ("a.jsonl.gz", gzip.compress(LINES)), ("zipped.jsonl", gzip.compress(LINES)),
        ("a.json", ARRAY), ("an_array.jsonl", ARRAY), ("a.parquet", b""),
        ("a.jsonl.zst", zstd(LINES)), ("a.json.gz", gzip.compress(ARRAY)),
    ],
)  # fmt: skip
def test_the_command_that_numbers_rows_without_id_does_so(name, content, tmp_path):
    bare = [{key: value for key, value in row.items() if key != "id"} for row in ROWS]
    file = tmp_path / name
    drop = re.compile(rb'"id": "\d",\s*')
    is_zipped = content[:2] == b"\x1f\x8b"
    if name == "a.parquet":
        pq.write_table(pa.Table.from_pylist(bare), file)
    elif is_zipped:
        file.write_bytes(gzip.compress(drop.sub(b"", gzip.decompress(content))))
    else:
        file.write_bytes(zstd(drop.sub(b"", LINES)) if name.endswith("zst") else drop.sub(b"", content))
    assert parsed(file) == bare
    command = numbering(next(iter(DataSet((file,)))))
    if name in ("a.jsonl.zst", "a.json.gz"):
        assert command == ""
        return
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(["bash", "-c", command], check=True, env=os.environ | {"PATH": path})
    (new,) = set(tmp_path.iterdir()) - {file}
    assert parsed(new) == [{"id": number} | row for number, row in enumerate(bare, 1)]


def test_rows_of_an_array_that_have_an_id_keep_it(tmp_path):
    rows = [{"text": "a"}, {"id": 0, "text": "b"}, {"id": None, "text": "c"}]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    command = numbering(next(iter(DataSet((tmp_path / "a.json",)))))
    subprocess.run(["bash", "-c", command], check=True)
    assert [row["id"] for row in parsed(tmp_path / "a.numbered.json")] == [1, 0, 3]


def test_parquet_gives_the_same_rows(tmp_path):
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    assert parsed(tmp_path / "a.parquet") == ROWS


@pytest.mark.parametrize("block", [2, 7, 64])
def test_an_array_is_read_in_blocks_of_any_size(block, tmp_path, monkeypatch):
    monkeypatch.setattr(dataset_files, "_BLOCK", block)
    (tmp_path / "a.json").write_bytes(ARRAY)
    assert [
        row for _, row in dataset_files._json_rows(tmp_path / "a.json", io.BufferedReader(io.BytesIO(ARRAY)))
    ] == ROWS


def test_a_list_as_a_row_of_json_lines_stays_a_row(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'[{"id": 1}]\n' + LINES)
    assert len(parsed(tmp_path / "a.jsonl")) == 10


def tar(content: bytes) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        entry = tarfile.TarInfo("a.jsonl")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return sink.getvalue()


def zipped(content: bytes) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("a.jsonl", content)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (LINES.decode().encode("utf-16"), "is UTF-16 text"),
        (zipped(LINES), "is a zip archive"),
        (tar(LINES), "is a tar archive"),
        (gzip.compress(tar(LINES)), "is a compressed tar archive"),
        (b"\n<!DOCTYPE HTML><html>404</html>", "is an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a pointer of Git LFS"),
        (gzip.compress(LINES)[:-20], "is damaged or cut off"),
        (zstd(LINES)[:-20], "is damaged or cut off"),
        (b"PAR1 no table", "is damaged or cut off"),
        (ARRAY[:-20], "item 9 of its array: not valid JSON"),
        (b'[{"id": 1} {"id": 2}]', "after item 1 of its array: expected , or ]"),
        (b'[{"id": ' + b"[" * 100_000, "item 1 of its array: "),
        (b'[{"id": 1}, {"id": "\xff"}]', "not UTF-8"),
    ],
)
def test_what_is_not_read_is_named(content, words, tmp_path):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=words) as caught:
        list(rows_of(tmp_path / "a.json"))
    assert "a.json" in str(caught.value)
    assert len(str(caught.value)) < 400


def test_files_of_a_folder(tmp_path):
    for name in ("b.jsonl", "a.jsonl.gz", "c.parquet", "run.json", "x.txt", ".hidden.jsonl"):
        (tmp_path / name).write_bytes(b"")
    assert [file.name for file in files_in(tmp_path, [])] == ["a.jsonl.gz", "b.jsonl", "c.parquet"]
    assert [file.name for file in files_in(tmp_path, ["jsonl", ".jsonl.gz"])] == ["a.jsonl.gz", "b.jsonl"]


def test_several_files_are_numbered_through_and_share_a_root(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jsonl").write_bytes(LINES)
    data = DataSet((tmp_path / "one" / "a.jsonl", tmp_path / "two" / "a.jsonl"), tmp_path)
    sources = list(data)
    assert [source.number for source in sources] == list(range(1, 19))
    assert data.prefix(sources[9].file) == "two/"
    assert data.place(sources[9]) == "a.jsonl line 1: "


@pytest.mark.parametrize(("ratio", "limit", "taken"), [(1.0, 2, [1, 2]), (0.25, None, [4, 8]), (0.5, 3, [2, 4, 6])])
def test_a_trial_takes_some_rows(ratio, limit, taken, tmp_path):
    (tmp_path / "a.jsonl").write_bytes(LINES)
    data = DataSet((tmp_path / "a.jsonl",), None, ratio=ratio, limit=limit)
    assert data.is_trial
    assert [source.number for source in data] == taken


def test_the_recipes_names_of_text_and_images(tmp_path):
    data = DataSet((), None, text_key="caption", image_key="image")
    assert data.renamed({"id": 1, "caption": "a", "image": []}) == {"id": 1, "text": "a", "images": []}
    with pytest.raises(ValueError, match="has both 'caption' and 'text'"):
        data.renamed({"caption": "a", "text": "b"})


def test_a_seed_in_llavas_format_is_told_the_command(tmp_path):
    turns = [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "a dog"}]
    file = tmp_path / "a b.json"
    file.write_text(json.dumps([{"id": "1", "image": "1.jpg", "conversations": turns}]))
    source = next(iter(DataSet((file,))))
    with pytest.raises(ValueError, match=f"`python -m toolkit convert llava-to-dj '{file}' --out SEED.jsonl` makes a"):
        _parsed(source, DataSet((file,)), Folders(tmp_path, tmp_path, tmp_path, tmp_path))
