"""The same recipes under Data-Juicer's own commands: the same rows, and each side reads the other's result."""

import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from solution import operators
from tests import warm
from tests.solution import model_folders
from tests.solution.chat_stub import MODEL, ChatStub
from tests.solution.conftest import ROOT
from tests.solution.image_values import write_overlaps, write_values
from toolkit.__main__ import main as toolkit

pytestmark = pytest.mark.slow
WORDS = ["a red dog", "two blue cars on the road", "the cat on the mat", "a ball", "the sea"]


def dj(command: str, folder: Path, *words: str, **environment: str):
    """Run `dj-process` or `dj-analyze` in a folder; with PYTHONPATH, in a Python of its own."""
    script = Path(sys.executable).with_name(command)
    settings = {
        "HF_DATASETS_CACHE": str(folder / "cache"),
        "HF_HUB_OFFLINE": "1",
        "DATA_JUICER_CACHE_HOME": str(folder / "dj"),
    }
    start = partial(subprocess.run, capture_output=True, text=True) if "PYTHONPATH" in environment else warm.run
    done = start([sys.executable, str(script), *words], cwd=folder, env=os.environ | settings | environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def facts(rows: list[dict], images: Path) -> list[tuple]:
    """What a row says: id, text, image path from the image root, and which caption or copy it is.

    Made images lie where each command puts them: of those the name.
    """

    def place(image: str) -> str:
        return Path(image).name if "synthetic_images" in image else os.path.relpath(images / image, images)

    return [
        (row["id"], row["text"], place(row["images"][0]), row.get("caption_index"), row.get("copy_index"))
        for row in rows
    ]


@pytest.fixture(scope="module")
def plug_in(tmp_path_factory) -> str:
    """The folder into which pip has installed the operators, from a copy of the files that it needs."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in ("pyproject.toml", "setup.py", "solution/readme.md"):
        (source / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    shutil.copytree(ROOT / "solution/operators", source / "solution/operators", ignore=lambda *_: ["__pycache__"])
    left = source / "output" / "build" / "lib" / "better_synth_operators" / "of_an_earlier_build_mapper.py"
    left.parent.mkdir(parents=True)
    left.write_text("raise SystemExit")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-compile"]
    subprocess.run([*command, "--target", str(folder), str(source)], check=True)
    assert {path.name for path in source.iterdir()} == {"pyproject.toml", "setup.py", "solution", "output"}
    assert not list(folder.rglob(left.name))
    assert {path.name for path in folder.iterdir() if not path.name.endswith(".dist-info")} == {operators.PLUG_IN}
    return str(folder)


@pytest.fixture
def stub():
    """A captioner's server that refuses some images."""
    with ChatStub(lambda seen: "refusal" if int(seen.image, 16) % 8 == 0 else "ok") as server:
        yield server


@pytest.fixture
def everything(clip_folder, captioner_folder, stub, tmp_path) -> list[dict]:
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
        {"conditional_recaption_mapper": {"hf_clip": clip, "below": 0.9, "endpoint": stub.endpoint, "model": MODEL}},
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


@pytest.fixture
def seed(make_seed) -> Path:
    """Twenty rows."""
    return make_seed([f"{word} number {number}" for number in range(4) for word in WORDS])


@pytest.fixture
def extras(clip_folder, seed, tmp_path, monkeypatch) -> list[dict]:
    """The operators of ours that need an extra package, or another command's file."""
    pytest.importorskip("rapidocr_onnxruntime", reason="pip install -r solution/requirements-reading.txt")
    pytest.importorskip("diffusers", reason="pip install -r solution/requirements-synthesis.txt -c constraints.txt")
    nltk = pytest.importorskip("nltk", reason="pip install -r solution/requirements-grounding.txt -c constraints.txt")
    make = tmp_path / "models"
    for name in ("painter", "owlvit", "tagger"):
        (make / name).mkdir(parents=True)
    monkeypatch.setenv("NLTK_DATA", str(model_folders.save_tagger(make / "tagger")))
    monkeypatch.setattr(nltk.data, "path", [os.environ["NLTK_DATA"]])
    painter = {"hf_painter": str(model_folders.save_pipeline(make / "painter")), "steps": 2, "size": 32}
    owlvit = str(model_folders.save_owlvit(make / "owlvit"))
    values = write_values(tmp_path / "values.parquet", seed, [number / 20 for number in range(20)])
    overlaps = write_overlaps(tmp_path / "overlaps.parquet", seed, {"005"})
    return [
        {"evaluation_overlap_filter": {"overlaps": str(overlaps)}},
        {"image_value_filter": {"values": str(values), "min_rank": 0.1}},
        {"image_text_reading_filter": {"side": 48}},
        {"image_text_reading_mapper": {"side": 48}},
        {"phrase_grounding_filter": {"hf_owlvit": owlvit, "min_score": 0.0}},
        {"picture_painter_mapper": painter},
        {"synthetic_score_filter": {"hf_clip": str(clip_folder), "min_score": -1.0}},
    ]


def test_no_operator_is_left_out(everything, extras):
    assert {name for step in [*everything, *extras] for name in step} == set(operators.NAMES)


def same_under_both(process: list, seed: Path, plug_in: str, make_recipe, run_process, folder: Path):
    """The rows of `process.py`, which are those of `dj-process` with the plug-in, in another folder."""
    recipe = make_recipe(process, dataset_path=str(seed), np=1, max_failed=1.0)
    ours = run_process(recipe, None)
    assert ours.code == 0, ours.err
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    plain = make_recipe(process, name="plain", dataset_path=str(seed), np=1, work_dir=str(elsewhere / "work"))
    result = elsewhere / "result" / "rows.jsonl"
    words = ["--config", str(plain), "--export_path", str(result)]
    dj("dj-process", elsewhere, *words, SCORE_STORE=str(folder / "other"), PYTHONPATH=plug_in)
    theirs = [json.loads(line) for line in result.read_text().splitlines()]
    assert facts(theirs, seed.parent) == facts(ours.rows, seed.parent)
    return theirs


def test_operators_with_an_extra_run_under_dj_process(extras, plug_in, seed, make_recipe, run_process, tmp_path):
    assert len(same_under_both(extras, seed, plug_in, make_recipe, run_process, tmp_path)) > 10


def test_a_servers_fault_ends_dj_process(stub, plug_in, make_seed, make_recipe, tmp_path):
    """Data-Juicer would drop the rows of every batch that met it, and end well."""
    stub.behave = lambda seen: "401"
    recipe = make_recipe(
        [{"caption_writer_mapper": {"endpoint": stub.endpoint, "model": MODEL}}],
        dataset_path=str(make_seed(WORDS)),
        np=1,
    )
    words = ["--config", str(recipe), "--export_path", str(tmp_path / "result" / "rows.jsonl")]
    with pytest.raises(AssertionError, match="asks for a key"):
        dj("dj-process", tmp_path, *words, PYTHONPATH=plug_in)
    assert not (tmp_path / "result" / "rows.jsonl").exists()


def test_of_two_copies_the_one_that_a_recipe_names_is_used(plug_in, tmp_path):
    """The installed one where it is the same; the scores of an installed one go to Data-Juicer's cache."""
    program = """
import sys
from data_juicer.config.config import load_custom_operators
from data_juicer.ops import OPERATORS
load_custom_operators([sys.argv[1]])
from better_synth_operators.common.score_store import score_folder
print(OPERATORS.modules["caption_writer_mapper"].__module__, score_folder())
"""
    copy = tmp_path / "operators"
    shutil.copytree(ROOT / "solution" / "operators", copy)
    environment = os.environ | {"PYTHONPATH": plug_in, "DATA_JUICER_CACHE_HOME": str(tmp_path / "dj")}
    environment.pop("SCORE_STORE")
    for change, used, note in (("", "better_synth_operators", ""), ("# other\n", "operators", "which differ")):
        with (copy / "common" / "rows.py").open("a") as file:
            file.write(change)
        command = [sys.executable, "-c", program, str(copy)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        kept = tmp_path / "dj" / "better_synth_scores"
        assert done.stdout.splitlines()[-1] == f"{used}.caption_writer_mapper {kept}"
        assert note in done.stderr
        assert ("note: " in done.stderr) == bool(note)


def test_process_py_uses_its_own_copy(plug_in, make_seed, make_recipe, run_process, tmp_path):
    other = tmp_path / "installed"
    shutil.copytree(plug_in, other)
    seed, recipe = make_seed(WORDS), make_recipe([{"caption_words_filter": {"min_num": 3}}])
    done = run_process(recipe, seed, environment={"PYTHONPATH": str(other)})
    assert done.code == 0
    assert "note: " not in done.err
    (other / "better_synth_operators" / "caption_words_filter.py").write_text("raise SystemExit")
    done = run_process(recipe, seed, "--overwrite", environment={"PYTHONPATH": str(other)})
    assert done.code == 0
    assert done.err.startswith(f"note: the operators in {ROOT / 'solution' / 'operators'} are used")


def test_our_operators_run_under_dj_process(everything, plug_in, seed, make_recipe, run_process, tmp_path):
    """From another folder, on rows of which two images cannot be read; the result has the contract's keys alone."""
    for number in (3, 17):
        (seed.parent / "images" / f"{number:03d}.jpg").write_bytes(b"none of it")
    theirs = same_under_both(everything, seed, plug_in, make_recipe, run_process, tmp_path)
    assert len(theirs) > 10
    assert theirs[0].keys() <= {"id", "text", "images", "caption_index", "copy_index"}

    result, report = tmp_path / "elsewhere" / "result" / "rows.jsonl", tmp_path / "report.json"
    toolkit(["check", str(result), "--images", str(seed.parent), "--json", str(report)])
    counts, faults = (json.loads(report.read_text())[key] for key in ("counts", "faults"))
    assert (counts["rows"], faults) == (len(theirs), [])
    again = run_process(
        make_recipe([{"caption_words_filter": {"min_num": 1}}], name="again"), result, "--images", str(seed.parent)
    )
    assert facts(again.rows, seed.parent) == facts(theirs, seed.parent)


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
