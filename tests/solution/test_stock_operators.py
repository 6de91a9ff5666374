"""Every Filter, Mapper, Deduplicator and Selector of Data-Juicer: the rows of `dj-process`, or one line before them.

`docs/operators.md` says which of the two; it is read from the operators' source, and held here against what happens.
"""

import importlib
import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from data_juicer.utils.lazy_loader import LazyLoader
from loguru import logger
from packaging.utils import canonicalize_name

from solution.process import ROOT
from solution.runner import needs
from solution.runner.catalogue import Entry, entries
from solution.runner.configuration.dataset_files import DataSet
from solution.runner.data_juicer import OPERATORS
from solution.runner.errors import UserError
from solution.runner.images.produced import send_to_the_run
from solution.runner.pipeline import build_operators
from solution.runner.recipe import load_recipe
from solution.runner.record import unfinished_folder
from solution.runner.run import Run
from tests import warm

MINI = ROOT / "input" / "mini"
SEEDS_IMAGES = {file.name for file in MINI.glob("images/*/*.jpg")}
ENTRIES = {entry.name: entry for entry in entries()}
REDACTED = ["[PATH_REDACTED]"]  # what pii_redaction_mapper makes of an image's path in `dj-process`; here it stays
# A few of all kinds, which `run_tests.sh --quick` keeps.
QUICK = ("words_num_filter", "image_shape_filter", "clean_email_mapper", "document_deduplicator", "random_selector")
# Parameters under which an operator does something to the rows here; many cannot be built without.
PARAMETERS: dict[str, dict[str, Any]] = {
    "alphanumeric_filter": {"min_ratio": 0.65},
    "average_line_length_filter": {"min_len": 30},
    "character_repetition_filter": {"rep_len": 3, "max_ratio": 0.15},
    "document_simhash_deduplicator": {"tokenization": "character", "hamming_distance": 4},
    "frequency_specified_field_selector": {"field_key": "text", "topk": 3},
    "general_field_filter": {"filter_condition": "'dress' in text"},
    "generate_qa_from_examples_mapper": {"seed_file": "examples.jsonl"},
    "image_aspect_ratio_filter": {"min_ratio": 0.9, "max_ratio": 1.2},
    "image_blur_mapper": {"p": 1.0},
    "image_ohem_selector": {"topk": 3},
    "image_shape_filter": {"min_width": 64, "min_height": 64},
    "image_size_filter": {"min_size": "2 KB"},
    "llm_extract_mapper": {"input_keys": ["text"], "output_schema": {"colour": "of the dress"}},
    "maximum_line_length_filter": {"min_len": 30},
    "nlpaug_en_mapper": {"sequential": True},
    "python_lambda_mapper": {"lambda_str": "lambda row: row"},
    "random_selector": {"select_num": 7},
    "range_specified_field_selector": {"field_key": "text", "lower_rank": 2, "upper_rank": 9},
    "remove_long_words_mapper": {"max_len": 5},
    "remove_specific_chars_mapper": {"chars_to_remove": "ae"},
    "replace_content_mapper": {"pattern": "a", "repl": "e"},
    "s3_upload_file_mapper": {"s3_bucket": "bucket"},
    "special_characters_filter": {"max_ratio": 0.32},
    "specified_field_filter": {"field_key": "id", "target_value": ["000000001"]},
    "specified_numeric_field_filter": {"field_key": "id", "min_value": 5},
    "tags_specified_field_selector": {"field_key": "id", "target_tags": ["000000001"]},
    "text_length_filter": {"min_len": 50},
    "topk_specified_field_selector": {"field_key": "text", "topk": 4},
    "word_repetition_filter": {"rep_len": 1, "max_ratio": 0.1},
    "words_num_filter": {"min_num": 8},
}


