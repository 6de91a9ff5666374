"""toolkit/training/preflight.py and its command: what is looked at, in which order, and what it says."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from toolkit.__main__ import main
from toolkit.errors import UserError
from toolkit.files import REPOSITORY, sha256_of, write_json
from toolkit.fixed_part import read_fixed_part
from toolkit.presets import load_preset
from toolkit.training import disk, preflight
from toolkit.training.plan import StageRequest, fingerprint, make_plan
from toolkit.training.run import settings_of

FULL_BATCHES = ("8", "4", "8", "2")
EIGHT = "0,1,2,3,4,5,6,7"


@pytest.fixture
def full(small_seed, tmp_path):
    """The small seed's preset with the figures of the full one, and every file that it names."""
    values = yaml.safe_load(small_seed.preset.read_text())
    values |= {"needs_gpu": True, "download": "bash download.sh"}
    values["pretrain"]["global_batch"], values["finetune"]["global_batch"] = 256, 128
    for key in ("llm", "vision_tower", "vision_tower_aux"):
        folder = tmp_path / "models" / key
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_text("")
        values[key] = str(folder)
    files = {name: tmp_path / "models" / name for name in ("finetune.json", "textvqa.jsonl", "mmbench.tsv")}
    for file in files.values():
        file.write_text("")
    values["finetune_data"] = str(files["finetune.json"])
    values["textvqa"]["questions"], values["mmbench"]["questions"] = (
        str(files["textvqa.jsonl"]),
        str(files["mmbench.tsv"]),
    )
    values["finetune_images"] = values["textvqa"]["images"] = str(tmp_path / "models")
    path = tmp_path / "full.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture
def look(small_seed, full, monkeypatch, capsys):
    """Run preflight; returns status, output, error text."""
    small_seed.write(small_seed.row(0), small_seed.row(1))

    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _path: SimpleNamespace(free=1e12))

    def run(batches=FULL_BATCHES, visible=8, infer=EIGHT, preset=full, data=None, gpus=(), more=()):
        monkeypatch.setattr(preflight, "visible_gpus", lambda: visible)
        data = data or small_seed.processed / "processed_data.jsonl"
        words = ["--preset", str(preset), "--stage-batches", *batches, "--data", str(data)]
        status = main(["preflight", *words, "--images", str(small_seed.folder), "--infer-gpus", infer, *gpus, *more])
        captured = capsys.readouterr()
        assert captured.err.count("\n") == status
        return status, captured.out, captured.err

    return run


def test_a_sound_run_is_described(look, small_seed):
    status, output, _ = look()
    file = small_seed.processed / "processed_data.jsonl"
    assert status == 0
    assert output.splitlines() == [
        f"pre-training file   {file}",
        "rows                2 (at most 8 are trained)",
        f"sha256              {sha256_of(file)}",
        "pre-training batch  8 x 4 x 8 GPUs = 256",
        "finetuning batch    8 x 2 x 8 GPUs = 128",
    ]


@pytest.mark.parametrize(
    ("batches", "visible", "text"),
    [
        (FULL_BATCHES, 2, "pretrain batch: 8 x 4 x 2 GPUs = 64, must be 256: set PRETRAIN_BATCH_SIZE_PER_GPU x "),
        (
            ("8", "4", "8", "4"),
            8,
            "finetune batch: 8 x 4 x 8 GPUs = 256, must be 128: set FINETUNE_BATCH_SIZE_PER_GPU x ",
        ),
        (("256", "1", "64", "1"), 1, "finetune batch: 64 x 1 x 1 GPU = 64, must be 128: set FINETUNE_"),
        (FULL_BATCHES, 3, "8 x 4 x 3 GPUs = 96, must be 256: 3 GPUs cannot share 256"),
    ],
)
def test_batch_products_are_summed_up(look, batches, visible, text):
    status, output, error = look(batches, visible)
    assert (status, output) == (1, "")
    assert text in error


def test_batches_come_before_data_and_data_before_gpus_and_gpus_before_files(look, full, tmp_path):
    shutil.rmtree(tmp_path / "models")
    nothing = tmp_path / "nothing.jsonl"
    assert "must be 256" in look(("8", "2", "8", "2"), visible=0, data=nothing)[2]
    assert f"PRETRAIN_DATASET {nothing}: no such file" in look(visible=0, data=nothing)[2]
    assert "error: no GPU:" in look(visible=0)[2]
    assert "missing: " in look()[2]


