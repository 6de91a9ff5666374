"""`python -m toolkit export`: read by the libraries it is meant for, and the same rows again, byte for byte."""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from tests.conftest import SmallSeed
from toolkit.__main__ import main
from toolkit.contamination.images import Match
from toolkit.contamination.search import Exam, Overlaps, write_table
from toolkit.dataset.rows import ImageRoots
from toolkit.export import formats
from toolkit.files import REPOSITORY, sha256_of

KINDS = ("parquet", "webdataset", "llava")


@pytest.fixture
def rows(small_seed: SmallSeed) -> Path:
    """Rows with all that formats may lose: spacing, key order, odd ids, copies, other keys, text alone, made images."""
    lines = [small_seed.row(number) for number in range(4)]
    lines.append(lines[1] | {"copy_index": 1})
    lines.append(
        {"text": "<image>\nein Schild „Straße“ \N{DOG FACE} <|__dj__eoc|>", "images": ["images/5.png"], "id": "a/b.c 7"}
    )
    lines.append({"id": 12, "text": "<__dj__image>\nmade <|__dj__eoc|>", "images": ["synthetic_images/a.png"]})
    lines.append({"id": "t", "text": "text alone <|__dj__eoc|>", "images": []})
    file = small_seed.write(*lines)
    file.write_bytes(file.read_bytes().replace(b'"id": 12,', b'"id" :  12,'))
    return file


def export(rows: Path, seed: SmallSeed, kind: str, out: Path, *more: str) -> int:
    return main(["export", str(rows), "--to", kind, "--images", str(seed.folder), "--out", str(out), *more])


@pytest.mark.parametrize("shard", [500 << 20, 100])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_and_images_come_back_byte_for_byte(
    rows: Path, small_seed: SmallSeed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, shard: int
) -> None:
    monkeypatch.setattr(formats, "SHARD_BYTES", shard)
    if kind == "llava":  # it has no question for a row without an image
        rows.write_bytes(b"".join(rows.read_bytes().splitlines(keepends=True)[:-1]))
    assert export(rows, small_seed, kind, tmp_path / "out") == 0
    if kind != "llava":
        files = [*(tmp_path / "out").rglob("train-*")]
        assert (len(files) > 1) == (shard == 100)
    assert main(["export", str(tmp_path / "out"), "--to", "rows", "--out", str(tmp_path / "back")]) == 0
    assert (tmp_path / "back" / "processed_data.jsonl").read_bytes() == rows.read_bytes()
    for number in (0, 5):
        name = f"images/{number}.png"
        assert (tmp_path / "back" / name).read_bytes() == (small_seed.folder / name).read_bytes()
    made = "synthetic_images/a.png"
    assert (tmp_path / "back" / made).read_bytes() == (rows.parent / made).read_bytes()


