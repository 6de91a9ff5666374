"""Both sides, which never import each other, accept the same rows: the table of `cases.py` for every reader."""

from __future__ import annotations

import io
import json
import os
import random
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import ImageFile

from solution.operators.common import images as solution_images
from solution.operators.common.score_store import image_digest
from solution.runner.audit import Ledger
from solution.runner.configuration.dataset_files import DataSet
from solution.runner.errors import UserError
from solution.runner.record import record_of
from solution.runner.seed import Folders, write_rows
from solution.runner.seed import read_rows as read_seed
from solution.runner.tables import open_rows, write_tables
from tests.contract.cases import CASES, FURTHER, NOT_READ, TEXT, Case
from tests.contract.world import World, noise, sample_of
from toolkit.__main__ import main as toolkit
from toolkit.dataset import images as toolkit_images
from toolkit.dataset import provenance
from toolkit.dataset.arrays import read_array
from toolkit.dataset.fixes import FIXES
from toolkit.dataset.images import inspect_images
from toolkit.dataset.training_file import read_samples
from toolkit.errors import RowFault
from toolkit.errors import UserError as ToolkitError
from toolkit.files import REPOSITORY

READERS = ("convert", "process", "check", "prepare", "train")


@pytest.fixture(scope="module")
def ghostscript(tmp_path_factory) -> Path:
    """A `gs` on the search path that leaves this file when it is run."""
    folder = tmp_path_factory.mktemp("bin")
    (folder / "gs").write_text(f"#!/bin/sh\ntouch {folder}/ran\nexit 1\n")
    (folder / "gs").chmod(0o755)
    usual = os.environ["PATH"]
    os.environ["PATH"] = f"{folder}:{usual}"
    yield folder / "ran"
    os.environ["PATH"] = usual


@pytest.fixture(scope="module")
def world(tmp_path_factory, ghostscript) -> World:
    return World(tmp_path_factory.mktemp("world")).build()


@pytest.fixture(scope="module")
def verdicts(world) -> dict[str, dict[str, str]]:
    """reader -> case -> what the reader said of it, of one run over all cases."""
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # Data-Juicer's import sets it, which the toolkit's commands never see
    content = b"".join(case.line() + b"\n" for case in CASES)
    found = {reader: getattr(world, reader)(content) for reader in ("convert", "check", "prepare")}
    found["process"], _ = world.process(content)
    named = {reader: {CASES[line - 1].name: said for line, said in lines.items()} for reader, lines in found.items()}
    trained = [case for case in CASES if case.train is not NOT_READ]
    lines = world.train([sample_of(case.content()) for case in trained])
    return named | {"train": {trained[line - 1].name: said for line, said in lines.items()}}


def test_the_table_is_large_and_its_names_are_unique():
    assert len(CASES) >= 110
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize(
    ("case", "reader"),
    [
        pytest.param(case, reader, id=f"{case.name}-{reader}")
        for case in CASES
        for reader in READERS
        if getattr(case, reader) is not NOT_READ
    ],
)
def test_verdict(case: Case, reader: str, verdicts):
    expected, said = getattr(case, reader), verdicts[reader].get(case.name, "")
    if reader == "process" and expected:
        assert expected in said
    else:
        assert said == expected


def test_no_file_starts_a_program(verdicts, ghostscript):
    assert not ghostscript.exists()


def test_the_toolkits_verdicts_have_advice():
    verdicts = {getattr(case, reader) for case in CASES for reader in ("check", "prepare", "convert")}
    assert verdicts - {""} <= set(FIXES)


def test_both_sides_open_images_alike():
    for name in ("IMAGE_FORMATS", "AUX_SIDE", "MAX_CANVAS_PIXELS"):
        assert getattr(solution_images, name) == getattr(toolkit_images, name)
    for size in ((1, 1), (3000, 2), (1, 606), (1, 607), (18_918, 18_918), (18_919, 300)):
        assert solution_images.canvas_pixels(*size) == toolkit_images.canvas_pixels(*size)


FORMATS = {
    "JPEG": {}, "progressive": {"format": "JPEG", "progressive": True}, "PNG": {}, "GIF": {}, "WEBP": {},
    "lossless": {"format": "WEBP", "lossless": True}, "BMP": {}, "TIFF": {},
    "LZW": {"format": "TIFF", "compression": "tiff_lzw"},
    "PPM": {}, "JPEG2000": {}, "AVIF": {}, "DDS": {}, "ICO": {}, "TGA": {}, "PCX": {}, "SGI": {}, "EPS": {}, "PDF": {},
}  # fmt: skip


# Files of each format; docs/reliability.md has the figures of more.
MUTATED = int(os.environ.get("FAULTS_MUTATED", "25"))


