"""Every file of a submission is held against the hashes in its experiment's records."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from tests.toolkit.submission.conftest import (
    FINETUNE,
    IMAGES_KEPT,
    OFFLINE,
    PREPARED,
    PRETRAIN,
    RECORDS,
    RESULTS,
    ROWS,
    ROWS_KEPT,
    change_record,
    pack,
    refusal,
    rewritten,
)
from toolkit.__main__ import main


def test_another_recipe_does_not_make_an_experiment_unpackable(workspace: Path) -> None:
    rows = (workspace / ROWS).read_bytes()
    (workspace / ROWS).write_text("{}\n")
    (workspace / "output/processed_data/synthetic_images/other.png").touch()
    status, out = pack(workspace, "offline")
    assert status == 0
    with zipfile.ZipFile(out) as archive:
        assert archive.read(ROWS) == rows
        assert archive.namelist() == sorted(OFFLINE)


@pytest.mark.parametrize("name", sorted(OFFLINE - RECORDS - {IMAGES_KEPT, f"{RESULTS}/score.json"}))
def test_a_file_that_is_not_as_its_record_lists_it_is_refused(
    workspace: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """By `pack`, and by `verify` in a zip made by hand; what no stage wrote may be anything."""
    _, packed = pack(workspace, "offline", "before.zip")
    path = {"output/train.sh": f"{FINETUNE}/train.sh", ROWS: ROWS_KEPT}.get(name, name)
    content = (workspace / path).read_bytes()
    if name == ROWS:
        changed = content.replace(b"1.jpg", b"1.jpg ").replace(b".jpg ", b".jpg")[:-1] + b" \n"
    else:
        changed = content.replace(b"BATCH_SIZE_PER_GPU:-2", b"BATCH_SIZE_PER_GPU:-1") if name.endswith(".sh") else b"x"
    (workspace / path).write_bytes(changed)
    byhand = rewritten(packed, workspace / "byhand.zip", drop=name, **{name: changed.decode()})
    if name.startswith("solution/") or name.endswith(".log"):
        return
    capsys.readouterr()
    assert f"{path} changed after output/" in refusal(capsys, pack(workspace, "offline")[0])
    assert f"{name} changed after output/" in refusal(capsys, main(["verify", str(byhand)]))


def test_files_that_no_record_lists_are_refused(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workspace / FINETUNE / "model-00002-of-00002.safetensors").touch()
    error = refusal(capsys, pack(workspace, "offline")[0])
    assert f"model-00002-of-00002.safetensors is not among the files that {FINETUNE}/run.json lists" in error
    assert pack(workspace, "online")[0] == 0


@pytest.mark.parametrize(
    ("record_name", "key", "name", "message"),
    [
        (f"{PRETRAIN}/run.json", "inputs", f"{PRETRAIN}/pretrain_data.json", "is of other pre-training data than"),
        (f"{FINETUNE}/run.json", "inputs", f"{PRETRAIN}/mm_projector.bin", "is of other adapter than"),
        (
            f"{RESULTS}/textvqa/run.json",
            "inputs",
            f"{FINETUNE}/model-00001-of-00001.safetensors",
            "is of other weights than",
        ),
    ],
)
def test_stages_that_do_not_follow_each_other_are_refused(
    workspace: Path, capsys: pytest.CaptureFixture[str], record_name: str, key: str, name: str, message: str
) -> None:
    change_record(workspace / record_name, **{key: {name: "0" * 64}})
    assert f"{record_name} {message}" in refusal(capsys, pack(workspace, "online")[0])


def test_answers_given_without_images_are_refused(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = workspace / RESULTS / "mmbench" / "run.json"
    change_record(record, configuration=json.loads(record.read_text()).get("configuration", {}) | {"no_image": True})
    error = refusal(capsys, pack(workspace, "online")[0])
    assert f"{RESULTS}/mmbench was answered without images (eval --no-image)" in error


@pytest.mark.parametrize(
    "content", ["", "[]", '{"outputs": 3, "configuration": 3}', '{"experiment_only": 3, "fixed_part": 3}']
)
@pytest.mark.parametrize("name", sorted(RECORDS))
def test_a_damaged_record_is_one_line(
    workspace: Path, capsys: pytest.CaptureFixture[str], name: str, content: str
) -> None:
    _, packed = pack(workspace, "offline", "before.zip")
    (workspace / name).write_text(content)
    byhand = rewritten(packed, workspace / "byhand.zip", drop=name, **{name: content})
    capsys.readouterr()
    assert name in refusal(capsys, pack(workspace, "offline")[0])
    assert name in refusal(capsys, main(["verify", str(byhand)]))


def test_a_damaged_list_of_images_is_one_line(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workspace / IMAGES_KEPT).write_bytes(b"\xff\xfe")
    assert f"{IMAGES_KEPT} changed after {PREPARED} was written" in refusal(capsys, pack(workspace, "offline")[0])
