"""Faults of a recipe are found before any model loads, each in one line with the way out."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from solution.runner.configuration import keys
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


BOMB = "a: &a [x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)}, *{chr(97 + n)}]\n" for n in range(24)
)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"process: [caf\xe9]\n", "line 1: not UTF-8 (byte 0xe9); `iconv -f LATIN1"),
        (b"[" * 5000, "is nested too deeply"),
        (BOMB.encode(), "stands for more than 100,000 values"),
        (b"process: &p [*p]", "stands for more than 100,000 values"),
        (b"a: 2024-13-45", "is no valid YAML"),
        (b"", "is empty or no mapping"),
        (b"- 1", "is empty or no mapping"),
        (b"a: b\n" * 300_000, "expected a short YAML file (the data set goes to --dataset)"),
    ],
    ids=["latin-1", "deep", "bomb", "circle", "date", "empty", "list", "large"],
)
def test_what_is_no_recipe_is_one_line(content, words, tmp_path):
    (tmp_path / "trial.yaml").write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_recipe(tmp_path / "trial.yaml", None)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_name_that_is_too_long_for_the_files_of_a_run(tmp_path):
    (tmp_path / f"{'n' * 201}.yaml").write_text("process: [fix_unicode_mapper]")
    with pytest.raises(UserError, match=r"its name is too long, .*at most 200 bytes"):
        load_recipe(tmp_path / f"{'n' * 201}.yaml", None)


def test_a_folder_is_no_recipe(tmp_path):
    with pytest.raises(UserError, match="is a folder; expected a YAML file in it"):
        load_recipe(tmp_path, None)


def test_a_bare_name_is_a_recipe_of_the_kit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_recipe(Path("mini"), None).path == ROOT / "solution" / "recipes" / "mini.yaml"
    assert load_recipe(Path("mini/datacomp"), None).name == "datacomp"
    with pytest.raises(UserError, match=r"recipe min is missing; did you mean mini\?"):
        load_recipe(Path("min"), None)


def test_a_path_of_5000_characters_is_a_short_line(make_recipe, tmp_path):
    long = "a" * 5000
    process = [{"clip_similarity_filter": {"hf_clip": f"./{long}"}}]
    faults = load_recipe(make_recipe(process, dataset_path=long, custom_operator_paths=[long]), None).faults
    assert len(faults) == 3
    assert all("is no path that a file can have" in fault and len(fault) < 1200 for fault in faults)


@pytest.mark.parametrize("entry", [5, None, 1.5, True, ["a"], {"a": 1, "b": 2}, {5: None}])
def test_an_entry_that_is_no_operator(fault, entry):
    assert "operator 1: expected `- operator: {parameters}`, found " in fault([entry])


def test_all_keys_of_data_juicers_parser_are_known():
    """Its own parser is built for once: every destination, and its default where it has a plain one."""
    from data_juicer.config.config import build_base_parser

    ours = {name: key for name, key in keys.known_keys().items() if name not in keys.OWN}
    theirs = {action.dest: action for action in build_base_parser()._actions}
    assert theirs.keys() - ours.keys() == {"help", "config", "print_config", "default_config_files"} & theirs.keys() | {
        name for name in theirs if name in ("print_shtab",)
    }
    for name, key in ours.items():
        if not name.endswith("_special_token"):  # these are Data-Juicer's of the moment: a run sets them
            assert theirs[name].default == key.default, name


def test_the_keys_of_a_whole_data_juicer_configuration_are_taken(make_recipe, make_seed):
    """All keys at their defaults: nothing is said, nothing refused."""
    content = {name: key.default for name, key in keys.known_keys().items() if "." not in name}
    content = {key: value for key, value in content.items() if key not in ("process", "export_path")}
    recipe = load_recipe(make_recipe([{"text_length_filter": {}}], **content), make_seed(["a"]))
    assert recipe.faults == recipe.remarks == ()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"generated_dataset_config": {"type": "x"}}, "generated_dataset_config: rows come from files here"),
        ({"executor_type": "rya"}, "key executor_type: "),
        ({"np": 0}, "key np: input should be greater than 0"),
        ({"data_probe_ratio": 2}, "key data_probe_ratio: input should be less than or equal to 1"),
        ({"checkpoint": {"strateg": "x"}}, "key checkpoint.strateg: unknown key"),
        ({"dataset": {"configs": [{"type": "remote", "path": "x"}]}}, "dataset.configs, entry 1: expected type local"),
        ({"dataset": {"max_sample_num": 5, "configs": [{"path": "x"}]}}, "key dataset.max_sample_num: "),
        ({"custom_operator_paths": ["none.py"]}, "key custom_operator_paths: "),
        ({"export_path": "s3://bucket/x.jsonl"}, "key export_path: the result is a local file"),
        ({"eoc_special_token": "</s>"}, "key eoc_special_token: expected <|__dj__eoc|>"),
    ],
)
def test_keys_that_cannot_be_honoured(given, words, make_recipe):
    assert any(words in fault for fault in load_recipe(make_recipe([], **given), None).faults)


def test_what_keys_mean(make_recipe, make_seed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seed = make_seed(["a"])
    recipe = load_recipe(
        make_recipe(
            [],
            dataset={"configs": [{"type": "local", "path": "seed/seed.jsonl", "weight": 0.5}, {"path": str(seed)}]},
            export_path="out/x.jsonl", work_dir="work", temp_dir="tmp", text_keys=["caption", "text"],
            image_key="image", executor_type="ray_partitioned", ray_address="head:6379", np=3, skip_op_error=False,
            keep_stats_in_res_ds=True, image_special_token="<image>", data_probe_ratio=0.5,
        ),
        None,
    )  # fmt: skip
    assert recipe.faults == ()
    assert recipe.datasets == (tmp_path / "seed" / "seed.jsonl", seed)
    assert (recipe.export_path, recipe.work_dir) == (tmp_path / "out" / "x.jsonl", tmp_path / "work")
    assert (recipe.text_key, recipe.image_key, recipe.image_token) == ("caption", "image", "<image>")
    assert (recipe.executor, recipe.ray_address, recipe.processes) == ("ray", "head:6379", 3)
    assert (recipe.on_error, recipe.keep_stats, recipe.ratio) == ("stop", True, 0.5)


@pytest.mark.parametrize("text", ["seed/seed.jsonl 0.5 seed/more.jsonl", "1.0 seed/seed.jsonl 2 'seed/more.jsonl'"])
def test_a_mixture_of_paths(text, make_recipe, make_seed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seed = make_seed(["a"])
    more = seed.with_name("more.jsonl")
    more.write_text("{}")
    assert load_recipe(make_recipe([], dataset_path=text), None).datasets == (seed, more)


def test_names_of_older_data_juicers(make_recipe, make_seed, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    given = {"hf_nsfw_model": str(tmp_path), "score_threshold": 0.4}
    recipe = load_recipe(make_recipe([{"image_nsfw_filter": given}], preserve_intermediate_data=True), make_seed(["a"]))
    assert recipe.process[0][1]["max_score"] == 0.4
    assert any(remark.endswith("score_threshold is called max_score today") for remark in recipe.remarks)
    assert any("preserve_intermediate_data: no key of today's" in remark for remark in recipe.remarks)


def test_a_syntax_error_in_an_operator_that_no_recipe_names(monkeypatch, make_recipe, make_seed):
    """It breaks neither another recipe nor the message for a mistyped operator."""
    import solution.runner.pipeline as pipeline

    def register(names):
        if "broken_filter" in names:
            raise SyntaxError("invalid syntax")

    monkeypatch.setattr(pipeline, "NAMES", ("broken_filter",))
    monkeypatch.setattr(pipeline, "register", register)
    recipe = load_recipe(make_recipe([{"text_lenght_filter": None}]), make_seed(["a"]))
    with pytest.raises(UserError, match="did you mean text_length_filter"):
        check_operators(recipe, pipeline.registry(recipe))
    broken = load_recipe(make_recipe([{"broken_filter": None}]), make_seed(["a"], folder="other"))
    with pytest.raises(UserError, match="cannot be imported: SyntaxError: invalid syntax"):
        pipeline.registry(broken)


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


def test_a_share_of_nothing_is_refused(fault):
    assert "data_probe_ratio: expected a share above 0" in fault([], data_probe_ratio=0)
    assert "key np: input should be a valid integer, found '2'" in fault([], np="2")
