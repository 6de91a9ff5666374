"""Scores and captions on disk: found again by other objects and processes, whole after a kill, keys that stay."""

import hashlib
import multiprocessing
import pickle
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import solution.operators  # noqa: F401  registers ours
from solution.operators.common.captioner import Captioner
from solution.operators.common.rows import row_seed
from solution.operators.common.score_store import ScoreStore, image_digest, revision_of, score_key, values_per_row
from solution.runner.data_juicer import OPERATORS, NestedDataset
from tests.solution import model_folders
from tests.solution.conftest import ROOT, sample_image


def keys_of(numbers) -> list[bytes]:
    return [score_key([], str(number)) for number in numbers]


def test_values_are_found_again_to_the_last_bit(tmp_path):
    store = ScoreStore(tmp_path, "model", float)
    values = (np.random.default_rng(0).random(50)).tolist()
    store.add(keys_of(range(50)), values)
    assert store.get(keys_of(range(45, 55))) == [*values[45:], *[None] * 5]
    assert ScoreStore(tmp_path, "model", float).get(keys_of(range(50))) == values
    assert ScoreStore(tmp_path, "another model", float).get(keys_of([1])) == [None]
    assert pickle.loads(pickle.dumps(store)).get(keys_of([7])) == [values[7]]


def test_texts_can_be_kept(tmp_path):
    store = ScoreStore(tmp_path, "captioner", str)
    store.add(keys_of([1, 2]), ["a dog", ""])
    assert ScoreStore(tmp_path, "captioner", str).get(keys_of([2, 1, 3])) == ["", "a dog", None]


def test_many_parts_become_few_and_nothing_is_lost(tmp_path):
    store = ScoreStore(tmp_path, "model", float)
    for number in range(150):
        store.add(keys_of([number]), [float(number)])
    assert len(list(tmp_path.rglob("part-*.parquet"))) < 64
    assert store.get(keys_of(range(150))) == [float(number) for number in range(150)]
    others = [ScoreStore(tmp_path, "model", float) for _ in range(80)]
    for number, other in enumerate(others, start=200):
        other.add(keys_of([number]), [float(number)])
    assert ScoreStore(tmp_path, "model", float).get(keys_of([0, 149, 200, 279])) == [0.0, 149.0, 200.0, 279.0]
    assert len(list(tmp_path.rglob("part-*.parquet"))) < 66


def test_more_values_than_wait_in_memory(tmp_path):
    store = ScoreStore(tmp_path, "model", float)
    keys = [number.to_bytes(16, "little") for number in range(100_000)]  # most end in zero bytes
    for start in range(0, len(keys), 10_000):
        store.add(keys[start : start + 10_000], [float(start + index) for index in range(10_000)])
    assert store.get(keys) == [float(number) for number in range(100_000)]
    assert store.get([bytes([255] * 16)]) == [None]


def _add(folder, first: int) -> None:
    store = ScoreStore(folder, "model", float)
    for number in range(first, first + 200):
        store.add(keys_of([number]), [float(number)])


def test_two_processes_add_at_once(tmp_path):
    context = multiprocessing.get_context("fork")  # imports nothing again
    workers = [context.Process(target=_add, args=(tmp_path, first)) for first in (0, 100)]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):  # a reader in between, which merges as well
        ScoreStore(tmp_path, "model", float).get(keys_of([0]))
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert ScoreStore(tmp_path, "model", float).get(keys_of(range(300))) == [float(number) for number in range(300)]


