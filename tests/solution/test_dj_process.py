"""The same recipes under Data-Juicer's own commands: the same rows, and each side reads the other's result."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch

from tests import warm
from tests.solution import model_folders
from tests.solution.conftest import ROOT
from toolkit.__main__ import main as toolkit

pytestmark = pytest.mark.slow
WORDS = ["a red dog", "two blue cars on the road", "the cat on the mat", "a ball", "the sea"]


def dj(command: str, folder: Path, *words: str, **environment: str):
    """Run `dj-process` or `dj-analyze` in a folder."""
    script = Path(sys.executable).with_name(command)
    settings = {
        "HF_DATASETS_CACHE": str(folder / "cache"),
        "HF_HUB_OFFLINE": "1",
        "DATA_JUICER_CACHE_HOME": str(folder / "dj"),
    }
    done = warm.run([sys.executable, str(script), *words], cwd=folder, env=os.environ | settings | environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def facts(rows: list[dict], images: Path) -> list[tuple]:
    """What a row says: id, text, image path from the image root, and which caption or copy it is."""
    return [
        (row["id"], row["text"], os.path.relpath(images / row["images"][0], images), row.get("caption_index"),
         row.get("copy_index"))
        for row in rows
    ]  # fmt: skip


@pytest.fixture
def everything(clip_folder, captioner_folder, tmp_path) -> list[dict]:
    """Each operator of ours that needs no extra package, with tiny models, so that some rows are left."""
    make = tmp_path / "models"
    for name in ("blip", "classifier", "beauty"):
        (make / name).mkdir(parents=True)
    clip, captioner = str(clip_folder), str(captioner_folder)
    blip = str(model_folders.save_blip_matcher(make / "blip"))
    classifier = str(model_folders.save_classifier(make / "classifier"))
    head = torch.nn.Linear(16, 1)
    torch.nn.init.constant_(head.bias, 5.0)
    beauty = str(model_folders.save_aesthetics_predictor(make / "beauty", head))
    score = {"score_key": "clip_similarity"}
    return [
        {"caption_cleanup_mapper": {"remove": ["number"]}},
        {"caption_deduplicator": {"max_copies": 3}},
        {"picture_deduplicator": {"max_distance": 4}},
        {"conditional_recaption_mapper": {"hf_clip": clip, "hf_captioner": captioner, "below": 0.9, "min_words": 1}},
        {
            "caption_writer_mapper": {
                "hf_captioner": captioner,
                "keep_original": True,
                "min_words": 1,
                "max_new_tokens": 4,
            }
        },
        {"caption_words_filter": {"min_num": 1, "max_num": 60}},
        {"caption_latin_filter": {"min_ratio": 0.1}},
        {"picture_sharpness_filter": {"min_sharpness": 1}},
        {"blip_matching_filter": {"hf_blip": blip, "min_score": 0.0}},
        {"picture_aesthetics_filter": {"hf_scorer_model": beauty, "min_score": 0.0, "max_score": 1.0}},
        {"picture_nsfw_filter": {"hf_nsfw_model": classifier, "max_score": 1.0}},
        {"picture_watermark_filter": {"hf_watermark_model": classifier, "max_score": 1.0}},
        {"clip_similarity_filter": {"hf_clip": clip, "min_score": -1}},
        {"percentile_selector": score | {"min_percentile": 5}},
        {"rank_window_selector": {"weights": {"clip_similarity": 1.0, "blip_matching": 1.0}, "min_rank": 2}},
        {"sigma_selector": score | {"sigmas_below": 2.0}},
        {"cluster_balanced_selector": score | {"hf_clip": clip, "clusters": 2, "cap": 16}},
        {"fill_to_cap_selector": score | {"cap": 24, "max_copies": 2}},
    ]


def test_our_operators_run_under_dj_process(everything, make_seed, make_recipe, run_process, tmp_path):
    """From another folder, on rows of which two images cannot be read; the result has the contract's keys alone."""
    seed = make_seed([f"{word} number {number}" for number in range(4) for word in WORDS])
    for number in (3, 17):
        (seed.parent / "images" / f"{number:03d}.jpg").write_bytes(b"none of it")
    recipe = make_recipe(
        everything, dataset_path=str(seed), custom_operator_paths=[str(ROOT / "solution" / "operators")], np=1
    )
    ours = run_process(recipe, None)
    assert ours.code == 0, ours.err
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    result = elsewhere / "result" / "rows.jsonl"
    dj(
        "dj-process",
        elsewhere,
        "--config",
        str(recipe),
        "--export_path",
        str(result),
        SCORE_STORE=str(tmp_path / "other"),
    )
    theirs = [json.loads(line) for line in result.read_text().splitlines()]
    assert facts(theirs, seed.parent) == facts(ours.rows, seed.parent)
    assert len(theirs) > 10
    assert theirs[0].keys() <= {"id", "text", "images", "caption_index", "copy_index"}

    report = tmp_path / "report.json"
    toolkit(["check", str(result), "--images", str(seed.parent), "--json", str(report)])
    counts, faults = (json.loads(report.read_text())[key] for key in ("counts", "faults"))
    assert (counts["rows"], faults) == (len(theirs), [])
    again = run_process(
        make_recipe([{"caption_words_filter": {"min_num": 1}}], name="again"), result, "--images", str(seed.parent)
    )
    assert facts(again.rows, seed.parent) == facts(ours.rows, seed.parent)


def test_dj_analyze_reads_our_result(make_seed, make_recipe, run_process, tmp_path):
    seed = make_seed(WORDS)
    done = run_process(make_recipe([{"image_blur_mapper": {"p": 0.5}}]), seed)
    # As Data-Juicer looks for relative paths: beside the file.
    (done.output / "images").symlink_to(seed.parent / "images")
    recipe = make_recipe([{"image_shape_filter": {}}, {"words_num_filter": {}}], name="analyze")
    words = ["--dataset_path", str(done.output / "processed_data.jsonl"), "--export_path", str(tmp_path / "out.jsonl")]
    dj("dj-analyze", tmp_path, "--config", str(recipe), *words)
    stats = [json.loads(line)["__dj__stats__"] for line in (tmp_path / "out_stats.jsonl").read_text().splitlines()]
    assert [found["image_width"] for found in stats] == [[48]] * len(WORDS)
