"""Trials of the experiment at toy size on the committed models; the committed records count as results of this code."""

import dataclasses
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from experiments.lab.arms import SEED_FILE, TRUTH_FILE, Draw, clip_similarities, repeat, replaced
from experiments.lab.features import FeatureCache
from experiments.lab.trials import Trial, TrialRunner
from experiments.mini_world.report import QUESTIONS as SCORED_QUESTIONS
from experiments.mini_world.report import RECIPE, RECORDS
from toolkit.__main__ import main
from toolkit.files import read_json, read_jsonl, write_json, write_jsonl
from toolkit.mgm.checkpoint import build_model
from toolkit.mgm.images import open_image, scale_image
from toolkit.mini.seed import ROWS as SEED_ROWS
from toolkit.presets import load_preset

ROWS, CAP, QUESTIONS = 60, 24, 10


@pytest.fixture(scope="module")
def runner(tmp_path_factory) -> TrialRunner:
    folder = tmp_path_factory.mktemp("trials")
    preset = load_preset("mini")
    write_json(folder / "finetune.json", read_json(preset.finetune_data)[:16])
    preset = dataclasses.replace(preset, sample_cap=CAP, finetune_data=folder / "finetune.json")
    return TrialRunner(preset, folder, folder / "records", "dev", Path("no_recipe.yaml"), ROWS, QUESTIONS)


@pytest.fixture(scope="module")
def draw(runner) -> Draw:
    built = Draw(runner.world / "draw_0", 0, ROWS, runner.preset, runner.recipe)
    built.training_rows("raw")  # builds its files
    return built


def captions(rows: list[dict]) -> dict[str, str]:
    return {row["id"]: row["conversations"][1]["value"] for row in rows}


def truths(draw: Draw) -> dict[str, dict]:
    return {truth["id"]: truth for _, truth in read_jsonl(draw.folder / "seed" / TRUTH_FILE)}


def test_raw_is_the_caps_draw_of_the_seed(draw):
    rows, roots = draw.training_rows("raw")
    assert len(rows) == CAP
    assert all(roots.resolve(row["image"]).is_file() for row in rows)
    assert {truths(draw)[row["id"]]["defect"] for row in rows} > {"none"}


def test_clean_repairs_raws_rows_in_place(draw):
    raw, (clean, roots) = draw.training_rows("raw")[0], draw.training_rows("clean")
    truth = truths(draw)
    assert len(clean) == CAP
    assert all(caption == truth[row_id]["true_caption"] for row_id, caption in captions(clean).items())
    assert "near_duplicate" not in {truth[row["id"]]["defect"] for row in clean}
    for before, after in zip(raw, clean, strict=True):
        assert before["id"] == after["id"] or truth[before["id"]]["defect"] == "near_duplicate"
    damaged = next(row for row in truth.values() if row["defect"] in ("blur", "watermark"))["id"]
    name = f"images/{damaged[:5]}/{damaged}.jpg"
    assert roots.resolve(name).read_bytes() != (draw.folder / "seed" / name).read_bytes()


def test_a_defect_alone_is_replaced_by_rows_not_drawn(draw):
    raw, without = captions(draw.training_rows("raw")[0]), captions(draw.training_rows("no_mismatched")[0])
    truth = truths(draw)
    assert len(without) == CAP
    assert "mismatched" not in {truth[row_id]["defect"] for row_id in without}
    assert {row_id for row_id in raw if truth[row_id]["defect"] != "mismatched"} < set(without)


def test_random_and_reversed_have_the_recipes_size_and_fill_up(draw, monkeypatch):
    monkeypatch.setattr(Draw, "_recipe_size", lambda _: 10)
    scores = clip_similarities(
        [line for _, line in read_jsonl(draw.folder / "seed" / SEED_FILE)],
        draw.folder / "seed",
        draw.preset.vision_tower,
    )
    for arm in ("random", "reversed"):
        rows = draw.training_rows(arm)[0]
        assert len(rows) == CAP
        assert len(captions(rows)) == 10
    assert set(captions(rows)) == set(sorted(scores, key=scores.get)[:10])
    again, other = draw.training_rows("random", seed=0)[0], draw.training_rows("random", seed=1)[0]
    assert again == draw.training_rows("random")[0] != other


def test_a_seed_may_have_other_shares_of_defects(runner, tmp_path):
    seed = Draw(tmp_path, 0, 20, runner.preset, runner.recipe, shares={"blur": 0.5})
    seed.training_rows("raw")
    assert Counter(truth["defect"] for truth in truths(seed).values()) == {"blur": 10, "none": 10}


def test_replaced_and_repeat():
    rows = [{"id": letter} for letter in "abcdef"]
    assert replaced(rows, [rows[4], rows[1], rows[0]], set("abdf")) == [rows[3], rows[1], rows[0]]
    assert replaced(rows[:2], rows[:2], {"b"}) == [rows[1]]
    assert repeat(rows[:2], 5) == [rows[0], rows[1], rows[0], rows[1], rows[0]]


def test_cached_features_are_those_of_pixels(runner, draw):
    preset = runner.preset
    model = build_model(
        preset.llm, preset.vision_tower, preset.vision_tower_aux, preset.image_size_aux, 2048, torch.float32, seed=3
    ).eval()
    rows, roots = draw.training_rows("raw")
    paths = [roots.resolve(row["image"]) for row in rows[:3]]
    pixels = torch.stack([scale_image(open_image(path), preset.image_size_aux, "square") for path in paths])
    plain = model.encode_images(pixels)
    features = FeatureCache(model)
    indices = torch.stack([features.index(path, "square") for path in [*paths, paths[0]]])
    assert indices.tolist() == [0, 1, 2, 0]
    features.attach(model)
    torch.testing.assert_close(model.encode_images(indices)[:3], plain, rtol=1e-4, atol=1e-4)


