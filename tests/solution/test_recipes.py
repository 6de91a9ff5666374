"""Every recipe that the kit brings is valid, says what it needs, and names models by the place downloads put them."""

from pathlib import Path

import nltk
import pytest
import yaml

import solution.operators
import solution.recipe
from solution.juicer import OPERATORS
from solution.pipeline import build_operators
from solution.recipe import check_operators, load_recipe
from tests.solution import model_folders
from tests.solution.conftest import ROOT

RECIPES = sorted((ROOT / "solution" / "recipes").rglob("*.yaml"))
NAMES = [str(path.relative_to(ROOT / "solution" / "recipes")) for path in RECIPES]
BY_HAND = "solution/models/"  # models that no download brings; the recipe's head says where they come from


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """stand_in(recipe) loads it as if all models and the seed were there; the folders hold no weights."""

    def load(path: Path) -> solution.recipe.Recipe:
        content = yaml.safe_load(path.read_text())
        monkeypatch.setattr(solution.recipe, "ROOT", tmp_path)
        seed = tmp_path / content["dataset_path"]
        seed.parent.mkdir(parents=True, exist_ok=True)
        seed.write_text("{}\n")
        for model in models_of(content):
            (tmp_path / model).mkdir(parents=True, exist_ok=True)
            (tmp_path / model / ("model_index.json" if "diffusion" in model else "config.json")).write_text("{}")
        return load_recipe(path, None)

    return load


def models_of(content: dict) -> list[str]:
    """The models that a recipe names."""
    steps = [parameters or {} for step in content["process"] for parameters in step.values()]
    return [value for parameters in steps for key, value in parameters.items() if key.startswith("hf_")]


@pytest.mark.parametrize("path", RECIPES, ids=NAMES)
def test_recipe_is_valid(path, stand_in, tmp_path, monkeypatch):
    """Keys, operators, parameters and limits; our own operators also accept them together."""
    recipe = stand_in(path)
    process = check_operators(recipe, OPERATORS.modules)
    assert len(process) == len(recipe.process) > 0
    monkeypatch.setattr(nltk.data, "path", [str(model_folders.save_tagger(tmp_path / "nltk_data"))])
    ours = [step for step in process if OPERATORS.modules[next(iter(step))].__module__.startswith("solution.operators")]
    assert len(build_operators(ours, 1, str(tmp_path))) == len(ours)


@pytest.mark.parametrize("path", [path for path in RECIPES if path.name != "mini.yaml"], ids=lambda path: path.stem)
def test_head_says_what_a_reader_must_know(path):
    head = path.read_text().split("\n\n")[0]
    for word in ("# Source: ", "# Expected: ", "# Models", "# Time: "):
        assert word in head
    assert "estimate" in head or "CPU core" in head
    for model in models_of(yaml.safe_load(path.read_text())):
        assert model in head


@pytest.mark.parametrize("path", RECIPES, ids=NAMES)
def test_models_lie_where_downloads_put_them(path):
    manifest = yaml.safe_load((ROOT / "toolkit" / "download" / "resources.yaml").read_text())["resources"]
    places = {resource["destination"] for resource in manifest.values()}
    for model in models_of(yaml.safe_load(path.read_text())):
        if "model_zoo/mini/" in model:
            assert (ROOT / model / "config.json").is_file()
        elif model.startswith(BY_HAND):
            assert "by hand" in path.read_text().split("\n\n")[0]
        else:
            assert model in places


@pytest.mark.parametrize("path", RECIPES, ids=NAMES)
def test_nothing_ends_above_the_cap_by_design(path):
    """A recipe that fills up or cuts down ends at what the trainer takes at most."""
    content = yaml.safe_load(path.read_text())
    caps = [step["fill_to_cap_selector"]["cap"] for step in content["process"] if "fill_to_cap_selector" in step]
    if caps:
        assert caps[-1] == (1200 if "mini" in path.parts or path.stem == "mini" else 200_000)


def test_every_row_of_the_table_and_every_finalist_has_a_recipe():
    expected = {
        "aesthetics", "matching", "words", "similarity", "similarity_aesthetics", "similarity_recaption",
        "similarity_matching", "watermark_recaption", "recaption_60k", "long_captions_48k", "bronze_a", "bronze_b",
        "synthvlm", "clusters", "clean_synthesize_clean", "llava_refine", "datacomp", "baseline_10k", "default",
    }  # fmt: skip
    assert expected <= {path.stem for path in RECIPES if path.parent.name == "recipes"}


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in RECIPES if path.parent.name == "mini"], ids=lambda path: path.stem)
def test_mini_recipe_runs_on_the_mini_world(path, run_process, tmp_path_factory):
    """Half a minute each; they share scores and captions, as a participant's recipes do."""
    store = {"SCORE_STORE": str(tmp_path_factory.getbasetemp() / "mini_scores")}
    done = run_process(path, None, environment=store)
    assert done.code == 0, done.err
    assert len(done.rows) == (2400 if path.stem == "baseline" else 1200)
    counts = done.record["counts"]
    assert counts["in"] + counts["created"] == counts["kept"] + counts["dropped"] + counts["failed"]
    assert counts["failed"] == 0
