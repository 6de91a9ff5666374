"""Recipes as Data-Juicer's users write them run as they stand, or are refused in lines that a user can act on."""

import gzip
import json
import os
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import warm
from tests.solution.conftest import ROOT
from toolkit.dataset.provenance import find_audit

RECIPES = Path(__file__).parent / "recipes_of_users"
RUN = {  # recipe -> its result below the working directory, rows
    "demo": ("outputs/demo-process/demo-processed.jsonl", 8),
    "everything_set": ("outputs/all.jsonl", 8),
    "llava_style": ("outputs/refined.jsonl", 8),
    "gz_two_processes": ("result/clean.jsonl", 8),
    "parquet_configs": ("out/mixed.jsonl", 10),
    "folder": ("out/folder.jsonl", 8),
    "probe": ("out.trial/probe.trial.jsonl", 4),
}
REFUSED = {  # recipe -> what its lines say
    "hub_name": ["openai/clip-vit-base-patch32"],
    "ray": ["key export_path: the result is a local file of JSON lines; expected NAME.jsonl, found './outputs/ray'"],
    "older": [
        "operator 1 (image_nsfw_filter), hf_nsfw_model: model folder ",
        "operator 2 (image_captioning_from_gpt4v_mapper): unknown operator; image_captioning_mapper and mllm_mapper",
    ],
    "mistakes": [
        "unknown key 'dataset_pth'; did you mean dataset_path?",
        "key np: ",
        "has no dataset_path; ",
        "operator 3 (image_shape_filter): expected parameters, found 5",
        "operator 1 (words_num_fliter): unknown operator; did you mean words_num_filter?",
        "operator 2 (text_length_filter): unknown parameter 'min_lenght'; did you mean min_len?",
    ],
}


NOTES = {
    "everything_set": [
        "open_monitor, op_fusion: no effect here",
        "open_tracer: the audit says what became of every row",
        "use_cache, use_checkpoint: an unfinished run resumes after its last operator, whatever they say",
    ],
    "llava_style": ["open_tracer: the audit says what became of every row"],
}


@pytest.fixture
def run(make_seed, tmp_path):
    """run(recipe, options) in a folder of its own that holds the seed in every format."""
    token = "<image>"
    captions = [
        f"a {colour} dog on the mat" for colour in ("red", "blue", "green", "grey", "pink", "white", "old", "wet")
    ]
    seed = make_seed(captions, token, folder="data")
    (tmp_path / "data" / "seed.jsonl.gz").write_bytes(gzip.compress(seed.read_bytes()))
    rows = [json.loads(line) for line in seed.read_text().splitlines()]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data" / "seed.parquet")
    (tmp_path / "data" / "more.json").write_text(json.dumps(rows))

    def start(name: str, *options: str):
        recipe = tmp_path / f"{name}.yaml"
        text = (RECIPES / f"{name}.yaml").read_text().replace("@", str(tmp_path))
        recipe.write_text(text)
        command = [sys.executable, str(ROOT / "solution" / "process.py"), "--recipe", recipe.name, *options]
        return warm.run(command, cwd=tmp_path, env=dict(os.environ), timeout=300)

    return start


def test_every_recipe_is_tried():
    assert {file.stem for file in RECIPES.glob("*.yaml")} == RUN.keys() | REFUSED.keys()


@pytest.mark.parametrize(
    "name", [name if name in ("llava_style", "probe") else pytest.param(name, marks=pytest.mark.slow) for name in RUN]
)
def test_it_runs(name, run, tmp_path):
    done = run(name)
    assert done.returncode == 0, done.stderr
    result, rows = RUN[name]
    lines = [json.loads(line) for line in (tmp_path / result).read_text().splitlines()]
    assert len(lines) == rows
    assert all(row["images"][0].startswith("images/") for row in lines)
    assert all(("__dj__stats__" in row) == (name == "everything_set") for row in lines)
    assert ("trial, no submission; rows: " in done.stdout) == (name == "probe")
    record = next((tmp_path / result).parent.glob("*.run.json"))
    assert ("trial" in json.loads(record.read_text())["configuration"]) == (name == "probe")
    audit = find_audit(tmp_path / result)  # the toolkit finds it under the recipe's own work_dir too
    assert audit
    assert audit.is_file()
    assert (audit.parent == tmp_path / "work" / "audit") == (name == "everything_set")
    notes = [line.split(", ", 1)[1] for line in done.stderr.splitlines() if line.startswith("note: ")]
    assert sorted(notes) == NOTES.get(name, [])
    if name == "probe":
        assert run(name).stdout.startswith("trial, no submission; already done: ")


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused(name, run, tmp_path):
    done = run(name)
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if not line.startswith("note: ")]
    assert all(line.startswith("error: ") for line in errors)
    assert len(errors) == len(REFUSED[name])
    for words, line in zip(REFUSED[name], errors, strict=True):
        assert words in line
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "outputs").exists()


def test_a_limit_reads_no_more_images_and_leaves_the_result_alone(run, tmp_path):
    run("demo")
    before = {file: file.read_bytes() for file in (tmp_path / "outputs").rglob("*.json*")}
    for image in sorted((tmp_path / "data" / "images").iterdir())[3:]:
        image.write_bytes(b"")
    done = run("demo", "--limit", "3")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("trial, no submission; rows: ")
    trial = tmp_path / "outputs" / "demo-process.trial" / "demo-processed.trial.jsonl"
    assert len(trial.read_text().splitlines()) == 3
    assert all(file.read_bytes() == content for file, content in before.items())