@pytest.mark.parametrize("name", FORMATS)
def test_mutated_images_are_faults_of_the_image_on_both_sides(name, tmp_path):
    """Nothing else than the two sides' own faults leaves their decoders, and both accept the same files."""
    plain, generator = io.BytesIO(), random.Random(name)
    noise(5, (20, 16)).save(plain, **{"format": name} | FORMATS[name])
    verdicts = set()
    for number in range(MUTATED):
        content = bytearray(plain.getvalue())
        if number % 5 == 0:
            del content[generator.randrange(len(content)) :]
        for _ in range(number % 4):
            position = generator.randrange(min(len(content) or 1, 400))
            content[position : position + 1] = bytes([generator.choice((0, 127, 255, generator.randrange(256)))])
        path = tmp_path / f"{number}.jpg"
        path.write_bytes(content)
        try:
            with toolkit_images.opened(path) as image:
                image.convert("RGB")
            verdicts.add("fine")
            solution_images.open_image(path)
        except RowFault:
            verdicts.add("fault")
            with pytest.raises(solution_images.ImageError):
                solution_images.open_image(path)
    assert "fault" in verdicts


@pytest.mark.parametrize("error", [RuntimeError("codec"), KeyError("tag"), struct.error("short"), TypeError("none")])
def test_any_error_of_a_decoder_is_the_images_fault(error, tmp_path, monkeypatch):
    """RuntimeError left AVIF's decoder, which ended a run in a trace."""
    noise(5).save(tmp_path / "image.png")

    def fail(self):
        raise error

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    assert inspect_images([tmp_path / "image.png"], tmp_path)[tmp_path / "image.png"].reason == "unreadable_image"
    with pytest.raises(solution_images.ImageError):
        solution_images.open_image(tmp_path / "image.png")


def is_equal(one: Any, other: Any) -> bool:
    """Equality as JSON tells it: 1, 1.0 and true differ, and NaN equals itself."""
    return json.dumps(one) == json.dumps(other)


def test_further_keys_come_out_of_a_recipe_as_they_went_in(world):
    """Of copies too, which count themselves."""
    fill = {"cap": 2 * len(FURTHER), "score_key": "text_len", "max_copies": 2}
    content = b"".join(case.line() + b"\n" for case in FURTHER)
    failed, rows = world.process(content, {"fill_to_cap_selector": fill})
    assert (failed, len(rows)) == ({}, 2 * len(FURTHER))
    expected = {case.name: case.content() for case in FURTHER}
    for number, row in enumerate(rows):
        before = expected[row["id"]]
        if number >= len(FURTHER):
            assert row["copy_index"] == 2  # one row had been a copy before
            row = row | {"copy_index": before.get("copy_index")}
        assert row.keys() - {"copy_index"} == before.keys() - {"copy_index"}
        assert all(is_equal(row[key], before[key]) for key in before), row["id"]


def seed_tables(world: World, content: bytes) -> tuple[list[dict[str, Any]], dict[int, str]]:
    """The columns that operators see of a file, and the failed lines."""
    seed, ledger = world.write(content, world.seed), Ledger("skip")
    folders = Folders(world.seed, world.seed, world.folder / "output", world.folder / "unfinished")
    tables = list(read_seed(DataSet((seed,)), folders, ledger))
    write_tables(world.folder / "rows.arrow", tables)
    rows = [row for table in tables for row in table.to_pylist()]
    return rows, {failure["row"]: failure["reason"] for failure in ledger.failures()}


def test_operators_see_the_further_keys_of_one_type(world):
    rows, _ = seed_tables(world, b"".join(case.line() + b"\n" for case in FURTHER))
    seen = {key for key in rows[0] if not key.startswith("__")} - {"id", "text", "images"}
    assert {"source", "score", "tags", "info", "float", "flag", "a.b"} <= seen
    assert not seen & {"mixed", "large", "small", "meta", "caption_index", "null"}
    assert [row["score"] for row in rows[:4]] == [1.0, 0.5, None, -0.0]
    assert rows[0]["info"] == {"by": "hand", "n": 1.0, "other": None}


def test_what_an_operator_writes_to_a_further_key_goes_out(world):
    """And what it does not touch stays as it was, whole numbers among fractions too."""
    rows = [{"id": str(n), "text": TEXT, "images": ["images/good.png"], "n": n, "word": "a"} for n in range(3)]
    rows[1]["n"] = 0.5
    seed, ledger = world.write("".join(json.dumps(row) + "\n" for row in rows).encode(), world.seed), Ledger("skip")
    folders = Folders(world.seed, world.seed, world.folder / "output", world.folder / "unfinished")
    write_tables(world.folder / "rows.arrow", read_seed(DataSet((seed,)), folders, ledger))
    changed = open_rows(world.folder / "rows.arrow").map(lambda row: {"word": row["word"] * int(row["n"] + 1)})
    write_rows(world.folder / "result.jsonl", changed, folders, ledger)
    found = [json.loads(line) for line in (world.folder / "result.jsonl").read_text().splitlines()]
    assert [row["word"] for row in found] == ["a", "a", "aaa"]
    assert [json.dumps(row["n"]) for row in found] == ["0", "0.5", "2"]


