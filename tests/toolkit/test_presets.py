"""toolkit/presets.py: the three presets differ in figures only; wrong keys are refused by name."""

from __future__ import annotations

import pytest
import yaml

from toolkit.errors import UserError
from toolkit.files import REPOSITORY
from toolkit.presets import PRESET_FOLDER, PRESETS, load_preset


def written_keys(values: dict, prefix: str = "") -> list[str]:
    keys = []
    for key, value in values.items():
        keys.append(prefix + key)
        if isinstance(value, dict):
            keys += written_keys(value, f"{prefix}{key}.")
    return keys


@pytest.fixture
def values():
    return yaml.safe_load((PRESET_FOLDER / "mini.yaml").read_text())


def load(values, folder):
    path = folder / "own.yaml"
    path.write_text(yaml.safe_dump(values))
    return load_preset(str(path))


def test_presets_have_the_same_keys_in_the_same_order():
    full, *others = (written_keys(yaml.safe_load((PRESET_FOLDER / f"{name}.yaml").read_text())) for name in PRESETS)
    assert all(keys == full for keys in others)


@pytest.mark.parametrize("name", PRESETS)
def test_every_key_is_commented(name):
    lines = (PRESET_FOLDER / f"{name}.yaml").read_text().splitlines()
    assert [line for line in lines if line and "#" not in line] == []


@pytest.mark.parametrize("name", ["full", "10k"])
def test_figures_the_challenge_fixes(name):
    preset = load_preset(name)
    assert (preset.sample_cap, preset.sample_seed, preset.precision) == (200_000, 1024, "bf16")
    assert (preset.pretrain.global_batch, preset.finetune.global_batch) == (256, 128)
    assert (preset.pretrain.learning_rate, preset.finetune.learning_rate) == (1e-3, 2e-5)
    assert (preset.pretrain.image_aspect_ratio, preset.finetune.image_aspect_ratio) == ("square", "pad")
    assert (preset.max_length, preset.image_size_aux) == (2048, 768)
    assert preset.needs_gpu


def test_mini_runs_in_fp32_without_a_gpu_from_its_own_folders():
    preset = load_preset("mini")
    assert preset.precision == "fp32"
    assert not preset.needs_gpu
    assert preset.seed_images == REPOSITORY / "input/mini"
    assert preset.llm.is_relative_to(REPOSITORY / "toolkit/training/model_zoo/mini")
    assert preset.run_folder("pretrain", "a") == "MGM-Mini-Pretrain-a"
    assert preset.stage("finetune") is preset.finetune


def test_an_unknown_key_is_refused_with_the_nearest_known_one(values, tmp_path):
    with pytest.raises(UserError, match="unknown key 'sample_capp', did you mean 'sample_cap'"):
        load(values | {"sample_capp": 3}, tmp_path)
    with pytest.raises(UserError, match=r"pretrain: unknown key 'learning_rates', did you mean 'learning_rate'"):
        load(values | {"pretrain": values["pretrain"] | {"learning_rates": 1}}, tmp_path)


def test_a_missing_or_mistyped_key_is_refused(values, tmp_path):
    with pytest.raises(UserError, match="key 'precision' is missing"):
        load({key: value for key, value in values.items() if key != "precision"}, tmp_path)
    with pytest.raises(UserError, match="precision must be one of bf16, fp32, found 'fp8'"):
        load(values | {"precision": "fp8"}, tmp_path)
    with pytest.raises(UserError, match="sample_cap must be a whole number, found '1200'; write 1200, without quotes"):
        load(values | {"sample_cap": "1200"}, tmp_path)


def test_an_own_preset_keeps_absolute_paths(values, tmp_path):
    assert load(values | {"seed_images": str(tmp_path)}, tmp_path).seed_images == tmp_path


def test_an_unknown_preset_is_refused():
    with pytest.raises(UserError, match="no preset 'tiny'; expected one of full, 10k, mini"):
        load_preset("tiny")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a preset's keys and values"),
        (b"- llm\n", "expected a preset's keys and values"),
        (b"1: 2\n", "expected a preset's keys and values"),
        (b"llm: [\n", "not a YAML document"),
        (b"llm: \xff\xfe\n", "not a YAML document"),
        (b"\0\0", "not a YAML document"),
        (b"[" * 5000, "not a YAML document"),
        (b"<html>404</html>", "expected a preset's keys and values"),
        (b"&a a: &b [x,x]\nllm: &c [*b,*b]\n", "unknown key 'a'"),
    ],
)
def test_a_broken_preset_is_one_line(content, message, tmp_path):
    path = tmp_path / "own.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        load_preset(str(path))
    assert message in str(error.value)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("part", ["", "pretrain"])
def test_a_figure_that_no_run_can_have_is_refused(values, tmp_path, part):
    wrong = {"": {"sample_cap": 0}, "pretrain": {"pretrain": values["pretrain"] | {"learning_rate": float("nan")}}}
    with pytest.raises(UserError, match="must be above 0 and finite"):
        load(values | wrong[part], tmp_path)
    with pytest.raises(UserError, match="llm must be a path, found 3"):
        load(values | {"llm": 3}, tmp_path)


def test_a_bomb_of_anchors_is_not_printed(values, tmp_path):
    path = tmp_path / "own.yaml"
    lines = ["x0: &x0 [y, y]"] + [f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]" for n in range(1, 12)]
    path.write_text("\n".join([*lines, "sample_cap: *x11"]) + "\n" + yaml.safe_dump(values))
    with pytest.raises(UserError, match="unknown key 'x0'"):
        load_preset(str(path))