@pytest.fixture
def offline(tmp_path, monkeypatch) -> None:
    """No network, and caches without any model."""
    monkeypatch.setattr(needs, "unreachable", lambda address: f"{address.split('/')[2]} cannot be reached")
    monkeypatch.setattr(needs.model_utils, "DJMC", str(tmp_path / "models"))
    monkeypatch.setattr(needs.model_utils, "DJEMH", None)
    monkeypatch.setattr(needs.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(needs, "_hugging_face_folder", lambda name: None)
    monkeypatch.setattr(needs, "_modelscope_folder", lambda name: None)
    with suppress(ImportError):  # another test may have imported it with data of its own
        monkeypatch.setattr(importlib.import_module("nltk").data, "path", ["/nowhere"])


class Stock:
    """Data-Juicer's executor on 20 rows of the mini seed, in this process."""

    def __init__(self, folder: Path) -> None:
        lines = (MINI / "mgm_pretrain_mini.jsonl").read_text(encoding="utf-8").splitlines()[:18]
        rows = [json.loads(line) for line in [*lines, lines[0], lines[3]]]
        rows[-1]["id"] = "twice"
        self.folder, self.seed, self.copy = folder, folder / "seed.jsonl", folder / "copy.jsonl"
        self.seed.write_text("".join(json.dumps(row) + "\n" for row in rows))
        absolute = [row | {"images": [str(MINI / row["images"][0])]} for row in rows]
        self.copy.write_text("".join(json.dumps(row) + "\n" for row in absolute))

    def rows(self, name: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
        """What `dj-process` writes, with this kit's image paths and without Data-Juicer's columns."""
        from data_juicer.config import init_configs
        from data_juicer.core.executor.default_executor import DefaultExecutor

        from solution.runner.data_juicer import seed_random

        recipe, result = self.folder / "stock.yaml", self.folder / "stock" / "out.jsonl"
        keys = {"dataset_path": str(self.copy), "export_path": str(result), "np": 1, "skip_op_error": False}
        keys |= {"image_special_token": "<__dj__image>", "process": [{name: parameters}]}
        recipe.write_text(json.dumps(keys))
        configuration = init_configs(["--config", str(recipe)])
        for entry in configuration.process:  # no processes: each would import torch
            entry[name] |= {"auto_op_parallelism": False, "num_proc": None}
        send_to_the_run(self.folder / "made" / name)
        seed_random(name)
        DefaultExecutor(configuration).run(skip_return=True)
        logger.remove()
        rows = [json.loads(line) for line in result.read_text(encoding="utf-8").splitlines()]
        # A row that an operator leaves without its token or image fails here, with that reason.
        whole = [row for row in rows if row["text"].count("<__dj__image>") == 1 and _has_image(row)]
        return [_without_place(row) for row in whole]

    def rows_here(self, name: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
        """What `process.py` writes; no rows where it ends because none is left."""
        recipe, result = self.folder / f"{name}.yaml", self.folder / "kit" / name / "processed_data.jsonl"
        recipe.write_text(json.dumps({"dataset_path": str(self.seed), "process": [{name: parameters}]}))
        audit = self.folder / "audit" / f"{name}.parquet"
        data = DataSet((self.seed,))
        run = Run(
            load_recipe(recipe, None), data, MINI, result, audit, {"inputs": {}, "versions": {}}, "skip", True, 1.0
        )
        send_to_the_run(unfinished_folder(audit))
        try:
            run.execute(lambda counts: None)
        except UserError as error:
            if "no rows left" in str(error):
                return []
            raise
        return [_without_place(json.loads(line)) for line in result.read_text(encoding="utf-8").splitlines()]


def _has_image(row: dict[str, Any]) -> bool:
    return Path(row["images"][0]).is_file() or row["images"] == REDACTED


def _without_place(row: dict[str, Any]) -> dict[str, Any]:
    """The row without Data-Juicer's columns, and an image's name for its path; one that was made is named otherwise."""
    row = {key: value for key, value in row.items() if not key.startswith("__dj__")}
    if row["images"] == REDACTED:
        return row
    return row | {"images": [name if (name := Path(image).name) in SEEDS_IMAGES else "made" for image in row["images"]]}


@pytest.fixture(scope="module")
def stock(tmp_path_factory) -> Stock:
    return Stock(tmp_path_factory.mktemp("stock"))


def names(*, works: bool) -> list[Any]:
    chosen = [entry for entry in ENTRIES.values() if works is (not (entry.subject or entry.service or entry.models))]
    return [
        pytest.param(entry.name, marks=() if entry.name in QUICK or not works else pytest.mark.slow) for entry in chosen
    ]


@pytest.mark.parametrize("name", names(works=True))
def test_rows_are_those_of_stock(name, stock, offline, capsys):
    entry, parameters = ENTRIES[name], PARAMETERS.get(name, {})
    try:
        here = stock.rows_here(name, parameters)
    except UserError as error:
        if not any(_named(package, str(error)) for package in entry.packages):
            with pytest.raises((Exception, SystemExit)):  # Data-Juicer refuses it as well
                stock.rows(name, parameters)
        return
    expected = stock.rows(name, parameters)
    for row, own in zip(expected, here, strict=False):
        if row["images"] == REDACTED:
            row["images"] = own["images"]
    assert here == expected


def _named(package: str, text: str) -> bool:
    return f"needs the package {package}" in text or canonicalize_name(package) in text


@pytest.mark.parametrize("name", names(works=False))
def test_what_is_missing_is_named_before_a_row(name, offline):
    entry: Entry = ENTRIES[name]
    with pytest.raises(UserError) as error:
        build_operators([{name: PARAMETERS.get(name, {})}], 1, "unused")
    text = str(error.value)
    assert "\n" not in text
    if entry.subject:
        assert f"it works {entry.subject}" in text
    elif entry.service:
        assert "needs the package" in text or "model " in text
    else:
        models = [word for model in entry.models for word in model.split()]
        assert any(_named(package, text) for package in entry.packages) or any(model in text for model in models)


def test_the_table_in_docs_is_the_one_that_the_command_makes():
    """In a process of its own: Data-Juicer's modules forget what was imported lazily."""
    done = warm.run([sys.executable, str(ROOT / "solution" / "process.py"), "operators", "--markdown"], ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (ROOT / "docs" / "operators.md").read_text(encoding="utf-8")


def save_llava_refine_assets(folder: Path) -> None:
    """Data-Juicer's cache with tiny files of LLaVA-refine's formats: SentencePiece, KenLM's ARPA, a list of words."""
    sentencepiece = pytest.importorskip("sentencepiece", reason="solution/requirements-stock.txt is not installed")
    pytest.importorskip("kenlm", reason="solution/requirements-compiled.txt is not installed")
    models, assets = folder / "models", folder / "assets"
    models.mkdir(parents=True)
    assets.mkdir()
    captions = ["a red dog runs", "the blue car stands", "a cat sleeps on a mat", "two dogs and a tree"]
    (models / "captions.txt").write_text("\n".join(captions * 20))
    sentencepiece.SentencePieceTrainer.train(
        input=str(models / "captions.txt"), model_prefix=str(models / "en.sp"), vocab_size=30, minloglevel=2
    )
    words = ["<unk>", "<s>", "</s>", "\u2581a", "\u2581", "a", "d"]
    unigrams = "\n".join(f"-{index / 2 + 1:.1f}\t{word}\t-0.3" for index, word in enumerate(words))
    (models / "en.arpa.bin").write_text(  # KenLM takes no model of single words
        f"\\data\\\nngram 1={len(words)}\nngram 2=1\n\n\\1-grams:\n{unigrams}\n\n"
        "\\2-grams:\n-0.5\t<s> \u2581a\n\n\\end\\\n",
        encoding="utf-8",
    )
    (assets / "flagged_words.json").write_text(json.dumps({"en": ["naughty"]}))


@pytest.mark.slow
def test_llava_refine_finds_its_assets_in_data_juicers_cache(tmp_path, make_seed, make_recipe, run_process):
    save_llava_refine_assets(tmp_path / "cache")
    published = yaml.safe_load((ROOT / "solution" / "recipes" / "llava_refine.yaml").read_text(encoding="utf-8"))
    process = [step for step in published["process"] if {"flagged_words_filter", "perplexity_filter"} & step.keys()]
    assert len(process) == 2
    seed = make_seed(["a red dog", "a naughty cat", "zzzz qqqq xxxx jjjj wwww"])
    environment = {"DATA_JUICER_CACHE_HOME": str(tmp_path / "cache")}
    done = run_process(make_recipe(process), seed, environment=environment)
    assert done.code == 0, done.err
    assert [row["id"] for row in done.rows] == ["000", "002"]  # not the one with a word of the list
    perplexity = pq.read_table(done.audit, columns=["score"]).column("score").to_pylist()
    assert perplexity[0] != perplexity[2]


@pytest.mark.slow
def test_a_model_file_that_cannot_be_loaded_stays(tmp_path, make_seed, make_recipe, run_process):
    """Data-Juicer removes it, to fetch it again."""
    save_llava_refine_assets(tmp_path)
    bad = tmp_path / "models" / "en.sp.model"
    bad.write_bytes(b"half a file")
    done = run_process(
        make_recipe([{"perplexity_filter": None}]),
        make_seed(["a red dog"]),
        environment={"DATA_JUICER_CACHE_HOME": str(tmp_path)},
    )
    assert done.code == 1
    assert done.err.splitlines()[-1].startswith("error: operator 1 (perplexity_filter) cannot be set up: model ")
    assert str(bad) in done.err.splitlines()[-1]
    assert bad.read_bytes() == b"half a file"


def test_models_in_a_hubs_cache_are_found(tmp_path, monkeypatch):
    for layout in ("hub/models/owner/model___5", "models/owner/model.5"):
        folder = tmp_path / layout
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path))
        assert needs._hub_model("owner/model.5") == str(folder)
        (folder / "config.json").unlink()
    snapshot = tmp_path / "hf" / "models--owner--model" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    for name in ("config.json", "model.safetensors"):
        (snapshot / name).write_text("{}")
    monkeypatch.setattr(needs.constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    assert needs._hub_model("owner/model") == str(snapshot)


@pytest.mark.parametrize(
    ("package", "command"),
    [
        ("selectolax", "pip install -r solution/requirements-stock.txt -c constraints.txt"),
        ("simhash-pybind", "pip install -r solution/requirements-compiled.txt -c constraints.txt"),
        ("boto3", "pip install boto3 -c constraints.txt"),
        ("simple-aesthetics-predictor", "pip install --no-deps simple-aesthetics-predictor -c constraints.txt"),
    ],
)
def test_the_command_for_a_package_works_from_any_folder(package, command, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    assert needs.install_command(package) == command
    monkeypatch.chdir(tmp_path)
    absolute = command.replace("solution/", f"{ROOT}/solution/").replace("-c constraints", f"-c {ROOT}/constraints")
    assert needs.install_command(package) == absolute


def test_a_package_is_named_before_a_row_at_any_number_of_processes(monkeypatch):
    monkeypatch.setattr(needs, "find_spec", lambda name: None if name in ("simhash", "selectolax") else object())
    for name, module in (("document_simhash_deduplicator", "simhash"), ("clean_html_mapper", "selectolax")):
        used = sys.modules[OPERATORS.modules[name].__module__]
        monkeypatch.setattr(used, module, LazyLoader(module))  # as before an earlier test's row
        for processes in (1, 2):
            with pytest.raises(UserError, match=rf"operator 1 \({name}\) cannot be set up: needs the package s"):
                build_operators([{name: {}}], processes, "unused")
