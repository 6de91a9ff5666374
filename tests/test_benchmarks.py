"""The benchmarks run, and their checks of equality hold; what they time is for people to read."""

from __future__ import annotations

import re
import sys

import pytest
import yaml

from benchmarks.contamination import photograph
from experiments.mini_world.recaptioning import KINDS, RECAPTION, recipe
from tests import warm
from toolkit.files import REPOSITORY


@pytest.mark.parametrize(
    "words",
    [
        "training --stage pretrain --batch 4 --accumulation 1 --steps 1",
        pytest.param("training --stage finetune --batch 4 --accumulation 1 --steps 1", marks=pytest.mark.slow),
        pytest.param("inference --questions 8 --batch 4", marks=pytest.mark.slow),
        pytest.param("dataloading --rows 16 --workers 1", marks=pytest.mark.slow),
    ],
)
def test_benchmark_runs_on_the_mini_preset(words: str) -> None:
    name, *options = words.split()
    command = [sys.executable, "-m", f"benchmarks.{name}", "--preset", "mini", *options]
    done = warm.run(command, cwd=REPOSITORY)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "times as fast" in done.stdout or "samples/s" in done.stdout


def test_captions_from_a_server_are_timed() -> None:
    words = ["--rows", "40", "--concurrency", "8", "--answers-after", "0"]
    done = warm.run([sys.executable, "-m", "benchmarks.captions", *words], cwd=REPOSITORY)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "asked: " in done.stdout
    assert int(re.search(r"at most (\d+) requests at once", done.stdout)[1]) <= 8


@pytest.mark.slow
def test_copies_of_evaluation_images_are_planted_and_found(tmp_path) -> None:
    for number in range(20):
        photograph(number).save(tmp_path / f"{number:02d}.jpg")
    words = ["--images", str(tmp_path), "--count", "5"]
    done = warm.run([sys.executable, "-m", "benchmarks.contamination", *words], cwd=REPOSITORY)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("100.0 % of 5 found") >= 10
    assert "0 of 10 other images taken for a copy\n" in done.stdout
    assert "ms of CPU an image" in done.stdout


def test_recaptioning_compares_recipes_that_differ_in_one_operator(tmp_path) -> None:
    files = [recipe(tmp_path / f"{kind}.yaml", kind) for kind in KINDS]
    with_it, without_it = (yaml.safe_load(file.read_text())["process"] for file in files)
    (step,) = (step for step in with_it if RECAPTION in step)
    assert step[RECAPTION]["min_score"] == -1
    assert [other for other in with_it if other != step] == without_it


@pytest.mark.slow
def test_images_decoded_once_give_the_same_rows() -> None:
    words = ["--data", "input/mini/mgm_pretrain_mini.jsonl", "--rows", "60", "--slices", "1", "--only", "images"]
    done = warm.run([sys.executable, "-m", "benchmarks.operators", *words], cwd=REPOSITORY)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rows and audit the same" in done.stdout


@pytest.mark.slow
def test_the_page_of_an_analysis_is_made_and_used() -> None:
    done = warm.run([sys.executable, "-m", "benchmarks.analysis", "500"], cwd=REPOSITORY)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "500 rows, 8 statistics: made in" in done.stdout
    assert "of 200 moves the median one was counted in" in done.stdout
