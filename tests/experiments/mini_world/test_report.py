"""The report's figures against numbers calculated by hand, and its table against the committed one."""

from argparse import Namespace

import pytest

from experiments.lab.cells import cells_of, read_record
from experiments.mini_world.report import RECIPE as RECIPE_FILE
from experiments.mini_world.report import (
    RECORDS,
    both,
    estimate,
    lab_of_report,
    paired,
    pooled_deviation,
    read_records,
    table,
    textvqa,
)
from toolkit.__main__ import main
from toolkit.errors import UserError
from toolkit.files import REPOSITORY, write_json


def record(arm: str, draw: int, seed: int, text: float, choice: float, models: str = "m") -> dict:
    return {
        "arm": arm,
        "draw": draw,
        "seed": seed,
        "scores": {"textvqa": {"all": text, "object": text}, "mmbench": {"all": choice, "count": choice}},
        "counts": {"rows": 8, "distinct_rows": 6},
        "seconds": 50.0,
        "cpu_seconds": 40.0,
        "inputs": {"models": models, "finetune": "f", "evaluation": "e", "figures": {}},
    }


RAW = [record("raw", 0, seed, text, 0.40) for seed, text in enumerate((0.50, 0.52, 0.54))]
RECIPE = [record("recipe", 0, seed, text, 0.50) for seed, text in enumerate((0.60, 0.64, 0.62))]


def test_mean_deviation_and_interval():
    found = estimate([50.0, 52.0, 54.0])
    assert (found.mean, found.deviation, found.count) == (52.0, 2.0, 3)
    assert found.half_width == pytest.approx(4.302653 * 2 / 3**0.5)


def test_a_single_value_has_no_interval():
    found = estimate([7.0])
    assert (found.mean, found.deviation, found.half_width) == (7.0, None, None)


def test_paired_difference_uses_shared_draw_and_seed_only():
    elsewhere = record("recipe", 1, 0, 0.99, 0.99)
    found = paired([*RECIPE, elsewhere], list(reversed(RAW)), textvqa)
    # 10, 12 and 8 points: mean 10, deviation 2.
    assert (found.count, found.mean, found.deviation) == (3, pytest.approx(10), pytest.approx(2))
    assert found.half_width == pytest.approx(4.302653 * 2 / 3**0.5)
    assert paired([elsewhere], RAW, textvqa) is None


def test_pooled_deviation_weighs_by_degrees_of_freedom():
    # Means of both: raw 45, 46, 47; recipe 55, 57, 56; a single trial has no variance: variances 1 and 1.
    assert pooled_deviation([RAW, RECIPE, [record("clean", 0, 0, 0.9, 0.9)]], both) == pytest.approx(1)
    # Variances 1 (two degrees) and 8 (one): (2 + 8) / 3.
    two = [record("x", 0, 0, 0.50, 0.50), record("x", 0, 1, 0.54, 0.54)]
    assert pooled_deviation([RAW, two], both) == pytest.approx((10 / 3) ** 0.5)
    assert pooled_deviation([two[:1]], both) is None


def test_table_names_gain_and_the_largest_defect():
    blur = [record("no_blur", 0, 0, 0.54, 0.40), record("no_blur", 0, 1, 0.56, 0.40)]
    text = "\n".join(table({"raw": RAW, "recipe": RECIPE, "no_blur": blur}, ("raw", "recipe")))
    assert "| recipe | 3 | 8 (6) | 62.0 (2.0) | 50.0 (0.0) | 56.0 (1.0) | +10.0 [+5.0, +15.0] |" in text
    assert "recipe - raw: +10.0 pooled within-arm standard deviations (1.00)" in text
    assert "largest: no_blur, 20 % of the recipe's gain" in text
    assert "| no_blur | 55.0 | 40.0 |" in text


def test_table_without_raw_or_without_gain():
    assert "| recipe | 1 |" in "\n".join(table({"recipe": RECIPE[:1]}, ("raw", "recipe")))
    worse = [record("recipe", 0, 0, 0.1, 0.1)]
    assert "largest" not in "\n".join(table({"raw": RAW, "recipe": worse, "no_blur": RAW}, ("raw", "recipe")))


def test_records_of_two_worlds_are_not_mixed(tmp_path):
    write_json(tmp_path / "raw-draw0-seed0.json", RAW[0])
    write_json(tmp_path / "recipe-draw0-seed0.json", record("recipe", 0, 0, 0.6, 0.5, models="other"))
    assert read_records(tmp_path, ["raw"]) == {"raw": [read_record(tmp_path / "raw-draw0-seed0.json")]}
    with pytest.raises(UserError, match=r"recipe-draw0-seed0\.json: its models differ"):
        read_records(tmp_path, ["raw", "recipe"])


def test_committed_records_give_the_documented_table(capsys):
    """The rows printed of the records in this repository are those that a document beside them or in docs/ shows."""
    assert main(["mini", "report", "--split", "test", "--no-run"]) == 0
    printed = capsys.readouterr().out.splitlines()
    rows = [line for line in printed if line.startswith("|") and not line.startswith(("| arm |", "|---"))]
    documents = [RECORDS / "README.md", *(REPOSITORY / "docs").glob("*.md")]
    documented = {line for path in documents for line in path.read_text(encoding="utf-8").splitlines()}
    assert len(rows) == 30
    assert [row for row in rows if row not in documented] == []


def test_plan_completes_pairs_first_and_gives_defects_three_seeds_of_one_draw():
    def trials(*names, seeds=None, draws=None):
        words = Namespace(recipe=RECIPE_FILE, seeds=seeds, draws=draws, split="dev", stochastic_depth=False)
        return [(cell.arm.name, cell.draw, cell.seed) for cell in cells_of(lab_of_report(words, RECORDS, names))]

    found = trials("raw", "recipe", "no_blur")
    assert found[:3] == [("raw", 0, 0), ("recipe", 0, 0), ("no_blur", 0, 0)]
    assert len(found) == 2 * 5 * 2 + 3
    assert {trial for trial in found if trial[0] == "no_blur"} == {("no_blur", 0, seed) for seed in range(3)}
    assert len(trials("no_blur", seeds=5, draws=2)) == 5 * 2
    assert {name for name, *_ in trials("random")} == {"random"}  # its recipe is run for its size only