def test_a_trial_writes_a_record_and_is_not_repeated(runner, monkeypatch):
    record = runner.run(Trial("raw", 0, 1))
    assert record == read_json(runner.records / "raw-draw0-seed1.json")
    assert record["counts"]["rows"] == CAP
    assert record["counts"]["pictures_encoded"] > 0
    assert set(record["scores"]["mmbench"]) == {"all", "object", "count", "colour", "relation", "text"}
    assert all(0 <= share <= 1 for shares in record["scores"].values() for share in shares.values())

    def never(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(TrialRunner, "_train", never)
    assert runner.run(Trial("raw", 0, 1)) == record
    with pytest.raises(AssertionError, match="trained again"):
        runner.run(Trial("raw", 0, 2))
    changed = dataclasses.replace(runner, preset=dataclasses.replace(runner.preset, sample_cap=CAP - 8))
    with pytest.raises(AssertionError, match="trained again"):
        changed.run(Trial("raw", 0, 1))
    rows, roots = runner._draw(0).training_rows("raw")
    image = roots.resolve(rows[0]["image"])
    content = image.read_bytes()
    image.write_bytes(content + b" ")
    with pytest.raises(AssertionError, match="trained again"):
        runner.run(Trial("raw", 0, 1))
    image.write_bytes(content)


@pytest.mark.slow
def test_committed_records_have_the_inputs_of_this_code(tmp_path, monkeypatch):
    """A record whose inputs are equal is read, not trained again: rows, images, evaluation set, models, settings."""
    monkeypatch.setattr(TrialRunner, "_train", lambda *_: pytest.fail("trained again"))
    runner = TrialRunner(load_preset("mini"), tmp_path, RECORDS / "test", "test", RECIPE, SEED_ROWS, SCORED_QUESTIONS)
    for arm in ("none", "raw", "no_blur"):
        assert runner.run(Trial(arm, 0, 0)) == read_json(RECORDS / "test" / f"{arm}-draw0-seed0.json")


def test_another_world_has_a_folder_of_its_own(runner):
    assert dataclasses.replace(runner).world == runner.world
    for other in ({"shares": {"blur": 0.5}}, {"rows": ROWS + 1}, {"questions": QUESTIONS + 1}):
        assert dataclasses.replace(runner, **other).world != runner.world


def test_two_shells_build_a_world_one_after_the_other(runner, tmp_path, monkeypatch):
    """Both need the draw at the same time; without waiting both would build it."""
    built = []

    def slow_build(folder, truth_file, *_):
        built.append(folder)
        time.sleep(0.3)
        write_jsonl(folder / SEED_FILE, [])
        truth_file.touch()

    def rows_of(self, arm, seed):
        self._seed(repaired=False)
        return [], None

    monkeypatch.setattr("experiments.lab.arms.build_seed", slow_build)
    monkeypatch.setattr(Draw, "training_rows", rows_of)
    monkeypatch.setattr(TrialRunner, "_new_model", lambda *_: torch.nn.Identity())
    monkeypatch.setattr(TrialRunner, "_train", lambda *_: {})
    monkeypatch.setattr(TrialRunner, "_evaluate", lambda *_: {})
    shells = [dataclasses.replace(runner, work=tmp_path, records=tmp_path / name) for name in ("one", "two")]
    for shell in shells:
        shell.features = SimpleNamespace(indices={})
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda shell: shell.run(Trial("raw", 0, 0)), shells))
    assert len(built) == 1


@pytest.mark.slow
def test_a_trial_trains_as_the_command_does(runner, draw, tmp_path, monkeypatch):
    record = runner.run(Trial("raw", 0, 1))
    monkeypatch.setenv("TRAIN_SEED", "1")
    rows, roots = draw.training_rows("raw")
    write_json(tmp_path / "rows.json", rows)
    more = ["--preset", "mini", "--accumulation", "1", "--workers", "0", "--no-stochastic-depth"]
    stages = {
        "pretrain": [tmp_path / "rows.json", roots.seed],
        "finetune": [runner.preset.finetune_data, runner.preset.finetune_images],
    }
    for stage, (data, images) in stages.items():
        adapter = ["--adapter", str(tmp_path / "pretrain" / "mm_projector.bin")] if stage == "finetune" else []
        batch = ["--batch", str(runner.preset.stage(stage).global_batch)]
        words = ["train", stage, "--data", str(data), "--images", str(images), "--out", str(tmp_path / stage)]
        assert main([*words, *adapter, *batch, *more]) == 0
        history = read_json(tmp_path / stage / "trainer_state.json")["log_history"]
        losses = [line["loss"] for line in history if "loss" in line]
        assert losses[-1] == pytest.approx(record["loss"][stage], rel=1e-4)


@pytest.mark.slow
def test_without_pretraining_the_draw_does_not_matter(runner):
    record = runner.run(Trial("none", 0, 1))
    assert "pretrain" not in record["loss"]
    assert record["counts"]["rows"] == 0


@pytest.mark.slow
def test_with_stochastic_depth_images_are_encoded_in_every_step(runner, tmp_path):
    plain = runner.run(Trial("none", 0, 1))
    record = dataclasses.replace(runner, records=tmp_path, stochastic_depth=True).run(Trial("none", 0, 1))
    assert record["inputs"]["figures"]["stochastic_depth"] is True
    assert record["loss"] != plain["loss"]
    # Only those of the evaluation are cached.
    assert record["counts"]["pictures_encoded"] == 2 * QUESTIONS
