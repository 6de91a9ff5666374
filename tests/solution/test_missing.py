"""What is said where a data set or model folder is missing: true, and the very command."""

import sys
from pathlib import Path

import pytest

from solution.missing import ROOT, way_to
from solution.process import main
from solution.runner.configuration.places import missing
from solution.runner.recipe import load_recipe

SEED = "input/mini/mgm_pretrain_mini.jsonl"
CLIP = "toolkit/training/model_zoo/mini/OpenAI/clip-vit-mini-patch16-"
OPERATORS = "toolkit/training/model_zoo/operators"


@pytest.mark.parametrize(
    ("path", "advice"),
    [
        ("input/mini/mgm_pretrain_mimi.jsonl", f"did you mean {SEED}?"),
        ("input/mimi/mgm_pretrain_mini.jsonl", f"did you mean {SEED}?"),
        (f"{CLIP}69", f"did you mean {CLIP}96?"),
        ("input/mini/seed.jsonl", "input/mini holds images, mgm_pretrain_mini.jsonl, stage_1.json"),
        ("input/pretrain_stage_1_10k/a.jsonl", "`bash download_10k_baseline.sh --only seed-10k` fetches it"),
        ("input/pretrain_stage_1/mgm_pretrain_stage_1.jsonl", "`bash download.sh --only seed` fetches it"),
        (f"{OPERATORS}/nsfw_image_detection", "`python -m toolkit download --only nsfw_image_detection` fetches it"),
        (
            f"{OPERATORS}/clip-vit-base-patch23",
            f"did you mean {OPERATORS}/clip-vit-base-patch32, which `python -m toolkit download` fetches?",
        ),
        ("/nowhere/at/all.jsonl", "none of the kit's downloads brings it: put it there by hand"),
    ],
)  # fmt: skip
def test_advice(path: str, advice: str) -> None:
    assert way_to(ROOT / path) == advice


def test_a_recipe_with_a_missing_model_names_its_own_download(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "dataset_path: input/mini/mgm_pretrain_mini.jsonl\nprocess:\n"
        f"  - blip_matching_filter: {{hf_blip: {OPERATORS}/blip-itm-base-coco}}\n"
    )
    (fault,) = load_recipe(recipe, None).faults
    assert "`python -m toolkit download --only blip-itm-base-coco` fetches it" in fault


def test_several_data_sets_are_told_the_key_for_them(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("dataset_path: [a.jsonl, b.jsonl]\nprocess: [text_length_filter]\n")
    (fault,) = load_recipe(recipe, None).faults
    assert "key dataset_path: expected one file or folder, found ['a.jsonl', 'b.jsonl']; several are named" in fault


def test_a_missing_data_set_is_looked_for_where_the_user_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rows.jsonl").touch()
    (tmp_path / ".hidden").touch()
    monkeypatch.chdir(tmp_path)
    assert missing("rosw.jsonl").endswith(f"did you mean {tmp_path}/rows.jsonl?")
    assert missing("other.txt").endswith(f"is missing; {tmp_path} holds rows.jsonl")
    assert missing("input/mini/mgm_pretrain_mimi.jsonl").endswith(f"did you mean {SEED}?")


def test_a_report_by_name_finds_the_recipe_where_the_user_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.yaml").write_text(f"work_dir: {tmp_path}/trial\nprocess: [text_length_filter]\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["process.py", "report", "mine"])
    with pytest.raises(SystemExit, match=f"{tmp_path}/trial/audit/mine.parquet is missing"):
        main()
