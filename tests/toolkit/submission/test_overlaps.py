"""`pack` says what its rows share with the evaluation sets, and refuses nothing for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.contamination import photograph
from tests.toolkit.submission.conftest import IMAGES_KEPT, PRETRAIN, ROWS_KEPT, change_record, pack, write_records
from toolkit.contamination import search
from toolkit.contamination.search import Exam
from toolkit.files import sha256_of


@pytest.fixture
def exam(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The experiment's seed image is the second one of the evaluation sets, its synthetic one is of its own."""
    folder = workspace / "exam"
    folder.mkdir()
    for number in range(2):
        photograph(number).save(folder / f"{number}.jpg")
    images: list[Path | bytes] = sorted(folder.iterdir())
    exam = Exam(images, ["TextVQA a", "TextVQA b"], {"TextVQA a": "what does the large sign on the left say"})
    monkeypatch.setattr(search, "read_exam", lambda preset: exam)
    photograph(1).resize((200, 150)).save(workspace / "seed" / "images" / "1.jpg")
    synthetic = workspace / "output/processed_data/synthetic_images/s.png"
    photograph(50).save(synthetic)
    (workspace / IMAGES_KEPT).write_text(f"{sha256_of(synthetic)}  synthetic_images/s.png\n")
    write_records(workspace)
    return folder


@pytest.mark.parametrize("kind", ["online", "offline"])
def test_shared_images_are_a_warning(
    workspace: Path, exam: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out = pack(workspace, kind)
    assert status == 0
    *_, warning, packed = capsys.readouterr().out.splitlines()
    assert "WARNING: 1 of 2 rows with 2 images share an image or caption with the evaluation sets" in warning
    assert f"--images {workspace / 'seed'} --preset mini --contamination DIR` shows them" in warning
    assert (
        "evaluation_overlap_filter in a recipe drops them; the mini world draws all its images from the same" in warning
    )
    assert f"{kind} submission of best" in packed
    record = json.loads(out.with_suffix(".run.json").read_text())
    assert record["contamination"]["images"] == [1]
    assert record["outputs"] == {"submit.zip": sha256_of(out)}


def test_the_images_folder_is_named_as_a_user_would(
    workspace: Path, exam: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the repository's root on, where it lies in it."""
    monkeypatch.setattr("toolkit.files.REPOSITORY", workspace.resolve())
    assert pack(workspace, "online")[0] == 0
    assert "--images seed --preset mini --contamination DIR` shows them" in capsys.readouterr().out


def test_shared_captions_are_a_warning(workspace: Path, exam: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photograph(60).save(workspace / "seed" / "images" / "1.jpg")
    rows = (workspace / ROWS_KEPT).read_text().replace("\\nx", "\\nWhat does the large sign on the left say? Exit.", 1)
    for name in (ROWS_KEPT, "output/processed_data/processed_data.jsonl"):
        (workspace / name).write_text(rows)
    write_records(workspace)
    assert pack(workspace, "online")[0] == 0
    assert "WARNING: 1 of 2 rows" in capsys.readouterr().out


def test_nothing_shared_is_said_and_compared_once(
    workspace: Path, exam: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    photograph(60).save(workspace / "seed" / "images" / "1.jpg")
    change_record(workspace / PRETRAIN / "run.json", configuration={"images": str(workspace / "seed")})
    assert pack(workspace, "online")[0] == 0
    assert "evaluation sets: nothing of theirs found in 2 rows with 2 images\n" in capsys.readouterr().out
    monkeypatch.setattr(search, "Wanted", None)  # would be needed to compare an image
    assert pack(workspace, "offline")[0] == 0
    assert "nothing of theirs found in 2 rows with 2 images\n" in capsys.readouterr().out


def test_a_submission_needs_no_evaluation_sets(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out = pack(workspace, "online")
    assert status == 0
    said = capsys.readouterr().out
    assert "evaluation sets: rows were not compared with them: questions.jsonl: no such file" in said
    assert "not_compared" in json.loads(out.with_suffix(".run.json").read_text())["contamination"]


def test_images_that_are_elsewhere_are_counted(workspace: Path, exam: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workspace / "seed" / "images" / "1.jpg").unlink()
    assert pack(workspace, "online")[0] == 0
    assert "nothing of theirs found in 2 rows with 1 images (1 more cannot be read here)" in capsys.readouterr().out
