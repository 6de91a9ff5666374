"""Images are decoded once, while the seed is read: every operator then has the values it would have measured itself."""

import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from solution.operators.common import images, measures
from solution.operators.common.images import ImageError, check_image, open_image, read_image
from solution.operators.common.measures import MEASURES, known_measure, measures_of, take_measures
from solution.operators.common.rows import ROW
from solution.operators.picture_deduplicator import perceptual_hash
from solution.operators.picture_sharpness_filter import sharpness
from solution.runner.audit import Ledger
from solution.runner.configuration.dataset_files import DataSet
from solution.runner.data_juicer import _header
from solution.runner.errors import UserError
from solution.runner.files import stamp_of_files
from solution.runner.images import seed as seed_images
from solution.runner.images.seed import SeedImages
from solution.runner.pipeline import build_operators, run_operator
from solution.runner.seed import Folders, read_rows
from solution.runner.tables import open_rows, tables_of, write_tables
from tests.solution.conftest import TEXT, sample_image

PROCESS = [
    {"picture_deduplicator": {"max_distance": 10}},
    {"image_shape_filter": {"min_width": 48}},
    {"picture_sharpness_filter": {"min_sharpness": 900.0}},
    {"image_aspect_ratio_filter": {"max_ratio": 1.5}},
]
TAKEN = {"picture_hash": perceptual_hash, "picture_sharpness": sharpness}
TURNED = {"turned.jpg", "turned.tif"}  # EXIF turns them: their size is left to Data-Juicer


@pytest.fixture
def seed(tmp_path):
    """Rows with images of many kinds, among them copies, a narrow one, one cut short and one that is none."""
    (tmp_path / "images").mkdir()
    turned = Image.Exif()
    turned[0x0112] = 6
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (700, 900, 3), dtype=np.uint8))
    made: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "plain.jpg": (sample_image(1), {}),
        "copy.png": (sample_image(1).resize((96, 80)), {}),
        "grey.jpg": (sample_image(2).convert("L"), {}),
        "ink.jpg": (sample_image(3).convert("CMYK"), {}),
        "turned.jpg": (sample_image(4), {"exif": turned}),
        "seen_through.png": (sample_image(5).convert("RGBA"), {}),
        "few_colours.gif": (sample_image(6).convert("P"), {}),
        "deep.png": (Image.fromarray(np.arange(48 * 40, dtype=np.uint16).reshape(40, 48) * 30), {}),
        "soft.webp": (sample_image(7).resize((6, 5)).resize((48, 40)), {}),
        "turned.tif": (sample_image(8), {"exif": turned}),
        "noise.jpg": (noise, {}),
        "narrow.png": (sample_image(9).resize((20, 40)), {}),
        "one.png": (Image.new("RGB", (1, 1)), {}),
        "cut.jpg": (noise, {}),
    }
    for name, (image, options) in made.items():
        image.save(tmp_path / "images" / name, **options)
    os.truncate(tmp_path / "images" / "cut.jpg", 30_000)
    (tmp_path / "images" / "text.jpg").write_text("no image")
    rows = [
        {"id": name, "text": TEXT.format(name), "images": [f"images/{name}"]}
        for name in (*made, "text.jpg", "none.jpg")
    ]
    rows += [rows[0] | {"id": "again"}, {"id": "text", "text": "a text only <|__dj__eoc|>", "images": []}]
    file = tmp_path / "seed.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def read(file, wanted):
    """(rows, ledger) of a seed."""
    ledger = Ledger("skip")
    folders = Folders(file.parent, file.parent, file.parent / "out", file.parent / "unfinished")
    target = file.parent / "rows.arrow"
    write_tables(target, read_rows(DataSet((file,)), folders, ledger, wanted))
    return open_rows(target), ledger


def results_of(rows, ledger, operators):
    """What the operators leave of the rows, without MEASURES, and all that the ledger says."""
    for operator in operators:
        rows = run_operator(operator, rows, ledger)
    rows = rows.remove_columns(MEASURES) if MEASURES in rows.column_names else rows
    lines = [line for table in ledger.tables() for line in table.to_pylist()]
    return [row for table in tables_of(rows) for row in table.to_pylist()], lines, ledger.failures()


def test_results_equal_those_of_operators_that_decode_themselves(seed, monkeypatch):
    operators = build_operators(PROCESS, 1, str(seed.parent))
    plain = results_of(*read(seed, {}), operators)
    rows, ledger = read(seed, measures_of(operators))
    opened, open_file = [], Image.open
    monkeypatch.setattr(
        Image, "open", lambda file, *rest, **more: opened.append(file) or open_file(file, *rest, **more)
    )
    assert results_of(rows, ledger, operators) == plain
    assert {Path(file).name for file in opened if isinstance(file, str)} == TURNED
    assert {line["state"] for line in plain[1]} == {"kept", "dropped", "failed"}
    assert [failure["id"] for failure in plain[2]][:3] == ["cut.jpg", "text.jpg", "none.jpg"]


