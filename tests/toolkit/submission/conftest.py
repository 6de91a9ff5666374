"""A finished experiment and its zip, for all tests of submissions."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from toolkit.__main__ import main
from toolkit.contamination import search
from toolkit.errors import UserError
from toolkit.files import REPOSITORY, sha256_of
from toolkit.fixed_part import LOG_LINE, FixedPart, read_fixed_part
from toolkit.submission import archive, logs

PRETRAIN, FINETUNE = "output/training_dirs/MGM-Mini-Pretrain-best", "output/training_dirs/MGM-Mini-Finetune-best"
RESULTS = "output/eval_results/MGM-Mini-Finetune-best"
ROWS = "output/processed_data/processed_data.jsonl"

ROWS_KEPT, IMAGES_KEPT, PREPARED = (
    f"{PRETRAIN}/pretrain_data.{name}" for name in ("rows.jsonl", "images.sha256", "run.json")
)
RECORDS = {
    PREPARED,
    *(f"{folder}/run.json" for folder in (PRETRAIN, FINETUNE, f"{RESULTS}/textvqa", f"{RESULTS}/mmbench")),
}
ONLINE = RECORDS | {
    "solution/README.md",
    "solution/requirements.txt",
    "solution/process.py",
    "output/train.sh",
    f"{PRETRAIN}/pretrain.log",
    f"{FINETUNE}/finetune.log",
    f"{RESULTS}/score.json",
    f"{RESULTS}/textvqa/answers.jsonl",
    f"{RESULTS}/mmbench/answers.jsonl",
    f"{RESULTS}/mmbench/answers_upload.xlsx",
}
OFFLINE = ONLINE | {
    ROWS,
    IMAGES_KEPT,
    "output/processed_data/synthetic_images/s.png",
    f"{PRETRAIN}/mm_projector.bin",
    f"{FINETUNE}/config.json",
    f"{FINETUNE}/tokenizer.json",
    f"{FINETUNE}/model-00001-of-00001.safetensors",
    f"{FINETUNE}/model.safetensors.index.json",
}

FIXED_PART = read_fixed_part()
OURS = f"{LOG_LINE}{FIXED_PART.sha256}"
TRAINER = "toolkit/training/trainer.py"
OTHER = FixedPart(FIXED_PART.files | {TRAINER: "0" * 64})

# CI installs it; there its absence is a failure.
needs_zip = pytest.mark.skipif(not shutil.which("zip") and not os.environ.get("CI"), reason="no zip program here")


def record(fixed_part: FixedPart = FIXED_PART, **more: object) -> dict[str, object]:
    """What `pack` looks at in a stage's record."""
    return {"experiment_only": [], "fixed_part": fixed_part.record(), **more}


def change_record(path: Path, **more: object) -> None:
    """Replace keys of a record."""
    path.write_text(json.dumps(json.loads(path.read_text()) | more))


def write_records(root: Path) -> None:
    """The records of the experiment `best`, as the files are now."""

    def hashes(*names: str) -> dict[str, str]:
        return {name: sha256_of(root / name) for name in names if (root / name).is_file()}

    model = [name for name in OFFLINE if name.startswith(FINETUNE) and name.endswith(("json", "safetensors"))]
    model.remove(f"{FINETUNE}/run.json")
    data, adapter = f"{PRETRAIN}/pretrain_data.json", f"{PRETRAIN}/mm_projector.bin"
    parts = {
        PREPARED: {"inputs": hashes(ROWS), "outputs": hashes(data, ROWS_KEPT, IMAGES_KEPT)},
        f"{PRETRAIN}/run.json": record(inputs=hashes(data), outputs=hashes(adapter)),
        f"{FINETUNE}/run.json": record(inputs=hashes(adapter), outputs=hashes(*model, f"{FINETUNE}/train.sh")),
    }
    for name in ("textvqa", "mmbench"):
        answers = [f"{RESULTS}/{name}/{file}" for file in ("answers.jsonl", "answers_upload.xlsx")]
        parts[f"{RESULTS}/{name}/run.json"] = record(inputs=hashes(*model), outputs=hashes(*answers))
    for name, content in parts.items():
        (root / name).write_text(json.dumps(content))


def _no_exam(_preset: object) -> None:
    raise UserError("questions.jsonl: no such file, and nothing to compare with; `bash download.sh` brings it")


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished experiment `best`, with much beside it that no submission takes along."""
    root = tmp_path / "workspace"
    beside = {
        "output/audit/mini.parquet",
        "output/train.sh.old",
        f"{PRETRAIN}/pretrain_data.json",
        f"{FINETUNE}/training_args.bin",
        f"{FINETUNE}/checkpoint-9/model-00001-of-00001.safetensors",
        f"{RESULTS}/textvqa/.answers-1-x.jsonl",
        "solution/__pycache__/process.pyc",
        "solution/.ipynb_checkpoints/a.py",
        f"{FINETUNE}/train.sh",
    }
    for name in OFFLINE | beside:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"content of {name}\n" * 3)
    for log in (f"{PRETRAIN}/pretrain.log", f"{FINETUNE}/finetune.log"):
        (root / log).write_text(f"{OURS}\nstep 1\n")
    script = (REPOSITORY / "toolkit/train_mgm_mini_stage_1.sh").read_text()
    (root / FINETUNE / "train.sh").write_text(script.replace("EXP_NAME:-default", "EXP_NAME:-best"))
    rows = [{"images": [path], "text": "<image>\nx", "id": path} for path in ("images/1.jpg", "synthetic_images/s.png")]
    for name in (ROWS, ROWS_KEPT):
        (root / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    image = "synthetic_images/s.png"
    (root / IMAGES_KEPT).write_text(f"{sha256_of(root / 'output/processed_data' / image)}  {image}\n")
    (root / "seed/images").mkdir(parents=True)
    (root / "seed/images/1.jpg").touch()
    write_records(root)
    shutil.copy(root / FINETUNE / "train.sh", root / "output/train.sh")
    monkeypatch.setattr(archive, "REPOSITORY", root)
    monkeypatch.setattr(search, "read_exam", _no_exam)  # so does looking at 400 images
    monkeypatch.setattr(search, "KNOWN", root / "known.sqlite")
    monkeypatch.setattr(logs, "read_fixed_part", lambda: FIXED_PART)  # reading it takes longer than all the rest
    return root


def pack(workspace: Path, kind: str, name: str = "submit.zip") -> tuple[int, Path]:
    out = workspace / name
    return main(["pack", kind, "best", "--out", str(out), "--images", str(workspace / "seed")]), out


def refusal(capsys: pytest.CaptureFixture[str], status: int) -> str:
    assert status == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def rewritten(source: Path, target: Path, drop: str = "", **more: str) -> Path:
    """Copy a zip member by member, one left out, others added or replaced, as a person with `zip` might."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            if name not in {drop, *more}:
                new.writestr(name, old.read(name))
        for name, content in more.items():
            new.writestr(name, content)
    return target


def unpacked(source: Path, folder: Path) -> Path:
    """The files of a packed submission, as a participant might gather them without `pack`."""
    with zipfile.ZipFile(source) as archive:
        archive.extractall(folder)
    return folder


def zip_by_hand(folder: Path, *words: str) -> Path:
    """`zip -r submit.zip WORDS` in a folder; it writes entries for folders too, which `pack` does not."""
    subprocess.run(["zip", "-q", "-r", "byhand.zip", *words], cwd=folder, check=True)
    return folder / "byhand.zip"
