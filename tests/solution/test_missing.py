"""What is said where a data set or model folder is missing: true, and the very command."""

from pathlib import Path

import pytest

from solution.missing import ROOT, way_to
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