def test_without_a_gpu_batches_count_for_the_gpus_that_infer(look):
    assert "no GPU" in look(visible=0)[2]
    assert "16 x 4 x 8 GPUs = 512, must be 256" in look(("16", "4", "8", "2"), visible=0)[2]
    assert "no GPU" in look(("4", "64", "4", "32"), visible=0, infer="0")[2]


def test_gpus_that_are_not_there_are_named(look):
    assert "8 GPUs asked for, 4 visible" in look(visible=4, gpus=("--gpus", "8"))[2]
    batches = ("8", "16", "8", "8")
    assert "INFER_CUDA_IDX names GPU 7, visible: 0 to 1" in look(batches, visible=2)[2]
    assert look(batches, visible=2, infer="1, 0")[0] == 0
    assert look(batches, visible=8, infer="1", gpus=("--gpus", "2"))[0] == 0
    assert "INFER_CUDA_IDX '0,x'" in look(infer="0,x")[2]


def test_the_cpu_counts_as_one_device_for_the_mini_preset(look, full):
    values = yaml.safe_load(full.read_text()) | {"needs_gpu": False}
    full.write_text(yaml.safe_dump(values))
    status, output, _ = look(("16", "16", "16", "8"), visible=0, infer="0")
    assert status == 0
    assert "16 x 16 x 1 CPU = 256" in output


@pytest.mark.parametrize(
    ("lost", "named"),
    [
        ("llm/config.json", "llm/config.json"),
        ("vision_tower/model.safetensors", "vision_tower/model weights"),
        ("vision_tower_aux/model.safetensors", "vision_tower_aux/model weights"),
        ("finetune.json", "finetune.json"),
        ("textvqa.jsonl", "textvqa.jsonl"),
        ("mmbench.tsv", "mmbench.tsv"),
    ],
)
def test_a_missing_file_is_named_with_the_command_that_brings_it(look, tmp_path, lost, named):
    (tmp_path / "models" / lost).unlink()
    status, output, error = look()
    assert (status, output) == (1, "")
    assert error == f"error: missing: {tmp_path}/models/{named}; run `bash download.sh`\n"


def test_how_many_files_are_missing(small_seed, full, tmp_path):
    shutil.rmtree(tmp_path / "models" / "llm")
    (tmp_path / "models" / "vision_tower" / "model.safetensors").rename(
        tmp_path / "models" / "vision_tower" / "pytorch_model.bin"
    )
    with pytest.raises(UserError, match=r"llm/config\.json \(and 1 more\)"):
        preflight.require_files(load_preset(str(full)))