GOOD, OTHER = (
    json.dumps({"id": "1", "text": TEXT, "images": [f"images/{name}.png"]}).encode() for name in ("good", "other")
)
NUMBER = GOOD.replace(b'"1"', b"1")
MARK = b"\xef\xbb\xbf"


@pytest.mark.parametrize(
    ("content", "lines", "process", "check"),
    [
        pytest.param(MARK + GOOD + b"\n", 1, {}, {}, id="a byte order mark"),
        pytest.param(GOOD + b"\n" + MARK + GOOD + b"\n" + MARK, 2, {}, {}, id="two files in one"),
        pytest.param(GOOD + b"\r\n" + GOOD + b"\r\n", 2, {}, {}, id="CRLF"),
        pytest.param(GOOD + b"\r" + GOOD, 1, {1: "not valid JSON"}, {1: "not_json"}, id="CR alone"),
        pytest.param(GOOD + b"\n" + GOOD, 2, {}, {}, id="no newline at the end"),
        pytest.param(b"\n\n" + GOOD + b"\n \t\r\n{\n" + GOOD, 3, {5: "not valid"}, {5: "not_json"}, id="blank lines"),
        pytest.param("\u00a0\n".encode() + GOOD, 2, {1: "not valid"}, {1: "not_json"}, id="a blank that is none"),
        pytest.param(GOOD.replace(b"A ", "A\u2028\u0085".encode()), 1, {}, {}, id="other line separators"),
        pytest.param(GOOD + b"\n" + NUMBER + b"\n" + GOOD, 3, {}, {}, id="a number and its text are one id"),
        pytest.param(
            GOOD + b"\n" + OTHER, 2, {2: "another image"}, {2: "two_images_of_one_id"}, id="two images of one id"
        ),
        pytest.param(
            NUMBER + b"\n" + OTHER, 2, {2: "another image"}, {2: "two_images_of_one_id"}, id="two images of one number"
        ),
        pytest.param(
            GOOD + b"\n" + GOOD.replace(b"images/good.png", b"./synthetic_images/made.png"), 2, {}, {},
            id="a synthetic image of the id",
        ),
        pytest.param(
            GOOD + b"\n" + GOOD.replace(b"images/good", b"images//./good"), 2, {}, {}, id="two spellings of one image"
        ),
    ],
)  # fmt: skip
def test_lines_of_a_file(content, lines, process, check, world):
    rows, failed = {}, {}
    if lines > len(process):
        rows, failed = seed_tables(world, content)
    else:
        with pytest.raises(UserError, match=next(iter(process.values()))):
            seed_tables(world, content)
        failed = process
    assert failed.keys() == process.keys()
    assert all(said in failed[number] for number, said in process.items())
    assert len(rows) == lines - len(process)
    assert world.check(content) == check


def test_absolute_paths_inside_the_image_folders_are_read(world, tmp_path):
    """As Data-Juicer's own commands write them; one outside is refused as before."""

    def lines(synthetic: Path, *further: Path) -> bytes:
        paths = [world.seed / "images" / "good.png", world.seed / "images" / "." / "UPPER.PNG", synthetic, *further]
        rows = [{"id": f"image-{n}", "text": TEXT, "images": [str(path)]} for n, path in enumerate(paths, start=1)]
        return "".join(json.dumps(row) + "\n" for row in rows).encode()

    outside = world.folder / "elsewhere" / "good.png"
    content = lines(world.folder / "processed" / "synthetic_images" / "made.png", outside)
    refused = {4: "bad_image_path"}
    assert (world.prepare(content), world.check(content)) == (refused, refused | {3: "synthetic_image_of_unknown_id"})
    samples = json.loads((world.folder / "out.json").read_text())
    found = [sample["image"] for sample in samples]
    assert found == ["images/good.png", "images/UPPER.PNG", "synthetic_images/made.png"]
    assert world.convert(content) == {1: "bad_image_path", 2: "bad_image_path", **refused}
    file, out = world.folder / "processed" / "processed_data.jsonl", tmp_path / "out.json"
    file.write_bytes(content.rsplit(b"\n", 2)[0])
    assert toolkit(["convert", "dj-to-llava", str(file), "--images", str(world.seed), "--out", str(out)]) == 0
    assert [sample["image"] for sample in json.loads(out.read_text())] == found
    assert world.train([sample_of(json.loads(line)) for line in content.splitlines()]) == refused
    failed, rows = world.process(lines(world.seed / "synthetic_images" / "made.png", outside))
    assert "must be relative and without .." in failed.pop(4)
    assert (failed, [row["images"][0] for row in rows]) == ({}, found)


