"""Faults of a recipe are found before any model loads, each in one line with the way out."""

import subprocess
import sys
import textwrap

import pytest

from solution.runner.configuration.parameters import check_operators
from solution.runner.errors import UserError
from solution.runner.files import ROOT
from solution.runner.recipe import load_recipe


@pytest.fixture
def fault(make_recipe, make_seed):
    """fault(process, **keys) -> the lines that checking such a recipe ends in."""
    seed = make_seed(["a red dog"])

    def check(process: list, **keys) -> str:
        import solution.operators  # noqa: F401  registers ours
        from solution.runner.data_juicer import OPERATORS

        with pytest.raises(UserError) as caught:
            check_operators(load_recipe(make_recipe(process, **keys), seed), OPERATORS.modules)
        assert all(line.startswith("recipe ") for line in str(caught.value).splitlines())
        return str(caught.value)

    return check


def test_unknown_key_names_the_nearest(fault):
    assert "unknown key 'proces'; did you mean process?" in fault([], proces=[])


def test_an_image_token_that_no_row_has_is_refused(fault):
    assert (
        "image_special_token: expected <__dj__image> or <image>, as the challenge's rows have, found '<img>'"
        in fault([], image_special_token="<img>")
    )


def test_unknown_operator_names_the_nearest(fault):
    line = fault([{"clip_similarty_filter": {}}])
    assert "operator 1" in line
    assert "did you mean clip_similarity_filter?" in line


def test_unknown_parameter_names_the_nearest(fault):
    assert "unknown parameter 'min_scor'; did you mean min_score?" in fault(
        [{"clip_similarity_filter": {"min_scor": 0.1}}]
    )


@pytest.mark.parametrize(
    ("operator", "parameters"),
    [
        ("clip_similarity_filter", {"min_score": 0.4, "max_score": 0.3}),
        ("caption_words_filter", {"min_num": 100}),  # above the default of max_num
        ("image_shape_filter", {"min_width": 500, "max_width": 100}),
    ],
)
def test_minimum_above_maximum(fault, operator, parameters):
    assert "is greater than max_" in fault([{operator: parameters}])


@pytest.mark.parametrize("operator", ["clip_similarity_filter", "image_text_similarity_filter"])
def test_similarity_out_of_range(fault, operator):
    line = fault([{operator: {"min_score": 32, "max_score": 100}}])
    assert "min_score" in line
    assert "32" in line


def test_wrong_type(fault):
    assert "caption_words_filter" in fault([{"caption_words_filter": {"min_num": "three"}}])
    assert "min_words" in fault([{"conditional_recaption_mapper": {"min_words": 0}}])


def test_missing_model_folder_says_how_to_get_it(fault):
    line = fault([{"clip_similarity_filter": {"hf_clip": "toolkit/training/model_zoo/OpenAI/nowhere"}}])
    assert "hf_clip" in line
    assert line.endswith("nowhere is missing; none of the kit's downloads brings it: put it there by hand")


def test_model_folder_without_a_model(fault, tmp_path):
    assert "has no config.json" in fault([{"clip_similarity_filter": {"hf_clip": str(tmp_path)}}])


def test_missing_dataset_says_how_to_get_it(make_recipe):
    (fault,) = load_recipe(make_recipe([], dataset_path="input/none.jsonl"), None).faults
    assert "key dataset_path: data set input/none.jsonl is missing; input holds " in fault


def test_no_dataset_at_all(make_recipe):
    (fault,) = load_recipe(make_recipe([]), None).faults
    assert "no dataset_path" in fault


def test_missing_recipe_lists_the_ones_there_are(tmp_path):
    with pytest.raises(UserError, match=r"solution/recipes/mini.yaml"):
        load_recipe(tmp_path / "none.yaml", None)


def test_broken_yaml(tmp_path):
    (tmp_path / "broken.yaml").write_text("process: [")
    with pytest.raises(UserError, match="no valid YAML"):
        load_recipe(tmp_path / "broken.yaml", None)


def test_every_key_of_our_recipes_has_a_comment_before_it():
    for recipe in (ROOT / "solution" / "recipes").rglob("*.yaml"):
        lines = [line.strip() for line in recipe.read_text().splitlines()]
        comments = ""
        for line in lines:
            if line.startswith("#"):
                comments += line
            elif not line:
                comments = ""
            else:
                key = line.removeprefix("- ").split(":")[0]
                assert key in comments or line.startswith("- "), f"{recipe.name}: {key} has no comment"


def test_mini_recipe_is_valid(tmp_path):
    """Operators, parameters and thresholds; any folder replaces the models, which this test does not need."""
    import yaml

    import solution.operators  # noqa: F401
    from solution.runner.data_juicer import OPERATORS

    content = yaml.safe_load((ROOT / "solution" / "recipes" / "mini.yaml").read_text())
    for step in content["process"]:
        for parameters in step.values():
            for key in parameters or {}:
                if key.startswith("hf_"):
                    parameters[key] = str(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    seed = tmp_path / "seed.jsonl"
    seed.write_text("{}\n")
    path = tmp_path / "mini.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    recipe = load_recipe(path, seed)
    assert len(check_operators(recipe, OPERATORS.modules)) == len(content["process"])


def test_only_the_named_operators_of_data_juicer_are_loaded():
    """One that builds on another brings that one only; none is registered twice or lost."""
    program = """
    import sys
    from solution.runner.data_juicer import OPERATORS, register_stock
    assert len(OPERATORS.modules) < 5
    register_stock(["words_num_filter", "caption_words_filter"])
    assert len(OPERATORS.modules) < 6
    first = OPERATORS.modules["words_num_filter"]
    register_stock(["llm_quality_score_filter"])
    assert len(OPERATORS.modules) < 8
    register_stock()
    assert len(OPERATORS.modules) > 200
    assert OPERATORS.modules["words_num_filter"] is first
    from data_juicer.ops.filter import WordsNumFilter
    assert WordsNumFilter is first
    assert "ray" not in sys.modules and "torch" not in sys.modules
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_share_of_failed_rows_is_a_key_of_ours(make_recipe, fault):
    assert load_recipe(make_recipe([], max_failed=0.5), None).max_failed == 0.5
    assert load_recipe(make_recipe([]), None).max_failed == 0.05
    assert "max_failed: input should be less than or equal to 1, found 5" in fault([], max_failed=5)
