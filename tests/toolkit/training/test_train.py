"""`python -m toolkit train`: its outputs, its refusals, and what a second run does."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests import warm
from tests.toolkit.training.conftest import SmallWorld, run
from toolkit import files
from toolkit.files import REPOSITORY, read_json, sha256_of, write_json
from toolkit.fixed_part import LOG_LINE, FixedPart, read_fixed_part
from toolkit.mgm.checkpoint import load_finetuned
from toolkit.presets import load_preset
from toolkit.training.plan import PLAN, StageRequest, fingerprint, is_finished, make_plan
from toolkit.training.run import settings_of

STEPS = 22 // 4


@pytest.fixture(scope="module")
def pretrained(small_world: SmallWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output folder of an uninterrupted pre-training."""
    out = tmp_path_factory.mktemp("pretrain") / "out"
    done = small_world.train("pretrain", out, "--save-steps", "2")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("fixed part sha256: ")
    assert len([line for line in lines if f"/{STEPS}  loss " in line]) == STEPS
    assert not done.stderr, "training keeps the terminal tidy"
    return out


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "mm_projector.bin", weights_only=True)


def test_pretraining_leaves_its_files_and_record(small_world: SmallWorld, pretrained: Path) -> None:
    assert len(adapter(pretrained)) == 16
    assert json.loads((pretrained / "config.json").read_text())["image_aspect_ratio"] == "square"
    record = json.loads((pretrained / "run.json").read_text())
    assert record["inputs"][str(small_world.data)] == sha256_of(small_world.data)
    assert record["counts"]["steps"] == STEPS
    assert record["counts"]["rows"] == 22
    assert record["counts"]["samples_trained"] == STEPS * 4
    assert record["configuration"]["initialisation_seed"] == 1024
    assert record["configuration"]["order_seed"] == 42
    assert record["experiment_only"] == []
    fixed_part = read_fixed_part(str(small_world.preset))
    assert record["fixed_part"] == {"sha256": fixed_part.sha256, "files": fixed_part.files}
    assert "toolkit/training/trainer.py" in fixed_part.files
    history = json.loads((pretrained / record["loss_history"]).read_text())["log_history"]
    assert [entry["step"] for entry in history if "loss" in entry] == [1, 2, 3, 4, 5]


def test_a_finished_stage_keeps_no_checkpoint(pretrained: Path) -> None:
    assert not list(pretrained.rglob("*checkpoint*"))


def test_a_finished_stage_says_so_at_once(small_world: SmallWorld, pretrained: Path) -> None:
    before = [sha256_of(pretrained / name) for name in ("mm_projector.bin", "run.json")]
    again = small_world.train("pretrain", pretrained, "--save-steps", "2")
    assert again.returncode == 0
    assert "already finished" in again.stdout
    assert "step 1/" not in again.stdout
    assert [sha256_of(pretrained / name) for name in ("mm_projector.bin", "run.json")] == before


def test_a_finished_folder_refuses_another_run(small_world: SmallWorld, pretrained: Path) -> None:
    other = small_world.write_data("other.json", small_world.rows()[1:])
    refused = small_world.train("pretrain", pretrained, data=other)
    assert refused.returncode == 1
    assert "EXP_NAME" in refused.stderr
    assert refused.stderr.count("\n") == 1
    refused = run(small_world.command("pretrain", pretrained), TRAIN_SEED="7")
    assert "initialisation_seed, order_seed" in refused.stderr


@pytest.mark.parametrize("name", ["plan.json", "run.json"])
@pytest.mark.parametrize("age", ["changed", "old"])
def test_another_fixed_part_neither_resumes_nor_counts_as_finished(
    small_world: SmallWorld, pretrained: Path, tmp_path: Path, name: str, age: str
) -> None:
    record = read_json(pretrained / "run.json")
    if age == "changed":
        record["fixed_part"]["files"]["toolkit/training/trainer.py"] = "0" * 64
    else:
        del record["fixed_part"]
    write_json(tmp_path / name, record)
    refused = small_world.train("pretrain", tmp_path, "--save-steps", "2")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.count("\n") == 1
    assert f"{tmp_path / name}: this run began under another fixed part: " in refused.stderr
    named = {"changed": "toolkit/training/trainer.py changed; ", "old": "as an older kit wrote it; "}[age]
    assert f"{named}choose another EXP_NAME, or remove the folder" in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_log_of_another_fixed_part_is_not_continued(small_world: SmallWorld, tmp_path: Path) -> None:
    log = tmp_path / "pretrain.log"
    log.write_text(f"{LOG_LINE}{'0' * 64}\nerror: no rows\n")
    refused = small_world.train("pretrain", tmp_path)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert f"{log}: this log began under another fixed part" in refused.stderr