def test_hugging_face_datasets_load_the_parquet(
    rows: Path, small_seed: SmallSeed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(formats, "GROUP_ROWS", 3)
    assert export(rows, small_seed, "parquet", tmp_path / "out") == 0
    data = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert data.column_names == ["id", "caption", "image", "line"]
    assert data["id"] == ["s0", "s1", "s2", "s3", "s1", "a/b.c 7", "12", "t"]
    assert data[5]["caption"] == "ein Schild „Straße“ \N{DOG FACE}"
    assert [image.size if image else None for image in data["image"]] == [
        (20, 24), (21, 24), (22, 24), (23, 24), (21, 24), (25, 24), (24, 24), None
    ]  # fmt: skip


def test_webdataset_reads_the_shards(
    rows: Path, small_seed: SmallSeed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import webdataset

    monkeypatch.setattr(formats, "SHARD_BYTES", 100)
    assert export(rows, small_seed, "webdataset", tmp_path / "out") == 0
    shards = [str(path) for path in sorted((tmp_path / "out").glob("*.tar"))]
    samples = list(webdataset.WebDataset(shards, shardshuffle=False, nodesplitter=None).decode("pil"))
    assert [sample["__key__"] for sample in samples] == [f"{index:09d}" for index in range(8)]
    assert samples[3]["png"].size == (23, 24)
    assert samples[3]["txt"] == json.loads(rows.read_bytes().splitlines()[3])["text"].split("\n")[1].split(" <|")[0]
    assert samples[6]["json"]["id"] == 12
    assert "png" not in samples[7]


@pytest.fixture
def mixed(small_seed: SmallSeed) -> Path:
    """Rows whose images are JPEG and PNG files, one of them under an ending that no reader knows."""
    Image.new("RGB", (30, 20), "red").save(small_seed.folder / "images" / "a.JPG", "JPEG")
    Image.new("RGB", (31, 20), "red").save(small_seed.folder / "images" / "b.dat", "PNG")
    names = ("images/0.png", "images/a.JPG", "images/b.dat")
    return small_seed.write(*(small_seed.row(0, id=name, images=[name]) for name in names))


@pytest.mark.parametrize("kind", KINDS)
def test_hugging_face_datasets_load_every_format(mixed: Path, small_seed: SmallSeed, tmp_path: Path, kind: str) -> None:
    import datasets

    assert export(mixed, small_seed, kind, tmp_path / "out") == 0
    data = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(data) == 3
    if kind == "llava":
        assert [sample["image"] for sample in data] == ["images/0.png", "images/a.JPG", "images/b.dat"]
    else:
        name = "image" if kind == "parquet" else "jpg"
        assert [image.size for image in data[name]] == [(20, 24), (30, 20), (31, 20)]
    assert main(["export", str(tmp_path / "out"), "--to", "rows", "--out", str(tmp_path / "back")]) == 0
    assert (tmp_path / "back" / "processed_data.jsonl").read_bytes() == mixed.read_bytes()


def test_images_of_different_kinds_have_one_name_in_shards(mixed: Path, small_seed: SmallSeed, tmp_path: Path) -> None:
    import webdataset

    assert export(mixed, small_seed, "webdataset", tmp_path / "out") == 0
    shards = [str(tmp_path / "out" / "train-000000.tar")]
    samples = list(webdataset.WebDataset(shards, shardshuffle=False, nodesplitter=None).decode("pil"))
    assert [sample["jpg"].size for sample in samples] == [(20, 24), (30, 20), (31, 20)]
    assert "jpg (the image, whatever its format)" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("parquet --questions stage_1.json", "--questions: has an effect with --to llava alone, found --to parquet"),
        ("rows --licence mit", "--licence: has no effect with --to rows; leave it out"),
        ("rows --images images", "--images: has no effect with --to rows; leave it out"),
        ("parquet --contamination none", "none/overlaps.parquet: no such file; `python -m toolkit check"),
    ],
)
def test_options_without_an_effect_are_refused(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, message: str
) -> None:
    assert main(["export", str(rows), "--out", str(tmp_path / "out"), "--to", *words.split()]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_tar_shards_are_written_and_read_in_flat_memory(
    rows: Path, small_seed: SmallSeed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[int] = []
    for name in ("addfile", "extractfile"):
        method = getattr(tarfile.TarFile, name)

        def watched(self: tarfile.TarFile, *words: object, method=method):
            kept.append(len(vars(self)["members"]))
            return method(self, *words)

        monkeypatch.setattr(tarfile.TarFile, name, watched)
    assert export(rows, small_seed, "webdataset", tmp_path / "out") == 0
    assert main(["export", str(tmp_path / "out"), "--to", "rows", "--out", str(tmp_path / "back")]) == 0
    assert len(kept) > 40
    assert max(kept) < 3


def test_a_large_parquet_file_is_read_in_flat_memory(small_seed: SmallSeed, tmp_path: Path) -> None:
    random, names = np.random.default_rng(0), [f"images/{number}.bmp" for number in range(500)]
    for name in names:
        Image.fromarray(random.integers(0, 256, (80, 80, 3), dtype=np.uint8)).save(small_seed.folder / name)
    rows = small_seed.write(*(small_seed.row(0, id=name, images=[name]) for name in names))
    assert export(rows, small_seed, "parquet", tmp_path / "out") == 0
    size = sum(path.stat().st_size for path in (tmp_path / "out" / "data").iterdir())
    before, held = pa.total_allocated_bytes(), []
    for line, image in formats.read_parquet(tmp_path / "out"):
        assert line
        assert image
        held.append(pa.total_allocated_bytes() - before)
    assert len(held) == len(names)
    assert max(held) < size / 2


def test_a_folder_is_no_file_of_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(tmp_path), "--to", "parquet", "--out", str(tmp_path / "out")]) == 1
    assert "a folder; name a processed_data.jsonl, or read an export back with --to rows" in capsys.readouterr().err