def test_what_was_added_outlives_a_kill(tmp_path):
    program = f"""
    from pathlib import Path
    from solution.operators.common.score_store import ScoreStore, score_key
    store = ScoreStore(Path({str(tmp_path)!r}), "model", float)
    for number in range(10**6):
        store.add([score_key([], str(number))], [float(number)])
        print(number, flush=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    run = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    for _ in range(100):
        run.stdout.readline()
    time.sleep(0.1)
    run.send_signal(signal.SIGKILL)
    last = int(["99", *run.stdout.read().split()][-1])
    run.wait()
    assert ScoreStore(tmp_path, "model", float).get(keys_of(range(last + 1))) == [float(n) for n in range(last + 1)]


def test_a_damaged_part_is_named(tmp_path):
    ScoreStore(tmp_path, "model", float).add(keys_of([1]), [1.0])
    (part,) = tmp_path.rglob("part-*.parquet")
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(ValueError, match=f"score file {part} is damaged"):
        ScoreStore(tmp_path, "model", float).get(keys_of([1]))


def test_a_changed_image_has_another_key(tmp_path):
    path = tmp_path / "image.png"
    sample_image(1).save(path)
    before = image_digest(str(path))
    sample_image(2).save(path)
    assert image_digest(str(path)) != before


def test_revision_follows_the_content(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_bytes(bytes(3_000_000))
    assert revision_of(str(tmp_path / "one")) == revision_of(str(tmp_path / "two"))
    with (tmp_path / "two" / "weights").open("r+b") as file:
        file.seek(1_400_000)
        file.write(bytes(range(256)) * 1000)
    assert revision_of(str(tmp_path / "one")) != revision_of(str(tmp_path / "two"))
    assert revision_of("openai/clip-vit-base-patch32") == "openai/clip-vit-base-patch32"


@pytest.fixture
def data(tmp_path):
    """Two rows, the second with two images, whose files hold the same bytes with every version of Pillow."""
    paths = [str(tmp_path / f"{number}.ppm") for number in range(3)]
    for number, path in enumerate(paths):
        with open(path, "wb") as file:
            file.write(b"P6 8 8 255\n" + bytes((number * 50 + step) % 256 for step in range(8 * 8 * 3)))
    captions = ["a red dog", "图 two cats"]
    return NestedDataset.from_list(
        [
            {"id": str(row), "text": f"<__dj__image>\n{caption} <|__dj__eoc|>", "images": images}
            for row, (caption, images) in enumerate(zip(captions, [paths[:1], paths[1:]], strict=True))
        ]
    )


def stored(folder) -> tuple[str, set[str]]:
    """(what names the model, keys in hexadecimal) of the one store in the folder."""
    (model,) = folder.glob("*/model.txt")
    parts = [pq.read_table(part)["key"].cast(pa.binary(16)).to_pylist() for part in folder.glob("*/part-*.parquet")]
    model_key = model.read_text().removesuffix("\n")
    assert model.parent.name == hashlib.sha256(model_key.encode()).hexdigest()[:24]
    return model_key, {key.hex() for part in parts for key in part}


# Taken from the code before the three uses shared one function: stored scores of then must be found again.
WITH_CAPTION = {"83831521594e82ea673d3d16de6dc973", "bda7c9a54f29402d2109d84ffd9ebebf"}
IMAGES_ALONE = {"b5144340fd0509240a86764c233a6922", "c60723d6e16076616360d275882b534d"}
FIRST_IMAGE_LIKELIEST = {"23efdada82393ad74a7b062365d2d1f8", "5726cb5e7585c5a3283598bd23ccf682"}
FIRST_IMAGE_SAMPLED = {"340b0b97cf0fcfdced99f2c9be53c6c4", "bf126f20921bb5f5b7422a9117fdec39"}


@pytest.mark.parametrize(
    ("name", "parameter", "save", "model_key", "keys"),
    [
        ("blip_matching_filter", "hf_blip", "blip_matcher", "blip_matching 1 {} torch.float32", WITH_CAPTION),
        ("picture_nsfw_filter", "hf_nsfw_model", "classifier", "picture_nsfw 1 {} torch.float32", IMAGES_ALONE),
    ],
)
def test_filters_keep_the_keys_of_before(data, tmp_path, score_folder, name, parameter, save, model_key, keys):
    (tmp_path / "model").mkdir()
    model = str(getattr(model_folders, f"save_{save}")(tmp_path / "model"))
    OPERATORS.modules[name](auto_op_parallelism=False, num_proc=None, accelerator="cpu", **{parameter: model}).run(data)
    assert stored(score_folder) == (model_key.format(revision_of(model)), keys)


def test_clip_similarity_keeps_the_keys_of_before(data, clip_folder, score_folder):
    model = str(clip_folder)
    operator = OPERATORS.modules["clip_similarity_filter"]
    operator(hf_clip=model, auto_op_parallelism=False, num_proc=None, accelerator="cpu").run(data)
    assert stored(score_folder) == (f"clip similarity 2, {revision_of(model)}, cpu float32", WITH_CAPTION)


@pytest.mark.parametrize(
    ("temperature", "chance", "keys"), [(0, "'likeliest'", FIRST_IMAGE_LIKELIEST), (0.7, "0.7, 3", FIRST_IMAGE_SAMPLED)]
)
def test_captions_keep_the_keys_of_before(data, captioner_folder, score_folder, temperature, chance, keys):
    model = str(captioner_folder)
    captioner = Captioner(model, "a", 4, temperature, seed=3, model_batch=2, on_gpu=False)
    captioner.caption([images[0] for images in data["images"]], ["row 0", "row 1"])
    assert stored(score_folder) == (f"caption 1 {revision_of(model)} ('a', 4, {chance}, torch.float32)", keys)


def test_unknown_rows_alone_are_computed_and_failures_named_per_row(tmp_path, score_folder):
    for name in ("good", "cut short", "known"):
        sample_image(len(name)).save(tmp_path / name, format="PNG")
    images = [[str(tmp_path / name)] for name in ("good", "missing", "cut short", "known")] + [[], None]
    store, asked = ScoreStore(score_folder, "model", float), []
    store.add([score_key(images[3], "text")], [4.0])

    def compute(rows, failures):
        asked.extend(rows)
        failures[2] = "cut short"
        yield {0: 1.0}

    values, failures = values_per_row(store, images, [["text"]] * 6, compute)
    assert asked == [0, 2]
    assert values == [1.0, None, None, 4.0, None, None]
    no_image = "the row has no image"
    assert failures == ["", f"image {images[1][0]} is missing", "cut short", "", no_image, no_image]
    assert values_per_row(store, images[:1], [["text"]], None) == ([1.0], [""])


def test_each_block_is_on_disk_before_the_next_is_computed(tmp_path, score_folder):
    images = [[str(tmp_path / f"{number}.png")] for number in range(3)]
    for number, (path,) in enumerate(images):
        sample_image(number).save(path)

    def killed(rows, failures):
        yield {0: "a dog", 1: ""}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        values_per_row(ScoreStore(score_folder, "model", str), images, [[]] * 3, killed)
    again = ScoreStore(score_folder, "model", str)
    values, failures = values_per_row(again, images, [[]] * 3, lambda rows, _: iter([{row: "new"} for row in rows]))
    assert values == ["a dog", "", "new"]
    assert failures == [""] * 3


@pytest.mark.parametrize(
    ("seed", "key", "expected"), [(3, "row 0", 2695145205615284829), (0, "图", 357780433559218488)]
)
def test_seeds_of_sampled_captions_and_images_stay(seed, key, expected):
    assert row_seed(seed, key) == expected