@pytest.mark.parametrize("name", ["plan.json", "run.json"])
def test_images_that_changed_under_their_name_are_noticed(
    small_world: SmallWorld, pretrained: Path, tmp_path: Path, name: str
) -> None:
    """A copy of the same file, with another time, is the same image; a finished stage's images may be gone."""
    shutil.copy(pretrained / "run.json", tmp_path / name)
    image = small_world.images / "1.png"
    before, status = image.read_bytes(), image.stat()
    try:
        image.write_bytes(before)
        if name == "run.json":
            assert small_world.train("pretrain", tmp_path).returncode == 0
        Image.new("RGB", (31, 30), "red").save(image)
        refused = small_world.train("pretrain", tmp_path)
        image.unlink()
        if name == "run.json":
            assert small_world.train("pretrain", tmp_path).returncode == 0
    finally:
        image.write_bytes(before)
        os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert refused.returncode == 1
    assert f"{tmp_path} holds a run that began with other images under the same names (1.png); choose" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_a_run_resumes_with_the_batch_that_it_began_with(small_world: SmallWorld, pretrained: Path, tmp_path: Path):
    shutil.copy(pretrained / "run.json", tmp_path / "plan.json")
    refused = small_world.train("pretrain", tmp_path, "--batch", "1", "--accumulation", "4")
    assert refused.returncode == 1
    assert "an unfinished run of batch 2 x accumulation 2 on 1 GPUs: which samples share" in refused.stderr


