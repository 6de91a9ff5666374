"""The README's start and the notebook, whole, in clean checkouts: they run, resume, and what follows them works."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nbclient
import nbformat
import pytest

from tests.conftest import checkout
from tests.test_notebook import NOTEBOOK, plots, printed
from tests.test_readme import run, shown

pytestmark = pytest.mark.slow
PAGE = "output/pages/MGM-Mini-recipe.html"


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean checkout in which `bash quickstart.sh` has run; its models serve all tests of this file."""
    folder = checkout(tmp_path_factory.mktemp("quickstart") / "better-synth")
    printed = run("bash quickstart.sh", folder)
    assert "TextVQA soft accuracy" in printed
    assert printed.splitlines()[-1] == f"written: {PAGE}"
    assert (folder / "submit.zip").is_file()
    return folder


def test_a_second_quickstart_resumes(started: Path) -> None:
    again = run("bash quickstart.sh", started)
    assert again.count("already finished") == 2
    assert (started / "output/raw.log").read_text().count("already finished") == 2
    assert "already done" in again
    assert again.splitlines()[-1] == f"up to date: {PAGE}"


def test_its_page_shows_both_runs_and_all_answers(started: Path) -> None:
    score = json.loads((started / "output/eval_results/MGM-Mini-Finetune-recipe/score.json").read_text())
    page = (started / PAGE).read_text()
    assert "<title>Run recipe beside raw</title>" in page
    assert f"<td>{100 * score['textvqa']['accuracy']:.2f} [" in page
    assert "<td>conditional_recaption_mapper" in page
    assert page.count('"q": ') == score["textvqa"]["questions"] + score["mmbench"]["groups"]


def test_the_commands_that_follow_it_run_as_shown(started: Path) -> None:
    """The README's commands that need a trained model."""
    assert "a complete online submission" in run(shown("python -m toolkit verify"), started)
    packed = run(shown("python -m toolkit pack online").replace("default", "recipe"), started)
    assert "online submission of recipe" in packed
    assert "MMBench" in run(shown("python -m toolkit score"), started)
    assert ".html" in run(shown("python solution/process.py report"), started)
    assert "questions answered" in run(shown("python -m toolkit eval textvqa"), started)
    image = next((started / "input/mini/images").rglob("*.jpg"))
    assert run(shown("python -m toolkit ask").replace("IMAGE.jpg", str(image)), started).strip()


def test_the_notebook_runs_from_a_clean_checkout(started: Path, tmp_path: Path) -> None:
    """It takes over the two trained stages, which it starts by the same script, and does everything else itself."""
    folder = checkout(tmp_path / "better-synth")
    stages = [f"output/training_dirs/MGM-Mini-{stage}-recipe" for stage in ("Pretrain", "Finetune")]
    for stage in stages:
        shutil.copytree(started / stage, folder / stage)
    notebook = nbformat.read(folder / NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=1500, resources={"metadata": {"path": str(folder)}}).execute()
    nbformat.write(notebook, tmp_path / NOTEBOOK)
    assert plots(notebook) == 8
    for stage in stages:  # finished already
        assert (folder / stage / "run.json").read_bytes() == (started / stage / "run.json").read_bytes()
    assert "a complete online submission" in printed(notebook)
    assert (folder / "submit.zip").is_file()