def test_a_full_disk_is_one_line(
    rows: Path,
    small_seed: SmallSeed,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    room = "No space left on device; nothing is left of it; make room, or choose a folder on another disk"
    limit = "File too large; nothing is left of it; raise the limit of files' size (ulimit -f)"
    for number, said in ((errno.ENOSPC, room), (errno.EFBIG, limit)):

        def full(*_: object, number: int = number) -> None:
            raise OSError(number, f"[Errno {number}] Error writing bytes to file. Detail: [errno {number}]")

        with monkeypatch.context() as patch:
            patch.setitem(formats.WRITERS, "parquet", full)
            assert export(rows, small_seed, "parquet", tmp_path / "out") == 1
        assert capsys.readouterr().err.endswith(f"out: {said}\n")
    free = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    assert export(rows, small_seed, "parquet", tmp_path / "out") == 1
    assert "out: takes 0.0 GB, 0.0 GB are free; make room" in capsys.readouterr().err
    assert not list(tmp_path.glob("*out*"))


def test_images_are_where_the_recipe_had_them(rows: Path, small_seed: SmallSeed, tmp_path: Path) -> None:
    record = {"inputs": {"images": str(small_seed.folder)}, "outputs": {rows.name: sha256_of(rows)}}
    (rows.parent / "run.json").write_text(json.dumps(record))
    assert main(["export", str(rows), "--to", "parquet", "--out", str(tmp_path / "out")]) == 0


@pytest.mark.parametrize(
    ("name", "record_name", "trial"),
    [
        ("processed_data.jsonl", "run.json", {}),
        ("processed_data.trial.jsonl", "processed_data.trial.run.json", {"configuration": {"trial": True}}),
        ("np1.jsonl", "np1.run.json", {}),
        ("processed_data.jsonl", "run.json", {"audit": "../trial/audit/mine.parquet"}),  # under the recipe's work_dir
    ],
)
def test_the_recipe_is_found_whatever_the_result_is_called(
    rows: Path, small_seed: SmallSeed, tmp_path: Path, name: str, record_name: str, trial: dict[str, Any]
) -> None:
    file, recipe = rows.rename(rows.with_name(name)), tmp_path / "mine.yaml"
    recipe.write_text("process: [words_num_filter]\n")
    counts = dict.fromkeys(("dropped", "failed", "created", "rewritten"), 0)
    inputs = {"recipe": {"path": str(recipe), "sha256": sha256_of(recipe)}, "images": str(small_seed.folder)}
    record = {"inputs": inputs, "outputs": {name: sha256_of(file)}, "versions": {"python": "3"}} | trial
    record["steps"] = [{"name": "words_num_filter", "rows_in": 8} | counts]
    file.with_name(record_name).write_text(json.dumps(record))
    line = {"id": "s0", "image": "images/0.png", "state": "kept", "text_before": "a", "text_after": "a", "parent": None}
    default = f"../audit/mine{'.trial' if 'configuration' in trial else ''}.parquet"
    audit = Path(os.path.normpath(rows.parent / trial.get("audit", default)))
    audit.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([line | {"image_state": "seed"}]), audit)
    assert main(["export", str(file), "--to", "parquet", "--out", str(tmp_path / "out")]) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Not known" not in card
    assert "| words_num_filter | 8 | 8 |" in card
    assert "process: [words_num_filter]" in card
    assert str(tmp_path) not in card