def test_measures_are_those_of_the_decoded_image(seed):
    for file in sorted((seed.parent / "images").iterdir()):
        if file.name in ("cut.jpg", "text.jpg"):
            with pytest.raises(ImageError) as plain:
                check_image(str(file))
            with pytest.raises(ImageError) as taken:
                take_measures(str(file), TAKEN)
            assert str(taken.value) == str(plain.value)
            continue
        text, image = take_measures(str(file), TAKEN), open_image(file)
        for name, measure in TAKEN.items():
            assert known_measure(text, str(file), name) == measure(image), file.name
        size = known_measure(text, str(file), "size")
        assert size is None if file.name in TURNED else tuple(size) == _header(str(file)).size


def test_an_image_that_changed_or_was_replaced_is_decoded_again(seed):
    rows, _ = read(seed, TAKEN)
    first, second = (str(seed.parent / "images" / name) for name in ("plain.jpg", "grey.jpg"))
    batch = {"images": [[first], [second], [second, first]], ROW: [1, 2, 3]}
    batch[MEASURES] = [rows[MEASURES][0]] * 3  # another operator gave the later rows images
    sample_image(30).resize((60, 60)).save(first)
    (operator,) = build_operators([{"picture_deduplicator": {}}], 1, str(seed.parent))
    hashes = operator.compute_hash(batch)["picture_hash"]
    one, other = (perceptual_hash(open_image(file)) for file in (first, second))
    assert hashes == [one, other, other + one]
    assert json.loads(rows[MEASURES][0])["picture_hash"] != one


def test_a_large_image_is_left_to_its_operators(seed, monkeypatch):
    """Several threads would hold several of them at a time."""
    monkeypatch.setattr(measures, "_LARGE", 48 * 40 - 1)
    texts = {row["id"]: row[MEASURES] for row in read(seed, TAKEN)[0]}
    assert texts["plain.jpg"] == texts["noise.jpg"] == ""
    assert "picture_hash" in texts["one.png"]


def test_a_file_is_looked_at_once_and_rows_keep_their_order(monkeypatch):
    monkeypatch.setattr(seed_images, "_AHEAD", 2)
    looked = []

    def take(file, wanted):
        looked.append(file)
        if file == "bad":
            raise ImageError("bad")
        return file.upper()

    monkeypatch.setattr(seed_images, "take_measures", take)
    files = ["a", "b", "a", "a", "bad", "c", "d", "a", "bad", "b"]
    with SeedImages({}) as known:
        found = list(known.looked_at((number, [file]) for number, file in enumerate(files)))
    assert [number for number, _ in found] == list(range(10))
    assert [looks[0] for _, looks in found] == [("bad", "") if file == "bad" else ("", file.upper()) for file in files]
    assert sorted(looked) == ["a", "b", "bad", "c", "d"]


def test_an_id_keeps_the_images_of_its_first_row():
    with SeedImages({}) as known:
        assert known.images_of("1", ["a.jpg"]) == ["a.jpg"]
        assert known.images_of("1", ["b.jpg"]) == ["a.jpg"]
        assert known.images_of("2", ["b.jpg"]) == ["b.jpg"]


def test_images_are_stamped_in_the_order_of_their_folders(tmp_path):
    """As sorted Paths are, whatever stands before the slash: records of earlier runs stay valid."""
    names = ["a/b.jpg", "a-b/c.jpg", "a.jpg", "a/b/c.jpg", "ä/d e.jpg", "missing.jpg"]
    for number, name in enumerate(names[:-1]):
        file = tmp_path / name.replace("b/c", "d/c")
        file.parent.mkdir(exist_ok=True, parents=True)
        file.write_bytes(b"x" * number)
    digest = hashlib.sha256()
    for path in sorted(map(Path, names)):
        found = (tmp_path / path).is_file() and os.stat(tmp_path / path)
        line = f"{path} {found.st_size} {found.st_mtime_ns}\n" if found else f"{path}\n"
        digest.update(line.encode())
    assert stamp_of_files(tmp_path, names) == digest.hexdigest()
    assert sorted(names) != list(map(str, sorted(map(Path, names))))


def test_few_images_are_read_ahead_of_a_row_that_stops_the_run(monkeypatch):
    monkeypatch.setattr(seed_images, "_AHEAD", 2)
    looked = []
    monkeypatch.setattr(seed_images, "take_measures", lambda file, _: looked.append(file))
    with SeedImages({}) as known:
        next(known.looked_at((number, [str(number)]) for number in range(100)))
    assert len(looked) <= 3


def test_a_machine_that_cannot_read_ends_the_run_from_any_thread(monkeypatch):
    def take(file, wanted):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(seed_images, "take_measures", take)
    with SeedImages({}) as known, pytest.raises(UserError, match=r"reading image a: .*Too many open files"):
        next(known.looked_at([(1, ["a"])]))


def test_no_thread_reads_leniently_while_another_ends(tmp_path, monkeypatch):
    """Data-Juicer's switch comes back when the last of several threads has read its image."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    sample_image(1).save(tmp_path / "image.png")
    inside, leave, seen = threading.Event(), threading.Event(), []

    def first(image):
        inside.set()
        leave.wait(10)

    thread = threading.Thread(target=read_image, args=(tmp_path / "image.png", first))
    thread.start()
    inside.wait(10)

    def second(image):
        leave.set()
        thread.join(10)
        seen.append(ImageFile.LOAD_TRUNCATED_IMAGES)

    read_image(tmp_path / "image.png", second)
    assert seen == [False]
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True
    assert images._reading == 0
