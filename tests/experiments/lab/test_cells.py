"""Cells at toy size: trained once, found again, keyed by what decides them."""

import dataclasses
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from experiments.lab.bench import Bench
from experiments.lab.cells import Cell, read_answers, read_lab_records, read_record, record_files
from experiments.lab.features import FeatureCache
from experiments.lab.training import CachedTrainer, Job, train_by_commands
from experiments.lab.worlds import SEED_FILE, Draw
from experiments.mini_world.report import RECORDS, lab_of_report
from tests.experiments.lab.conftest import CAP, QUESTIONS
from toolkit.__main__ import main
from toolkit.files import read_json, write_json, write_jsonl
from toolkit.mgm.checkpoint import build_model
from toolkit.mgm.images import open_image, scale_image
from toolkit.processes import InUseError, owner_of


def cell_of(bench: Bench, arm: str, seed: int = 0, draw: int = 0) -> Cell:
    return Cell(bench.lab.arms[arm], draw, seed)


class Never:
    """A trainer that must not be called."""

    def __call__(self, job: Job):
        raise AssertionError("trained again")


def test_cached_features_are_those_of_pixels_and_are_bounded(bench):
    preset = bench.preset
    model = build_model(
        preset.llm, preset.vision_tower, preset.vision_tower_aux, preset.image_size_aux, 2048, torch.float32, seed=3
    ).eval()
    rows, roots = bench.rows_of(cell_of(bench, "raw"))
    paths = [roots.resolve(row["image"]) for row in rows[:3]]
    pixels = torch.stack([scale_image(open_image(path), preset.image_size_aux, "square") for path in paths])
    plain = model.encode_images(pixels)
    features = FeatureCache(model, images=2)
    indices = torch.stack([features.index(path, "square") for path in [*paths, paths[2]]])
    assert indices.tolist() == [0, 1, 2, 2]
    assert features.encoded == 3
    features.attach(model)
    torch.testing.assert_close(model.encode_images(indices)[:3], plain, rtol=1e-4, atol=1e-4)
    assert features.encoded == 6  # two are held, so each of the three was made again
    assert len(features._features) == 2


def test_a_cell_leaves_its_record_and_answers_and_is_not_repeated(bench, toy, output):
    key = bench.key_of(cell_of(bench, "raw", seed=1))
    left = output / "work" / key / "pretrain" / "checkpoint-2"  # as a killed training may leave it, without weights
    left.mkdir(parents=True)
    write_json(left / "files.json", {"trainer_state.json": "2 0"})
    record, trained = bench.make(cell_of(bench, "raw", seed=1))
    assert trained
    folder = bench.lab.records
    assert record == read_record(folder / "raw-draw0-seed1.json")
    assert record["counts"]["rows"] == record["samples"]["pretrain"] == CAP
    assert len(record["loss"]["pretrain"]) == CAP / 2
    assert set(record["scores"]["mmbench"]) == {"all", "object", "count", "colour", "relation", "text"}
    assert not (output / "work" / record["key"]).exists()

    found = read_answers(folder, [record])
    assert (found["benchmark"].value_counts() == QUESTIONS).all()
    for benchmark, shares in record["scores"].items():
        mine = found[found["benchmark"] == benchmark]
        assert mine["correct"].mean() == pytest.approx(shares["all"])
        by_category = mine.groupby("category")["correct"].mean()
        assert {name: shares[name] for name in by_category.index} == pytest.approx(dict(by_category))

    bench.trainer = Never()
    assert bench.make(cell_of(bench, "raw", seed=1)) == (record, False)
    with pytest.raises(AssertionError, match="trained again"):
        bench.make(cell_of(bench, "raw", seed=2))
    assert bench.make(cell_of(bench, "raw", seed=2), may_train=False) == (None, False)

    # A lab that shares nothing but this lab's records takes it over as well.
    away = Bench(
        dataclasses.replace(bench.lab, output=output / "away", records=folder.parent / "away", reuse=(folder,))
    )
    away.trainer = Never()
    assert away.make(cell_of(away, "raw", seed=1)) == (record, False)

    # Another lab with the same data under another name takes it over, one with another cap does not.
    other = Bench(dataclasses.replace(toy({"seed": "raw"}), records=folder.parent / "other"))
    other.trainer = Never()
    assert other.make(cell_of(other, "seed", seed=1)) == (record | {"arm": "seed"}, False)
    assert len(read_answers(other.lab.records, [record | {"arm": "seed"}])) == 2 * QUESTIONS
    smaller = Bench(toy({"raw": "raw"}, sample_cap=CAP - 8))
    smaller.trainer = Never()
    with pytest.raises(AssertionError, match="trained again"):
        smaller.make(cell_of(smaller, "raw", seed=1))


def test_a_changed_image_makes_another_cell(bench, tmp_path):
    lab = dataclasses.replace(bench.lab, output=tmp_path)  # its seed is changed here
    own = Bench(lab)
    key = own.key_of(cell_of(own, "raw"))
    rows, roots = own.rows_of(cell_of(own, "raw"))
    image = roots.resolve(rows[0]["image"])
    image.write_bytes(image.read_bytes() + b" ")
    assert Bench(lab).key_of(cell_of(own, "raw")) != key