def test_an_empty_data_file_is_refused(look, small_seed, tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    assert "the file is empty" in look(data=tmp_path / "empty.jsonl")[2]


def test_the_raw_seed_and_a_copy_of_it_are_said(look, small_seed):
    file = small_seed.processed / "processed_data.jsonl"
    assert "warning" not in look()[1]
    shutil.copy(file, small_seed.folder / "seed.jsonl")
    assert "warning: this is the raw seed (seed.jsonl), not a recipe's output" in look()[1]
    assert "warning: this is the raw seed" in look(data=small_seed.folder / "seed.jsonl")[1]
    small_seed.write(small_seed.row(0), small_seed.row(2))
    assert "warning" not in look()[1]


def test_a_run_of_another_fixed_part_is_refused_before_anything_is_written(look, tmp_path):
    run = tmp_path / "MGM-2B-Pretrain-x"
    assert look(more=("--runs", str(run)))[0] == 0
    run.mkdir()
    (run / "plan.json").write_text('{"inputs": {}, "configuration": {}}')
    status, output, error = look(more=("--runs", str(tmp_path / "none"), str(run)))
    assert (status, output) == (1, "")
    assert f"{run}/plan.json: this run began under another fixed part: its record lists no files" in error


@pytest.fixture
def finished(look, small_seed, full, tmp_path):
    """Folders of an experiment whose two stages have ended, as the training script makes them, and their listing."""
    runs = [tmp_path / "runs" / f"MGM-2B-{stage}-x" for stage in ("Pretrain", "Finetune")]
    words = [*small_seed.arguments(small_seed.processed / "processed_data.jsonl"), "--preset", str(full)]
    assert main(["prepare", *words, "--out", str(runs[0] / "pretrain_data.json")]) == 0
    (runs[0] / "mm_projector.bin").write_text("adapter")
    preset, fixed_part = load_preset(str(full)), read_fixed_part(str(full))
    for stage, out, batches in (("pretrain", runs[0], (8, 4)), ("finetune", runs[1], (8, 2))):
        data = {"pretrain": out / "pretrain_data.json", "finetune": preset.finetune_data}[stage]
        images = {"pretrain": small_seed.folder, "finetune": preset.finetune_images}[stage]
        synthetic = small_seed.processed if stage == "pretrain" else images
        adapter = None if stage == "pretrain" else runs[0] / "mm_projector.bin"
        request = StageRequest(stage, data, images, synthetic, adapter, out, *batches, True, "stop")
        inputs = fingerprint(
            [data, *([adapter] if adapter else [])], [preset.llm, preset.vision_tower, preset.vision_tower_aux]
        )
        write_json(out / "run.json", make_plan(settings_of(request, preset), inputs, fixed_part))
    (runs[1] / "train.sh").write_text("script")
    return ("--runs", *map(str, runs)), lambda: {
        path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (tmp_path / "runs").rglob("*") if path.is_file()
    }


def test_another_run_in_the_folder_of_a_finished_one_changes_nothing_there(
    look, finished, small_seed, full, monkeypatch, capsys
):
    more, listing = finished
    before = listing()
    assert look(more=more)[0] == 0, "the same run again"
    file = small_seed.processed / "processed_data.jsonl"
    words = [*small_seed.arguments(file), "--preset", str(full), "--out", f"{more[1]}/pretrain_data.json"]
    assert main(["prepare", *words]) == 0
    assert "as this run was started with" in capsys.readouterr().out
    assert "holds a finished run of batch" in look(("16", "2", "8", "2"), more=more)[2]
    error = look(("8", "4", "4", "4"), more=more)[2]
    assert "MGM-2B-Finetune-x holds a finished run of batch" in error
    monkeypatch.setenv("TRAIN_SEED", "1")
    assert "differs in initialisation_seed, order_seed" in look(more=more)[2]
    monkeypatch.delenv("TRAIN_SEED")
    (load_preset(str(full)).llm / "config.json").write_text('{"a": 1}')
    assert "llm/config.json" in look(more=more)[2]
    (load_preset(str(full)).llm / "config.json").write_text("{}")

    small_seed.write(small_seed.row(0), small_seed.row(1, text="<image>\nAnother caption. <|__dj__eoc|>"))
    status, output, error = look(more=more)
    assert (status, output) == (1, "")
    assert f"PRETRAIN_DATASET {file}: not the file that the run in {more[1]} was started with" in error
    assert main(["prepare", *words]) == 1
    assert "not the rows that the run in" in capsys.readouterr().err
    assert listing() == before


@pytest.mark.parametrize("content", ["", "[]", "null", '{"inputs": 3}'])
def test_a_damaged_record_of_an_earlier_run_is_one_line(look, finished, content):
    more, _ = finished
    for folder in more[1:]:
        record = Path(folder, "run.json")
        whole = record.read_text()
        record.write_text(content)
        assert str(record) in look(more=more)[2]
        record.write_text(whole)


def test_a_disk_that_would_be_full_in_hours_is_said_with_what_is_needed(look, tmp_path, monkeypatch):
    run, free = tmp_path / "MGM-2B-Finetune-x", 100_000_000_000
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _path: SimpleNamespace(free=free))
    assert look(more=("--runs", str(run)))[0] == 0
    _, output, error = look(more=("--runs", str(run), "--save-total-limit", "2"))
    assert output == ""
    assert "finetune needs up to 139.0 GB there (2 checkpoints of 42.3 GB, the next one, and the result)" in error
    assert "100.0 GB are free; make room; TOTAL_SAVE_CKPT_LIMIT=1 needs less" in error
    (run / "checkpoint-9").mkdir(parents=True)
    with (run / "checkpoint-9" / "model").open("wb") as file:
        file.truncate(41_000_000_000)  # a sparse file: the room it has is not needed again
    assert look(more=("--runs", str(run), "--save-total-limit", "2"))[0] == 0


def test_a_script_changed_outside_its_editable_part_is_refused(look, tmp_path):
    script = REPOSITORY / "toolkit/train_mgm_2b_stage_1.sh"
    assert look(more=("--script", str(script)))[0] == 0
    copy = tmp_path / "train_mine.sh"
    shutil.copy(script, copy)
    assert look(more=("--script", str(copy)))[0] == 0, "another name is no change"
    copy.write_text(script.read_text().replace("PRESET=full", "PRESET=other"))
    status, output, error = look(more=("--script", str(copy)))
    assert (status, output) == (1, "")
    assert f"{copy}: outside its editable part line 37 is `PRESET=other` where " in error


def test_a_batch_that_is_no_number_is_refused(look, capsys):
    with pytest.raises(SystemExit) as end:
        look(("8", "many", "8", "2"))
    assert end.value.code == 2
    assert "expected a whole number above 0, found 'many'" in capsys.readouterr().err
