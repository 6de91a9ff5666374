"""Which fixed part and which script a submission names, and which file of it changed."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from tests.toolkit.submission.conftest import (
    FINETUNE,
    OTHER,
    OURS,
    PRETRAIN,
    RESULTS,
    TRAINER,
    change_record,
    pack,
    record,
    refusal,
    rewritten,
    write_records,
)
from toolkit.__main__ import main
from toolkit.fixed_part import LOG_LINE


@pytest.mark.parametrize(
    ("log", "message"),
    [
        ("", "does not begin with"),
        (f"step 1\n{OURS}\n", "does not begin with"),
        (f"{LOG_LINE}{'0' * 64}\n", "was written by another fixed part"),
        (f"{OURS}\nstep\n{LOG_LINE}{'0' * 64}\n", "was written by another fixed part"),
    ],
)
def test_logs_must_name_this_fixed_part(
    workspace: Path, capsys: pytest.CaptureFixture[str], log: str, message: str
) -> None:
    (workspace / FINETUNE / "finetune.log").write_text(log)
    assert f"finetune.log {message}" in refusal(capsys, pack(workspace, "online")[0])


@pytest.mark.parametrize("stages", [(PRETRAIN, FINETUNE), (PRETRAIN,), (FINETUNE,)])
def test_pack_names_the_file_of_the_fixed_part_that_changed(
    workspace: Path, capsys: pytest.CaptureFixture[str], stages: tuple[str, ...]
) -> None:
    for stage in stages:
        change_record(workspace / stage / "run.json", **record(OTHER))
        (log,) = (workspace / stage).glob("*.log")
        log.write_text(f"{LOG_LINE}{OTHER.sha256}\nstep 1\n")
    error = refusal(capsys, pack(workspace, "online")[0])
    assert error.count(f"{TRAINER} changed") == 1
    assert all(f"{stage}/{name}.log" in error for stage, name in ((PRETRAIN, "pretrain"),) if stage in stages)
    assert OTHER.sha256[:12] in error
    assert OTHER.sha256 not in error
    assert ("one experiment was trained by different fixed parts: " in error) == (len(stages) == 1)


def test_records_without_a_list_of_files_are_said_to_be_old(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workspace / PRETRAIN / "run.json").write_text(json.dumps({"experiment_only": []}))
    assert "pretrain-best/run.json was written by another" in refusal(capsys, pack(workspace, "online")[0]).lower()
    (workspace / PRETRAIN / "pretrain.log").write_text(f"{LOG_LINE}{'0' * 64}\n")
    error = refusal(capsys, pack(workspace, "online")[0])
    assert "pretrain.log was written by another fixed part" in error
    assert "its record lists no files of the fixed part, as an older kit wrote it" in error


def test_answers_of_another_fixed_part_are_refused(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = workspace / RESULTS / "textvqa/run.json"
    status, packed = pack(workspace, "online")
    assert (status, main(["verify", str(packed)])) == (0, 0)
    for fault in (json.dumps({"fixed_part": OTHER.record()}), "no JSON", '{"fixed_part": 3}'):
        byhand = rewritten(packed, workspace / "byhand.zip", drop=f"{RESULTS}/textvqa/run.json")
        with zipfile.ZipFile(byhand, "a") as archive:
            archive.writestr(f"{RESULTS}/textvqa/run.json", fault)
        assert "textvqa/run.json was written by another fixed part" in refusal(capsys, main(["verify", str(byhand)]))
    change_record(path, fixed_part=OTHER.record())
    assert f"textvqa/run.json was written by another fixed part than this toolkit: {TRAINER} changed" in refusal(
        capsys, pack(workspace, "online")[0]
    )


def test_verify_names_the_changed_file_where_the_zip_lists_it(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = f"{FINETUNE}/finetune.log"
    _, packed = pack(workspace, "online")
    content = {log: f"{LOG_LINE}{OTHER.sha256}\n"}
    byhand = rewritten(packed, workspace / "byhand.zip", drop=log, **content)
    assert "`python -m toolkit pack` finds it" in refusal(capsys, main(["verify", str(byhand)]))
    content[f"{RESULTS}/textvqa/run.json"] = json.dumps({"fixed_part": OTHER.record()})
    byhand = rewritten(packed, workspace / "byhand.zip", drop=log, **content)
    error = refusal(capsys, main(["verify", str(byhand)]))
    assert "finetune.log" in error
    assert (
        f"were written by another fixed part than this toolkit: {TRAINER} changed (fixed part {OTHER.sha256[:12]}"
        in error
    )


def test_a_script_changed_outside_its_editable_part_is_refused(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = workspace / FINETUNE / "train.sh"
    _, packed = pack(workspace, "online")
    script.write_text(script.read_text().replace("source training/fixed_part.sh", "source training/mine.sh"))
    expected = "train.sh was changed outside its editable part: line 41 is `source training/mine.sh` where toolkit/"
    assert f"{FINETUNE}/{expected}" in refusal(capsys, pack(workspace, "online")[0])
    byhand = rewritten(
        packed, workspace / "byhand.zip", drop="output/train.sh", **{"output/train.sh": script.read_text()}
    )
    assert f"output/{expected}" in refusal(capsys, main(["verify", str(byhand)]))
    script.write_text("")
    assert f"{FINETUNE}/train.sh was changed outside its editable part: it is empty" in refusal(
        capsys, pack(workspace, "online")[0]
    )


def test_the_script_of_another_experiment_is_refused(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = workspace / FINETUNE / "train.sh"
    script.write_text(script.read_text().replace("EXP_NAME:-best", "EXP_NAME:-other"))
    write_records(workspace)
    error = refusal(capsys, pack(workspace, "online")[0])
    assert f"{FINETUNE}/train.sh is the script of experiment other, not of best" in error


def test_a_change_of_the_latest_script_is_said(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    latest = workspace / "output/train.sh"
    assert pack(workspace, "online")[0] == 0
    assert "note" not in capsys.readouterr().out
    latest.write_text(latest.read_text().replace("LOGGING_STEP:-10", "LOGGING_STEP:-1"))
    assert pack(workspace, "online")[0] == 0
    assert "note: output/train.sh was changed after the run; the zip holds" in capsys.readouterr().out
    latest.write_text(latest.read_text().replace("EXP_NAME:-best", "EXP_NAME:-later"))
    assert pack(workspace, "online")[0] == 0
    assert "note" not in capsys.readouterr().out
