"""Every recipe that the kit brings is valid, says what it needs, and names models by their download path."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
import yaml

import solution.operators
import solution.runner.configuration.places
import solution.runner.recipe
from solution.operators.common.chat_server import ChatServer
from solution.operators.common.text_reader import INSTALL
from solution.runner.configuration.parameters import check_operators
from solution.runner.data_juicer import OPERATORS
from solution.runner.pipeline import build_operators
from solution.runner.recipe import load_recipe
from tests.solution import model_folders
from tests.solution.conftest import ROOT
from tests.solution.image_values import write_values

RECIPES = sorted((ROOT / "solution" / "recipes").rglob("*.yaml"))
NAMES = [str(path.relative_to(ROOT / "solution" / "recipes")) for path in RECIPES]
BY_HAND = "solution/models/"  # models that no download brings; the recipe's head says where they come from


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """stand_in(recipe) loads it as if all models and the seed were there; the folders hold no weights."""

    def load(path: Path) -> solution.runner.recipe.Recipe:
        content = yaml.safe_load(path.read_text())
        monkeypatch.setattr(solution.runner.configuration.places, "ROOT", tmp_path)
        seed = tmp_path / content["dataset_path"]
        seed.parent.mkdir(parents=True, exist_ok=True)
        seed.write_text("{}\n")
        for values in values_of(content):
            write_values(tmp_path / values, seed, [])
        for model in models_of(content):
            (tmp_path / model).mkdir(parents=True, exist_ok=True)
            (tmp_path / model / ("model_index.json" if "diffusion" in model else "config.json")).write_text("{}")
        return load_recipe(path, None)

    return load


def nltk_data():
    """NLTK's module that knows where its data lie."""
    return pytest.importorskip("nltk", reason="pip install -r solution/requirements-grounding.txt").data


def models_of(content: dict) -> list[str]:
    """The models that a recipe names."""
    steps = [parameters or {} for step in content["process"] for parameters in step.values()]
    return [value for parameters in steps for key, value in parameters.items() if key.startswith("hf_")]


def values_of(content: dict) -> list[str]:
    """The files of image values that a recipe names."""
    steps = [step["image_value_filter"] for step in content["process"] if "image_value_filter" in step]
    return [parameters["values"] for parameters in steps]


@pytest.mark.parametrize("path", RECIPES, ids=NAMES)
def test_recipe_is_valid(path, stand_in, tmp_path, monkeypatch):
    """Keys, operators, parameters and thresholds; our own operators also accept them together."""
    recipe = stand_in(path)
    process = check_operators(recipe, OPERATORS.modules)
    assert len(process) == len(recipe.process) > 0
    if any("phrase_grounding_filter" in step for step in process):
        monkeypatch.setattr(nltk_data(), "path", [str(model_folders.save_tagger(tmp_path / "nltk_data"))])
    if any("picture_painter_mapper" in step for step in process):
        pytest.importorskip("diffusers", reason="pip install -r solution/requirements-synthesis.txt -c constraints.txt")
    monkeypatch.setattr(ChatServer, "require", lambda server: None)  # it is not there
    if any(name.startswith("image_text_reading") for step in process for name in step):
        pytest.importorskip("rapidocr_onnxruntime", reason=INSTALL)
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
    destinations = {resource["destination"] for resource in manifest.values()}
    for model in models_of(yaml.safe_load(path.read_text())):
        if "model_zoo/mini/" in model:
            assert (ROOT / model / "config.json").is_file()
        elif model.startswith(BY_HAND):
            assert "by hand" in path.read_text().split("\n\n")[0]
        else:
            assert model in destinations


@pytest.mark.parametrize("path", RECIPES, ids=NAMES)
def test_nothing_ends_above_the_cap_by_design(path):
    """A recipe that fills up or cuts down ends at what the trainer takes at most."""
    content = yaml.safe_load(path.read_text())
    caps = [step["fill_to_cap_selector"]["cap"] for step in content["process"] if "fill_to_cap_selector" in step]
    if caps:
        assert caps[-1] == (1200 if "mini" in path.parts or path.stem == "mini" else 200_000)