def test_the_card_says_what_the_evaluation_sets_share(
    rows: Path, small_seed: SmallSeed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    roots = ImageRoots(seed=small_seed.folder, processed=rows.parent)
    images: list[Path | bytes] = [small_seed.folder / "images" / "1.png"]
    found = tmp_path / "found" / "overlaps.parquet"
    pairs = {"images/1.png": Match(0, 1.0, False)}
    write_table(Overlaps(pairs=pairs), roots, rows, Exam(images, ["TextVQA q"], {}), found)
    more = ("--contamination", str(found.parent))
    assert export(rows, small_seed, "parquet", tmp_path / "out", *more) == 0
    said = "Compared with 1 images and the texts of TextVQA and MMBench: 2 rows show a copy of an image, 0 repeat words"
    assert said in (tmp_path / "out" / "README.md").read_text()
    rows.write_bytes(rows.read_bytes().splitlines(keepends=True)[0])
    assert export(rows, small_seed, "parquet", tmp_path / "other", *more) == 1
    assert "is of other rows than" in capsys.readouterr().err


def contents(folder: Path) -> dict[Path, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "export.json"]
    return {path.relative_to(folder): path.read_bytes() for path in files}


def test_equal_rows_give_equal_bytes(rows: Path, small_seed: SmallSeed, tmp_path: Path) -> None:
    for kind in KINDS[:2]:
        for name in ("one", "two"):
            assert export(rows, small_seed, kind, tmp_path / f"{kind}-{name}", "--name", "same") == 0
        one, two = (contents(tmp_path / f"{kind}-{name}") for name in ("one", "two"))
        assert one == two


def test_the_card_says_what_is_known(rows: Path, small_seed: SmallSeed, tmp_path: Path) -> None:
    more = ("--licence", "cc-by-4.0", "--source-of-data", 'pairs of "X": <b>', "--name", "dogs: & cats")
    assert export(rows, small_seed, "parquet", tmp_path / "out", *more) == 0
    text = (tmp_path / "out" / "README.md").read_text()
    head = yaml.safe_load(text.split("---\n")[1])
    assert (head["license"], head["pretty_name"], head["size_categories"]) == ("cc-by-4.0", "dogs: & cats", ["n<1K"])
    assert "8 rows with 6 different images" in text
    assert "Not known: no record of a recipe lies beside the file." in text


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda rows, seed: (seed / "images/2.png").unlink(), "processed_data.jsonl:3: missing_image"),
        (lambda rows, seed: (seed / "images/2.png").write_bytes(b"none"), "images/2.png: unreadable_image"),
        (lambda rows, seed: rows.write_bytes(rows.read_bytes() + b"{}\n"), "processed_data.jsonl:9: missing_id"),
        (lambda rows, seed: rows.write_bytes(b"\n"), "no row to export"),
        (lambda rows, seed: rows.unlink(), "no such file"),
    ],
)
def test_a_fault_is_named_and_nothing_is_written(
    rows: Path, small_seed: SmallSeed, tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil, message: str
) -> None:
    spoil(rows, small_seed.folder)
    before = sorted(tmp_path.iterdir())
    assert export(rows, small_seed, "parquet", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_an_advised_command_can_be_typed_as_it_stands(
    rows: Path, small_seed: SmallSeed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = rows.rename(rows.with_name("da ta.jsonl"))
    broken.write_bytes(broken.read_bytes() + b"{}\n")
    assert export(broken, small_seed, "parquet", tmp_path / "out") == 1
    found = tmp_path / "the exams"
    assert export(broken, small_seed, "parquet", tmp_path / "out", "--contamination", str(found)) == 1
    advised = [shlex.split(text) for text in capsys.readouterr().err.split("`")[1::2]]
    assert advised == [
        ["python", "-m", "toolkit", "check", str(broken), "--images", *images]
        for images in ([str(small_seed.folder)], ["DIR", "--contamination", str(found)])
    ]


def test_what_is_there_is_kept(
    rows: Path, small_seed: SmallSeed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert export(rows, small_seed, "webdataset", out) == 0
    assert export(rows, small_seed, "webdataset", out) == 0
    assert "already exported from the same rows and images" in capsys.readouterr().out
    assert export(rows, small_seed, "parquet", out) == 1
    assert "holds something else, or an export of other rows, images or options" in capsys.readouterr().err
    (out / "train-000000.tar").write_bytes(b"cut")
    assert main(["export", str(out), "--to", "rows", "--out", str(tmp_path / "back")]) == 1
    assert (
        "train-000000.tar: changed since it was exported; remove the folder and export again" in capsys.readouterr().err
    )
    assert not (tmp_path / "back").exists()
    assert main(["export", str(small_seed.folder), "--to", "rows", "--out", str(tmp_path / "back")]) == 1
    assert "no export of this kit" in capsys.readouterr().err


def test_an_export_is_not_taken_for_another(
    rows: Path, small_seed: SmallSeed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other words for the card, a changed image, a lost file; the card itself may be edited."""
    out = tmp_path / "out"
    assert export(rows, small_seed, "parquet", out) == 0
    assert str(tmp_path) not in (out / "export.json").read_text(), "an export tells nothing of the machine"
    (out / "README.md").write_text("Mine.")
    assert export(rows, small_seed, "parquet", out) == 0
    assert main(["export", str(out), "--to", "rows", "--out", str(tmp_path / "back")]) == 0
    assert export(rows, small_seed, "parquet", out, "--licence", "mit") == 1
    photograph = small_seed.folder / "images" / "1.png"
    before = photograph.read_bytes()
    photograph.write_bytes((small_seed.folder / "images" / "2.png").read_bytes())
    assert export(rows, small_seed, "parquet", out) == 1
    photograph.write_bytes(before)
    assert export(rows, small_seed, "parquet", out) == 0
    next(out.glob("data/*")).unlink()
    assert export(rows, small_seed, "parquet", out) == 1
    assert capsys.readouterr().err.count("or a damaged one; remove it, or choose another folder") == 3


@pytest.mark.parametrize("kind", KINDS)
def test_absolute_paths_become_relative(small_seed: SmallSeed, tmp_path: Path, kind: str) -> None:
    row = small_seed.row(1)
    file = small_seed.write(row | {"images": [str(small_seed.folder / "images" / "1.png")]})
    assert export(file, small_seed, kind, tmp_path / "out") == 0
    assert main(["export", str(tmp_path / "out"), "--to", "rows", "--out", str(tmp_path / "back")]) == 0
    assert json.loads((tmp_path / "back" / "processed_data.jsonl").read_text()) == row


def test_what_a_format_cannot_hold_is_one_line(
    small_seed: SmallSeed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = small_seed.write({"id": "t", "text": "text alone <|__dj__eoc|>"})
    assert export(file, small_seed, "llava", tmp_path / "out") == 1
    assert "no_question" in (error := capsys.readouterr().err)
    assert error.endswith("give the seed's questions (--questions), or export to parquet\n")
    assert export(file, small_seed, "parquet", tmp_path / "out", "--name", "a\nb") == 1
    assert capsys.readouterr().err == "error: --name: expected one line, found 'a\\nb'\n"


@pytest.mark.slow
def test_a_killed_export_is_none_and_the_next_is_whole(rows: Path, small_seed: SmallSeed, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "toolkit", "export", str(rows), "--to", "webdataset", "--out", str(tmp_path / "out")]
    words += ["--images", str(small_seed.folder)]
    process = subprocess.Popen(words, cwd=REPOSITORY)
    while process.poll() is None and not list(tmp_path.glob(".out.unfinished/*")):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out").exists() or (tmp_path / "out" / "export.json").is_file()
    assert subprocess.run(words, cwd=REPOSITORY).returncode == 0
    assert (tmp_path / "out" / "export.json").is_file()
    assert not list(tmp_path.glob(".*"))
