"""`verify` on zips that a person made."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from tests.toolkit.submission.conftest import (
    FINETUNE,
    PREPARED,
    PRETRAIN,
    RECORDS,
    ROWS,
    needs_zip,
    pack,
    refusal,
    rewritten,
    unpacked,
    zip_by_hand,
)
from toolkit.__main__ import main
from toolkit.files import REPOSITORY


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("notes/a.txt", "notes is beside solution/ and output/"),
        ("__MACOSX/a", "__MACOSX is beside"),
        ("/output/a", "/output/a is an absolute path"),
        ("output/../a", "output/../a is an absolute path or leaves the zip"),
        (f"{PRETRAIN}/mm_projector.bin", "mm_projector.bin holds weights, which an online zip must not"),
        (ROWS, "mm_projector.bin is missing"),
    ],
)
def test_verify_names_what_does_not_belong(
    workspace: Path, capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    _, packed = pack(workspace, "online")
    byhand = rewritten(packed, workspace / "byhand.zip", **{name: "{}\n"})
    assert message in refusal(capsys, main(["verify", str(byhand)]))


@needs_zip
@pytest.mark.parametrize("kind", ["online", "offline"])
def test_verify_takes_a_zip_made_by_hand(workspace: Path, kind: str) -> None:
    folder = unpacked(pack(workspace, kind)[1], workspace / "byhand")
    assert main(["verify", str(zip_by_hand(folder, "solution/", "output/"))]) == 0


@needs_zip
@pytest.mark.parametrize(
    ("inside", "words", "message"),
    [
        ("", ["."], "notes/ is beside solution/ and output/"),
        ("", ["solution/", "output/", "-x", "*finetune.log"], "finetune.log is missing"),
        ("", ["-P", "secret", "solution/", "output/"], "is encrypted"),
        ("", ["-Z", "bzip2", "solution/", "output/"], "use stored or deflated"),
        (
            "better-synth",
            ["better-synth"],
            "everything is inside better-synth/; zip in there: cd better-synth && zip",
        ),
    ],
)
def test_verify_names_faults_of_a_zip_made_by_hand(
    workspace: Path, capsys: pytest.CaptureFixture[str], inside: str, words: list[str], message: str
) -> None:
    folder = workspace / "byhand"
    unpacked(pack(workspace, "online")[1], folder / inside)
    (folder / inside / "notes").mkdir()
    assert message in refusal(capsys, main(["verify", str(zip_by_hand(folder, *words))]))


@needs_zip
def test_a_zip_of_the_whole_workspace_is_a_submission(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As the challenge's document makes it; what lies beside is listed with its size, other experiments too."""
    other = "output/training_dirs/MGM-2B-Finetune-other"
    for name in ("output/audit/mini.log", "output/README.md", f"{other}/finetune.log", f"{other}/run.json"):
        (workspace / name).parent.mkdir(parents=True, exist_ok=True)
        (workspace / name).write_text("x" * 1000)
    assert main(["verify", str(zip_by_hand(workspace, "solution/", "output/"))]) == 0
    needed, extra = capsys.readouterr().out.split("not needed by the referee: ")
    assert f"    {other}/  2.0 kB\n" in extra
    assert "    output/README.md  1.0 kB\n" in extra
    assert "    output/audit/" in extra
    assert "a complete offline submission of best" in extra
    assert "checkpoint-9" not in needed
    # Another recipe has run since: these are not the rows of this experiment.
    with (workspace / ROWS).open("a") as file:
        file.write("\n")
    error = refusal(capsys, main(["verify", str(zip_by_hand(workspace, "solution/", "output/"))]))
    assert f"{ROWS} changed after {PREPARED} was written" in error


def test_several_experiments_of_which_none_is_named(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, packed = pack(workspace, "online")
    other = {"output/eval_results/MGM-Mini-Finetune-worse/textvqa/a": "x"}
    script = (REPOSITORY / "toolkit/train_mgm_mini_stage_1.sh").read_text()
    byhand = rewritten(packed, workspace / "byhand.zip", drop="output/train.sh", **{"output/train.sh": script}, **other)
    assert (
        "several experiments at once (MGM-Mini best, MGM-Mini worse), of which output/train.sh names none"
        in refusal(capsys, main(["verify", str(byhand)]))
    )


@pytest.mark.parametrize("without", ["records", "logs"])
def test_a_zip_without_records_is_compared_with_nothing_and_says_so(
    workspace: Path, capsys: pytest.CaptureFixture[str], without: str
) -> None:
    _, packed = pack(workspace, "online")
    drop = RECORDS if without == "records" else {f"{PRETRAIN}/pretrain.log", f"{FINETUNE}/finetune.log"}
    byhand = workspace / "byhand.zip"
    with zipfile.ZipFile(packed) as old, zipfile.ZipFile(byhand, "w") as new:
        for name in old.namelist():
            if name not in drop:
                new.writestr(name, old.read(name))
    capsys.readouterr()
    if without == "logs":
        assert "pretrain.log is missing" in refusal(capsys, main(["verify", str(byhand)]))
        return
    assert main(["verify", str(byhand)]) == 0
    assert f"note: without {PREPARED}, " in capsys.readouterr().out


def test_verify_names_what_is_no_zip_and_waits_for_nothing(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(workspace / "pipe.zip")
    (workspace / "text.zip").write_text("PK")
    expected = {
        "pipe.zip": "no regular file",
        "output": "a folder, no zip; zip it first: zip -r submit.zip solution/ output/",
        "text.zip": "not a zip file",
        "none.zip": "no such file; `python -m toolkit pack` makes it",
    }
    for name, message in expected.items():
        assert f"{workspace / name}: {message}" in refusal(capsys, main(["verify", str(workspace / name)]))