def test_a_run_resumes_after_its_checkout_has_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths inside it are told as seen from it."""
    (tmp_path / "here/models/clip").mkdir(parents=True)
    for name in ("data.json", "adapter.bin", "models/clip/config.json"):
        (tmp_path / "here" / name).write_text(name)

    def plan_in(root: Path) -> dict:
        monkeypatch.setattr(files, "REPOSITORY", root)
        folder = root / "images"
        request = StageRequest(
            "finetune", root / "data.json", folder, folder, root / "adapter.bin", root / "out", 2, 2, True, "stop"
        )
        return make_plan(
            settings_of(request, load_preset("mini")),
            fingerprint([request.data, root / "adapter.bin"], [root / "models/clip"]),
            FixedPart({}),
        )

    before = plan_in(tmp_path / "here")
    assert str(tmp_path) not in json.dumps(before)
    (tmp_path / "here").rename(tmp_path / "there")
    write_json(tmp_path / "there" / "out" / PLAN, before)
    assert is_finished(tmp_path / "there" / "out", plan_in(tmp_path / "there")) is False


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_adapter(small_world: SmallWorld, pretrained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = small_world.command("pretrain", out, "--save-steps", "2")
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    for line in process.stdout:
        if f"step 3/{STEPS}" in line:
            process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "run.json").exists()
    # As if the kill had also cut the writing of the next checkpoint short.
    unfinished = out / ".unfinished_checkpoint" / "checkpoint-4"
    unfinished.mkdir(parents=True, exist_ok=True)
    (unfinished / "trainer_state.json").write_text('{"epoch": 0.')

    resumed = small_world.train("pretrain", out, "--save-steps", "2")
    assert resumed.returncode == 0, resumed.stderr
    assert f"step 2/{STEPS}" not in resumed.stdout
    record = json.loads((out / "run.json").read_text())
    assert record["counts"]["resumed_at_step"] == 2
    assert [attempt["exit"] for attempt in record["attempts"]] == ["killed", 0]
    assert not (out / "attempts.json").exists()
    for name, tensor in adapter(out).items():
        assert torch.equal(tensor, adapter(pretrained)[name]), name


def test_a_stage_that_fails_leaves_a_record(small_world: SmallWorld, pretrained: Path, tmp_path: Path) -> None:
    data = small_world.write_data("cut.json", small_world.rows()[:6])
    command = small_world.command("pretrain", tmp_path / "out", data=data)
    (tmp_path / "out" / "mm_projector.bin").mkdir(parents=True)  # in the way of the adapter
    failed = warm.run(command, cwd=REPOSITORY)
    assert failed.returncode == 1, failed.stderr
    record = json.loads((tmp_path / "out" / "attempts.json").read_text())
    assert record["stage"] == "pretrain"
    assert record["inputs"][str(data)] == sha256_of(data)
    assert "torch" in record["versions"]
    assert [attempt["exit"] for attempt in record["attempts"]] == [1]
    assert record["attempts"][0]["seconds"] > 0
    assert "Is a directory" in record["error"]
    (tmp_path / "out" / "mm_projector.bin").rmdir()
    assert warm.run(command, cwd=REPOSITORY).returncode == 0
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert [attempt["exit"] for attempt in record["attempts"]] == [1, 0]
    assert not (tmp_path / "out" / "attempts.json").exists()


@pytest.mark.slow
def test_finetuning_resumes_and_loads(small_world: SmallWorld, pretrained: Path, tmp_path: Path) -> None:
    words = ("--adapter", str(pretrained / "mm_projector.bin"), "--save-steps", "3")
    whole = small_world.train("finetune", tmp_path / "whole", *words)
    assert whole.returncode == 0, whole.stderr
    model = load_finetuned(tmp_path / "whole", torch.float32)
    record = json.loads((tmp_path / "whole" / "run.json").read_text())
    assert any(path.endswith("mm_projector.bin") for path in record["inputs"])
    assert json.loads((tmp_path / "whole" / "config.json").read_text())["image_aspect_ratio"] == "pad"

    out = tmp_path / "cut"
    process = subprocess.Popen(
        small_world.command("finetune", out, *words), cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if f"step 4/{STEPS}" in line:
            process.send_signal(signal.SIGKILL)
    process.wait()
    resumed = small_world.train("finetune", out, *words)
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads((out / "run.json").read_text())["counts"]["resumed_at_step"] == 3
    for (name, tensor), other in zip(
        model.named_parameters(), load_finetuned(out, torch.float32).parameters(), strict=True
    ):
        assert torch.equal(tensor, other), name


def faulty_rows(small_world: SmallWorld) -> list[dict]:
    rows = small_world.rows()
    rows[3]["conversations"][1]["value"] = ""
    rows[6]["image"] = "missing.png"
    # Its answer begins after the 128 tokens a sample may have: every label would be masked.
    rows[9]["conversations"][0]["value"] = "<image>\n" + "a long story about nothing " * 40
    return rows


def test_bad_rows_stop_the_run_before_it_starts(small_world: SmallWorld, tmp_path: Path) -> None:
    data = small_world.write_data("faulty.json", faulty_rows(small_world))
    refused = small_world.train("pretrain", tmp_path / "out", data=data)
    assert refused.returncode == 1
    assert "3 of 22 rows" in refused.stderr
    assert "row3" in refused.stderr
    assert "empty_answer" in refused.stderr
    assert "--on-error skip" in refused.stderr
    tries = json.loads((tmp_path / "out" / "attempts.json").read_text())
    assert [attempt["exit"] for attempt in tries["attempts"]] == [1]
    assert f"error: {tries['error']}\n" == refused.stderr
    assert refused.stderr.count("\n") == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["attempts.json"]


@pytest.mark.slow
def test_bad_rows_are_dropped_and_listed_under_skip(small_world: SmallWorld, tmp_path: Path) -> None:
    data = small_world.write_data("faulty.json", faulty_rows(small_world))
    done = small_world.train("pretrain", tmp_path / "out", "--on-error", "skip", data=data)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert [(row["row"], row["id"], row["file"], row["reason"]) for row in record["skipped"]] == [
        (3, "row3", "3.png", "empty_answer"),
        (6, "row6", "missing.png", "missing_image"),
        (9, "row9", "3.png", "nothing_supervised"),
    ]
    assert (record["counts"]["samples_trained"], record["counts"]["micro_batches"]) == (19, 10)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--batch", "3"), "global batch of 4"),
        (("--workers", "-1"), "--workers must be 0 or more, found -1"),
        (("--save-steps", "0"), "--save-steps must be 1 or more, found 0"),
        (("--batch", "1"), "needs 4"),
        (("--adapter", "x.bin"), "--adapter belongs to finetune"),
        (("--data", "nowhere.json"), "nowhere.json: no such file"),
        (("--preset", "ful"), "no preset 'ful'"),
    ],
)
def test_wrong_arguments_give_one_line(
    small_world: SmallWorld, tmp_path: Path, more: tuple[str, ...], message: str
) -> None:
    refused = small_world.train("pretrain", tmp_path / "out", *more)
    assert refused.returncode == 1
    assert message in refused.stderr
    assert refused.stderr.count("\n") == 1


@pytest.mark.slow
def test_train_seed_moves_both_seeds_and_is_recorded(small_world: SmallWorld, tmp_path: Path, pretrained: Path) -> None:
    done = run(small_world.command("pretrain", tmp_path / "out"), TRAIN_SEED="3")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (record["configuration"]["initialisation_seed"], record["configuration"]["order_seed"]) == (1027, 45)
    assert record["experiment_only"] == ["TRAIN_SEED=3"]
    name = "model.mm_projector.0.weight"
    assert not torch.equal(adapter(tmp_path / "out")[name], adapter(pretrained)[name])


@pytest.mark.slow
def test_a_finetuning_that_left_rows_out_is_marked(small_world: SmallWorld, tmp_path: Path) -> None:
    rows = small_world.rows()
    rows[1]["image"] = "missing.png"
    data = small_world.write_data("one_missing.json", rows)
    done = small_world.train("finetune", tmp_path / "out", "--on-error", "skip", data=data)
    assert done.returncode == 0, done.stderr
    assert read_json(tmp_path / "out" / "run.json")["experiment_only"] == [
        "PRETRAIN=none", "FINETUNE_ON_ERROR=skip, 1 rows"
    ]  # fmt: skip


@pytest.mark.slow
def test_reference_mode_trains_the_same(small_world: SmallWorld, tmp_path: Path) -> None:
    """Every fast path at once against none, over a whole stage."""
    for stage in ("pretrain", "finetune"):
        losses = {}
        for mode in ("default", "reference"):
            more = ["--no-stochastic-depth"] + (["--reference-mode"] if mode == "reference" else [])
            out = tmp_path / f"{stage}-{mode}"
            done = small_world.train(stage, out, *more)
            assert done.returncode == 0, done.stderr
            history = json.loads((out / "trainer_state.json").read_text())["log_history"]
            losses[mode] = [entry["loss"] for entry in history if "loss" in entry]
        assert losses["default"] == pytest.approx(losses["reference"], rel=1e-5)