@pytest.mark.parametrize("path", RECIPES, ids=NAMES)
def test_no_mapper_stands_between_scores_and_the_selector_that_ranks_by_them(path):
    """A mapper may change what was scored, so scores end there."""
    names = [
        next(iter(step)) if isinstance(step, dict) else step for step in yaml.safe_load(path.read_text())["process"]
    ]
    for position, name in enumerate(names):
        if name == "fill_to_cap_selector":
            after = next(at for at in range(position, -1, -1) if names[at].endswith("_filter"))
            assert not [other for other in names[after:position] if other.endswith("_mapper")]


def test_every_row_of_the_table_and_every_finalist_has_a_recipe():
    expected = {
        "aesthetics", "matching", "words", "similarity", "similarity_aesthetics", "similarity_recaption",
        "similarity_matching", "watermark_recaption", "recaption_60k", "long_captions_48k", "bronze_a", "bronze_b",
        "synthvlm", "clusters", "clean_synthesize_clean", "llava_refine", "datacomp", "baseline_10k", "default",
    }  # fmt: skip
    assert expected <= {path.stem for path in RECIPES if path.parent.name == "recipes"}


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in RECIPES if path.parent.name == "mini"], ids=lambda path: path.stem)
def test_mini_recipe_runs_on_the_mini_world(path, run_process, tmp_path, tmp_path_factory):
    """Half a minute each; they share scores and captions, as a participant's recipes do."""
    store = {"SCORE_STORE": str(tmp_path_factory.getbasetemp() / "mini_scores")}
    content = yaml.safe_load(path.read_text())
    for values in values_of(content):
        write_values(tmp_path / values, ROOT / content["dataset_path"], [number % 97 for number in range(2400)])
    if any("image_text_reading_mapper" in step for step in content["process"]):
        pytest.importorskip("rapidocr_onnxruntime", reason=INSTALL)
    done = run_process(path, None, environment=store)
    assert done.code == 0, done.err
    assert len(done.rows) == (2400 if path.stem == "baseline" else 1200)
    counts = done.record["counts"]
    assert counts["in"] + counts["created"] == counts["kept"] + counts["dropped"] + counts["failed"]
    assert counts["failed"] == 0


@pytest.fixture(scope="module")
def tiny_models(tmp_path_factory, clip_folder) -> dict[str, str]:
    """The last part of a recipe's model folder -> a tiny model of the same class."""
    pytest.importorskip("diffusers", reason="pip install -r solution/requirements-synthesis.txt -c constraints.txt")
    nltk_data()
    make = tmp_path_factory.mktemp
    torch.manual_seed(0)
    return {
        "clip-vit-base-patch32": str(clip_folder),
        "clip-vit-large-patch14-336": str(clip_folder),
        "blip-itm-base-coco": str(model_folders.save_blip_matcher(make("itm"))),
        "owlvit-base-patch32": str(model_folders.save_owlvit(make("owlvit"))),
        "nsfw_image_detection": str(model_folders.save_classifier(make("nsfw"))),
        "watermark_detector": str(model_folders.save_classifier(make("watermark"))),
        "aesthetics-predictor-v2-sac-logos-ava1-l14-linearMSE": str(
            model_folders.save_aesthetics_predictor(make("beauty"), torch.nn.Linear(16, 1))
        ),
        "blip2-opt-2.7b": str(model_folders.save_blip2(make("blip2"))),
        "Qwen2-VL-2B-Instruct": str(model_folders.save_qwen2_vl(make("qwen"))),
        "llava-1.5-7b-hf": str(model_folders.save_chat_model(make("llava"))),
        "stable-diffusion-v1-5": str(model_folders.save_pipeline(make("painter"))),
        "nltk_data": str(model_folders.save_tagger(make("tagger"))),
    }