@pytest.fixture(params=["folder", "pipe", "device"])
def no_file(request, tmp_path) -> Path:
    """A path of rows that is no regular file."""
    path = tmp_path / "rows.jsonl"
    if request.param == "folder":
        path.mkdir()
    elif request.param == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    return path


def test_rows_that_are_no_regular_file_are_refused_by_name(no_file, world, tmp_path, capsys):
    arguments = ["--images", str(world.seed), "--preset", str(world.preset)]
    out = ["--out", str(tmp_path / "out.json")]
    for words in (
        ["check", str(no_file), *arguments],
        ["prepare", str(no_file), *arguments, *out],
        ["convert", "dj-to-llava", str(no_file), *out],
        ["convert", "llava-to-dj", str(no_file), *out],
    ):
        assert toolkit(words) == 1
        assert f"{no_file}: no regular file" in capsys.readouterr().err
    with pytest.raises(ToolkitError, match="no regular file"):
        read_samples(no_file)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("process: [text_length_filter: {}]")
    command = [sys.executable, str(REPOSITORY / "solution" / "process.py"), "--recipe", str(recipe)]
    done = subprocess.run([*command, "--dataset", str(no_file)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    words = f"folder {no_file} has no" if no_file.is_dir() else f"{no_file} is no regular file"
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ["check", "{rows}", "--images", "{images}", "--preset", "mini"],
        ["prepare", "{rows}", "--images", "{images}", "--preset", "mini", "--out", "{out}.json"],
        ["convert", "dj-to-llava", "{rows}", "--out", "{out}.json"],
        ["convert", "llava-to-dj", "{samples}", "--out", "{out}.jsonl"],
        ["export", "{rows}", "--images", "{images}", "--to", "parquet", "--out", "{out}"],
        ["judge", "{rows}", "--images", "{images}", "--preset", "mini", "--out", "{out}.parquet"],
        ["train", "pretrain", "--data", "{samples}", "--images", "{images}", "--preset", "mini", "--out", "{out}",
         "--batch", "2", "--accumulation", "1"],
    ],
    ids=lambda words: " ".join(words[:2]),
)  # fmt: skip
def test_no_id_and_no_name_writes_to_the_terminal(words, tmp_path, capsys):
    """Nor does it begin a line that looks like one of the kit's."""
    hostile = "a\x1b[2J\u202e\nerror: all is well"
    rows = [
        {"id": hostile, "text": "<image>\na dog", "images": [f"images/{hostile}.png"]},
        {"id": hostile, "text": hostile, "images": 3},
    ]
    said = [{"from": "human", "value": "<image>\nwhy?"}, {"from": f"gpt{hostile}", "value": "a dog"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "samples.json").write_text(json.dumps([{"id": hostile, "image": hostile, "conversations": said}]))
    names = {"rows": tmp_path / "rows.jsonl", "samples": tmp_path / "samples.json"}
    names |= {"images": tmp_path, "out": tmp_path / "out"}
    assert toolkit([word.format(**names) for word in words]) == 1
    captured = capsys.readouterr()
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", captured.out + captured.err)
    assert "\nerror: all is well" not in captured.out + captured.err
    assert captured.err.startswith("error: ")


@pytest.mark.parametrize("name", ["pipe.png", "socket.png", "link_device.png"])
def test_scores_open_no_pipe_either(name, world):
    with pytest.raises(solution_images.ImageError, match="no regular file"):
        image_digest(str(world.seed / "images" / name))


def test_half_a_character_is_no_training_text(world):
    sample = sample_of({"id": "1", "text": "half a character \ud83d"})
    assert world.train([sample]) == {1: "malformed_row"}


def test_documents_with_a_mark_are_read_and_nested_ones_refused(tmp_path):
    file = tmp_path / "samples.json"
    file.write_bytes(MARK + b'[{"id": "1"}]')
    assert read_samples(file) == [{"id": "1"}]
    for content in (b"[" * 100_000, b'[{"a": ' + b"[" * 100_000):
        file.write_bytes(content)
        with pytest.raises(ToolkitError, match="not a JSON document"):
            read_samples(file)
        with pytest.raises(ToolkitError, match=r"expected an object|nested too deeply"):
            list(read_array(file))


@pytest.mark.parametrize("name", ["processed_data.jsonl", "processed_data.trial.jsonl", "np1.jsonl", "a.b.jsonl"])
def test_the_record_of_a_result_has_one_name(name: str) -> None:
    assert provenance.record_of(Path("x", name)) == record_of(Path("x", name))
