"""`pack` and `verify`: what goes in, what is refused and by which name."""

from __future__ import annotations

import shutil
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from tests.toolkit.submission.conftest import (
    FINETUNE,
    OFFLINE,
    ONLINE,
    PRETRAIN,
    RESULTS,
    ROWS,
    change_record,
    pack,
    refusal,
    rewritten,
    write_records,
)
from toolkit.__main__ import main
from toolkit.submission import archive


@pytest.mark.parametrize(("kind", "members"), [("online", ONLINE), ("offline", OFFLINE)])
def test_packs_exactly_the_layout(
    workspace: Path, kind: str, members: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    status, out = pack(workspace, kind)
    assert status == 0
    with zipfile.ZipFile(out) as archive:
        assert archive.namelist() == sorted(members)
        assert archive.read("output/train.sh") == (workspace / FINETUNE / "train.sh").read_bytes()
    capsys.readouterr()
    assert main(["verify", str(out)]) == 0
    printed = capsys.readouterr().out
    assert f"a complete {kind} submission" in printed
    assert "answers_upload.xlsx" in printed


def test_equal_files_give_an_equal_zip(workspace: Path) -> None:
    _, first = pack(workspace, "offline", "first.zip")
    for name in OFFLINE:
        if (workspace / name).is_file():
            (workspace / name).touch()
    _, second = pack(workspace, "offline", "second.zip")
    assert first.read_bytes() == second.read_bytes()
    assert not list(workspace.glob(".*.zip.*"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (f"{PRETRAIN}/pretrain.log", "pretrain.log is missing"),
        (f"{FINETUNE}/finetune.log", "finetune.log is missing"),
        (f"{FINETUNE}/train.sh", "output/train.sh is missing"),
        (f"{RESULTS}/mmbench", "mmbench/ is missing"),
        ("solution/README.md", "solution/ has no readme"),
        ("solution/requirements.txt", "solution/requirements.txt is missing"),
        ("solution/process.py", "solution/ holds no code"),
        (f"{PRETRAIN}/run.json", "has not finished"),
        (f"{FINETUNE}/model-00001-of-00001.safetensors", "model-*.safetensors is missing"),
        (f"{PRETRAIN}/mm_projector.bin", "mm_projector.bin is missing"),
        ("output/processed_data/synthetic_images/s.png", "line 2: synthetic_images/s.png is not in synthetic_images/"),
        ("seed/images/1.jpg", "line 1: images/1.jpg is not under"),
    ],
)
def test_what_is_missing_is_named(workspace: Path, capsys: pytest.CaptureFixture[str], name: str, message: str) -> None:
    path = workspace / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert message in refusal(capsys, pack(workspace, "offline")[0])
    assert not (workspace / "submit.zip").exists()


def test_no_such_experiment(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["pack", "online", "worst", "--out", str(workspace / "submit.zip")])
    said = refusal(capsys, status)
    assert "worst: no run of that name" in said
    assert "there are: " in said


@pytest.mark.parametrize("used", ["TRAIN_SEED=3", "PRETRAIN=none", "--no-stochastic-depth"])
def test_experiment_only_runs_are_refused(workspace: Path, capsys: pytest.CaptureFixture[str], used: str) -> None:
    change_record(workspace / FINETUNE / "run.json", experiment_only=[used])
    assert used in refusal(capsys, pack(workspace, "online")[0])


def test_weights_in_an_online_zip_are_refused(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workspace / "solution/captioner.safetensors").touch()
    assert "solution/captioner.safetensors holds weights" in refusal(capsys, pack(workspace, "online")[0])
    assert pack(workspace, "offline")[0] == 0


def test_symbolic_links_are_refused(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workspace / "solution/link.py").symlink_to(workspace / "solution/process.py")
    assert "link.py is a symbolic link" in refusal(capsys, pack(workspace, "online")[0])


def test_large_zips_need_little_memory(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights beyond what the format's first version can hold, here scaled down, are streamed both ways."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1 << 20)
    with (workspace / FINETUNE / "model-00001-of-00001.safetensors").open("wb") as file:
        file.truncate(200 << 20)
    write_records(workspace)
    tracemalloc.start()
    status, out = pack(workspace, "offline")
    assert (status, main(["verify", str(out)])) == (0, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert out.stat().st_size > 200 << 20
    assert peak < 20 << 20


@pytest.mark.parametrize("readme", ["readme", "readme.md", "README.md"])
def test_verify_accepts_every_readme(workspace: Path, readme: str) -> None:
    _, packed = pack(workspace, "online")
    renamed = rewritten(packed, workspace / "byhand.zip", drop="solution/README.md", **{f"solution/{readme}": "hello"})
    assert main(["verify", str(renamed)]) == 0


@pytest.mark.parametrize(
    ("drop", "message"),
    [("solution/README.md", "solution/ has no readme"), ("solution/process.py", "solution/ holds no code")],
)
def test_other_notes_are_neither_the_readme_nor_code(
    workspace: Path, capsys: pytest.CaptureFixture[str], drop: str, message: str
) -> None:
    for name in ("readme_zh.md", "requirements-ray.txt"):
        (workspace / "solution" / name).touch()
    status, packed = pack(workspace, "online")
    assert (status, main(["verify", str(packed)])) == (0, 0)
    capsys.readouterr()
    byhand = rewritten(packed, workspace / "byhand.zip", drop=drop)
    assert message in refusal(capsys, main(["verify", str(byhand)]))


def test_verify_sees_absolute_image_paths(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, packed = pack(workspace, "offline")
    rows = '{"images": ["/home/me/images/1.jpg"], "text": "<image>\\nx", "id": "1"}\n'
    byhand = rewritten(packed, workspace / "byhand.zip", drop=ROWS, **{ROWS: rows})
    error = refusal(capsys, main(["verify", str(byhand)]))
    assert f"{ROWS} line 1" in error
    assert "/home/me/images/1.jpg" in error


def test_verify_sees_damage(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, packed = pack(workspace, "online")
    content = packed.read_bytes()
    with zipfile.ZipFile(packed) as archive:
        info = archive.getinfo(f"{RESULTS}/mmbench/answers_upload.xlsx")
    position = info.header_offset + 30 + len(info.filename) + 5
    packed.write_bytes(content[:position] + b"#" + content[position + 1 :])
    assert "answers_upload.xlsx is damaged" in refusal(capsys, main(["verify", str(packed)]))
    # A compressed member that must be read to be checked.
    with zipfile.ZipFile(packed) as archive:
        info = archive.getinfo("output/train.sh")
    position = info.header_offset + 30 + len(info.filename) + 5
    packed.write_bytes(content[:position] + bytes([content[position] ^ 255]) + content[position + 1 :])
    assert "damaged" in refusal(capsys, main(["verify", str(packed)]))
    packed.write_bytes(content[: len(content) // 2])
    assert "not a zip file" in refusal(capsys, main(["verify", str(packed)]))


def test_tree_sums_up_long_folders() -> None:
    printed = archive.tree({f"output/images/{number}.jpg": 1000 for number in range(200)})
    assert printed.splitlines()[0] == "output/images/  200.0 kB"
    assert printed.splitlines()[-1].strip() == "and 196 more files"


def test_nothing_but_a_zip_is_written_over(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    notes = workspace / "README.md"
    notes.write_text("notes")
    for out, said in ((notes, "exists and is no zip"), (workspace, "a folder; name the file")):
        status = main(["pack", "online", "good", "--out", str(out)])
        assert said in refusal(capsys, status)
    assert notes.read_text() == "notes"