# Random models score anywhere and write nonsense: thresholds are wide open, sizes cut to twenty rows of 48 x 40 px.
OPEN = {
    "max_score": 1.0, "below": 1.0, "min_new_score": -1.0, "min_gain": 0.0, "min_num": 0, "max_num": 99, "min_words": 1,
    "max_words": 99, "min_ratio": 0.0, "min_width": 1, "min_height": 1, "clusters": 2, "steps": 2,
    "size": 32, "model_batch": 4, "max_new_tokens": 6,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "default",
        "bronze_a",
        "bronze_b",
        "synthvlm",
        "clusters",
        "clean_synthesize_clean",
        "datacomp",
        "long_captions_48k",
        "combined_score",
    ],
)
def test_recipe_runs_with_tiny_models(name, tiny_models, make_seed, make_recipe, run_process):
    content = yaml.safe_load((ROOT / "solution" / "recipes" / f"{name}.yaml").read_text())
    for step in content["process"]:
        ((operator, parameters),) = step.items()
        for key, value in (parameters or {}).items():
            if key.startswith("hf_"):
                parameters[key] = tiny_models[Path(value).name]
            elif key == "min_score":
                parameters[key] = 0.0 if operator.startswith(("blip", "phrase", "picture")) else -1.0
            elif key in ("min_rank", "max_rank"):
                parameters[key] = {"min_rank": 3, "max_rank": 18}[key]
            elif key == "cap":
                parameters[key] = 12 if value < 200_000 else 16
            elif key in OPEN:
                parameters[key] = OPEN[key]
    seed = make_seed([f"a {colour} {thing} on the grass" for colour in ("red", "blue") for thing in "abcdefghij"])
    done = run_process(make_recipe(content["process"], name), seed, environment={"NLTK_DATA": tiny_models["nltk_data"]})
    assert done.code == 0, done.err
    assert len(done.rows) == (12 if name == "datacomp" else 16)  # its best 30 % are six rows, each twice
    assert done.record["counts"]["failed"] == 0
    assert name != "synthvlm" or all(row["images"][0].startswith("synthetic_images/") for row in done.rows)


def test_llava_refine_has_the_published_operators_order_and_thresholds():
    """configs/data_juicer_recipes/llava-pretrain-refine.yaml of Data-Juicer; two filters are ours, scores are equal."""
    published = [
        ("fix_unicode_mapper", {}),
        ("punctuation_normalization_mapper", {}),
        ("alphanumeric_filter", {"tokenization": False, "min_ratio": 0.60}),
        ("character_repetition_filter", {"rep_len": 10, "max_ratio": 0.09373663}),
        ("flagged_words_filter", {"lang": "en", "tokenization": False, "max_ratio": 0.0}),
        ("perplexity_filter", {"lang": "en", "max_ppl": 14435.5806}),
        ("special_characters_filter", {"min_ratio": 0.16534802, "max_ratio": 0.42023757}),
        ("word_repetition_filter", {"lang": "en", "tokenization": False, "rep_len": 10, "max_ratio": 0.03085751}),
        ("image_aspect_ratio_filter", {"min_ratio": 0.333, "max_ratio": 3.0}),
        ("image_shape_filter", {"max_width": 727, "max_height": 606}),
        ("image_size_filter", {"max_size": "124KB"}),
        ("clip_similarity_filter", {"min_score": 0.20315419}),
        ("blip_matching_filter", {"min_score": 0.44930778}),
    ]
    recipe = yaml.safe_load((ROOT / "solution" / "recipes" / "llava_refine.yaml").read_text())
    assert recipe["image_special_token"] == "<image>"
    ours = [(name, parameters or {}) for entry in recipe["process"] for name, parameters in entry.items()]
    without_models = [
        (name, {key: value for key, value in parameters.items() if not key.startswith("hf_")})
        for name, parameters in ours
    ]
    assert without_models == published


def test_the_mini_recipe_needs_none_of_the_extras():
    """What a newcomer has: the packages of requirements.txt alone."""
    program = """
    import sys
    for name in ("nltk", "ray", "diffusers", "selectolax", "opencc", "nlpaug", "fasttext", "kenlm", "sentencepiece",
                     "rapidocr_onnxruntime"):
        sys.modules[name] = None
    from pathlib import Path
    from solution.runner.configuration.parameters import check_operators
    from solution.runner.pipeline import build_operators, registry
    from solution.runner.recipe import load_recipe
    recipe = load_recipe(Path("mini"), None)
    process = check_operators(recipe, registry(recipe))
    assert len(build_operators(process, 1, "/nowhere")) == len(process)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