def test_a_cell_that_another_process_trains_is_left_to_it(bench):
    cell = cell_of(bench, "raw", seed=3)
    with owner_of(bench.store.cells, bench.key_of(cell)), pytest.raises(InUseError):
        bench.make(cell)


def test_records_of_data_that_have_changed_are_left_out(tmp_path):
    record = read_json(RECORDS / "test" / "raw-draw0-seed0.json")
    for name in ("raw-draw0-seed0", "raw-draw0-seed1"):
        write_json(tmp_path / f"{name}.json", record | {"seed": int(name[-1])})
    assert len(read_lab_records(tmp_path)["raw"]) == 2
    key = read_record(tmp_path / "raw-draw0-seed1.json")["key"]
    write_json(tmp_path / "lab.json", {"arms": {"raw": {}}, "cells": {"raw-draw0-seed1": key}})
    assert [found["seed"] for found in read_lab_records(tmp_path)["raw"]] == [1]


@pytest.mark.slow
def test_committed_records_have_the_inputs_of_this_code(tmp_path):
    """A record whose inputs are equal is read, not trained again: rows, images, evaluation set, models, settings."""
    words = {"recipe": RECORDS, "seeds": None, "draws": None, "split": "test", "stochastic_depth": False}
    names = ("none", "raw", "no_blur")
    lab = lab_of_report(type("Words", (), words), tmp_path / "records", names)
    shutil.copytree(RECORDS / "test", lab.records)
    bench = Bench(dataclasses.replace(lab, output=tmp_path))
    bench.trainer = Never()
    for arm in names:
        record, _ = bench.make(cell_of(bench, arm))
        assert record["scores"] == read_json(RECORDS / "test" / f"{arm}-draw0-seed0.json")["scores"]


def test_another_world_has_a_folder_of_its_own(toy):
    def folder(**world) -> object:
        return Bench(toy({"raw": "raw"}, world=world))._world_folder

    assert folder(rows=60) == folder(rows=60, draws=3, split="test")
    assert len({folder(rows=60), folder(rows=61), folder(rows=60, questions=9), folder(shares={"blur": 0.5})}) == 4


def test_two_shells_build_a_world_one_after_the_other(toy, tmp_path, monkeypatch):
    """Both need the draw at the same time; without waiting both would build it."""
    built = []

    def slow_build(folder, truth_file, *_):
        built.append(folder)
        time.sleep(0.3)
        write_jsonl(folder / SEED_FILE, [])
        truth_file.touch()

    monkeypatch.setattr("experiments.lab.worlds.build_seed", slow_build)
    monkeypatch.setattr("experiments.lab.arms.SECONDS_BETWEEN_LOOKS", 0.05)
    lab = toy({"raw": "raw"})
    seeds = [Draw(tmp_path / "world", 0, lab.world, lab.preset) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda seed: seed.build(), seeds))
    assert len(built) == 1


@pytest.mark.slow
def test_a_cell_trains_as_the_command_does(bench, tmp_path, monkeypatch):
    rows, roots = bench.rows_of(cell_of(bench, "raw"))
    done = CachedTrainer()(Job(bench.preset, rows, roots, 1, tmp_path / "job"))
    monkeypatch.setenv("TRAIN_SEED", "1")
    write_json(tmp_path / "rows.json", rows)
    more = ["--preset", "mini", "--accumulation", "1", "--workers", "0", "--no-stochastic-depth"]
    stages = {
        "pretrain": [tmp_path / "rows.json", roots.seed],
        "finetune": [bench.preset.finetune_data, bench.preset.finetune_images],
    }
    for stage, (data, images) in stages.items():
        adapter = ["--adapter", str(tmp_path / "pretrain" / "mm_projector.bin")] if stage == "finetune" else []
        batch = ["--batch", str(bench.preset.stage(stage).global_batch)]
        words = ["train", stage, "--data", str(data), "--images", str(images), "--out", str(tmp_path / stage)]
        assert main([*words, *adapter, *batch, *more]) == 0
        history = read_json(tmp_path / stage / "trainer_state.json")["log_history"]
        assert [line["loss"] for line in history if "loss" in line] == pytest.approx(done.loss[stage], rel=1e-4)


@pytest.mark.slow
def test_without_cached_features_a_cell_is_what_the_commands_make(bench, toy):
    """With stochastic depth, which the features exclude; the same rows, questions and table of answers."""
    lab = toy({"none": "none"}, features="none")
    own = Bench(lab)
    assert own.trainer is train_by_commands
    record, _ = own.make(cell_of(own, "none", seed=1))
    assert record["inputs"]["figures"]["stochastic_depth"] is True
    assert "pretrain" not in record["loss"]
    plain, _ = bench.make(cell_of(bench, "none", seed=1))
    assert (plain["counts"]["rows"], "pretrain" in plain["loss"]) == (0, False)
    assert record["loss"] != plain["loss"]
    assert record["samples"] == plain["samples"]
    assert len(record_files(lab.records)) == 1
    assert len(read_answers(lab.records, [record])) == 2 * QUESTIONS
