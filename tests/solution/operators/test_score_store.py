"""Scores on disk: found again by other objects and processes, merged, whole after a kill, small in memory."""

import multiprocessing
import pickle
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from solution.operators.common.score_store import ScoreStore, image_digest, revision_of, score_key
from tests.solution.conftest import ROOT, picture


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
    store = ScoreStore(Path({str(tmp_path)!r}), "model")
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
    picture(1).save(path)
    before = image_digest(str(path))
    picture(2).save(path)
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
