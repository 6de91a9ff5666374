"""`pack` and `verify`: what goes in, what is refused and by which name; which fixed part made it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from toolkit.__main__ import main
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
    monkeypatch.setattr(logs, "read_fixed_part", lambda: FIXED_PART)  # reading it takes longer than all the rest
    return root


def pack(workspace: Path, kind: str, name: str = "submit.zip") -> tuple[int, Path]:
    out = workspace / name
    return main(["pack", kind, "best", "--out", str(out), "--images", str(workspace / "seed")]), out


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


def refusal(capsys: pytest.CaptureFixture[str], status: int) -> str:
    assert status == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


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
    assert "worst: no run of that name" in refusal(capsys, status)


@pytest.mark.parametrize("used", ["TRAIN_SEED=3", "PRETRAIN=none", "--no-stochastic-depth"])
def test_experiment_only_runs_are_refused(workspace: Path, capsys: pytest.CaptureFixture[str], used: str) -> None:
    change_record(workspace / FINETUNE / "run.json", experiment_only=[used])
    assert used in refusal(capsys, pack(workspace, "online")[0])


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


@pytest.mark.parametrize("content", ["", "[]", '{"outputs": 3}'])
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


def test_weights_in_an_online_zip_are_refused(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workspace / "solution/captioner.safetensors").touch()
    assert "solution/captioner.safetensors holds weights" in refusal(capsys, pack(workspace, "online")[0])
    assert pack(workspace, "offline")[0] == 0


def test_symbolic_links_are_refused(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workspace / "solution/link.py").symlink_to(workspace / "solution/process.py")
    assert "link.py is a symbolic link" in refusal(capsys, pack(workspace, "online")[0])


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


def rewritten(source: Path, target: Path, drop: str = "", **more: str) -> Path:
    """Copy a zip member by member, one left out, others added or replaced, as a person with `zip` might."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            if name not in {drop, *more}:
                new.writestr(name, old.read(name))
        for name, content in more.items():
            new.writestr(name, content)
    return target


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


def unpacked(source: Path, folder: Path) -> Path:
    """The files of a packed submission, as a participant might gather them without `pack`."""
    with zipfile.ZipFile(source) as archive:
        archive.extractall(folder)
    return folder


def zip_by_hand(folder: Path, *words: str) -> Path:
    """`zip -r submit.zip WORDS` in a folder; it writes entries for folders too, which `pack` does not."""
    subprocess.run(["zip", "-q", "-r", "byhand.zip", *words], cwd=folder, check=True)
    return folder / "byhand.zip"


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
