"""Lab files: what is right is read as it says, what is wrong ends in one line with the nearest name."""

from pathlib import Path

import pytest

from experiments.lab.cells import cells_of
from experiments.lab.labfile import read_lab
from toolkit.__main__ import main
from toolkit.errors import UserError
from toolkit.files import REPOSITORY

ARMS = "arms: {raw: raw, mini: mini.yaml, some: random}\n"


@pytest.fixture
def written(tmp_path: Path):
    def write(text: str) -> Path:
        (tmp_path / "trial.yaml").write_text(text, encoding="utf-8")
        return tmp_path / "trial.yaml"

    return write


def test_the_example_says_what_it_says():
    lab = read_lab(REPOSITORY / "benchmarks" / "lab" / "example.yaml")
    assert lab.baseline == "raw"
    assert sum(arm.kind == "recipe" for arm in lab.arms.values()) == 7
    assert lab.arms["random"].size_of == "mini"
    assert lab.arms["mini"].source == lab.arms["mini_again"].source == "solution/recipes/mini.yaml"
    assert lab.world.questions == 600
    small, usual = lab.rungs["small"], lab.rungs["usual"]
    assert (small.preset.sample_cap, small.records) == (300, lab.records / "small")
    assert {arm.seeds for arm in small.arms.values()} == {(0, 1, 2)}
    assert (usual.records, usual.arms, usual.preset) == (lab.records, lab.arms, lab.preset)


def test_defaults_and_the_order_of_cells(written):
    lab = read_lab(written(f"seeds: 2\n{ARMS}"))
    assert (lab.name, lab.preset.name, lab.features, lab.baseline) == ("trial", "mini", "cached", "raw")
    assert lab.records == REPOSITORY / "output" / "lab" / "trial"
    names = [cell.name for cell in cells_of(lab)]
    assert names == [f"{arm}-draw0-seed{seed}" for seed in (0, 1) for arm in ("raw", "mini", "some")]
    full = read_lab(written("preset: mini\nfeatures: none\nseeds: [4]\nsample_cap: 9\narms: {a: mini/similarity}\n"))
    assert (full.features, full.preset.sample_cap, full.arms["a"].seeds) == ("none", 9, (4,))
    assert full.arms["a"].source == "solution/recipes/mini/similarity.yaml"


WRONG = {
    "an unknown key": (f"seeds: 1\nbudget_hour: 1\n{ARMS}", "no key 'budget_hour'; did you mean 'budget_hours'?"),
    "a misspelt key that is needed": (f"sedes: 1\n{ARMS}", "no key 'sedes'; did you mean 'seeds'?"),
    "a seed of 24 digits": (f"seeds: [{'9' * 24}]\n{ARMS}", "whole numbers from 0 to 999999999, found"),
    "no seeds": (ARMS, "key 'seeds' is missing: how many trainings of each arm"),
    "a seed that is none": (f"seeds: [0, one]\n{ARMS}", r"seeds must be how many .*, found \[0, 'one'\]"),
    "a seed twice": (f"seeds: [1, 1]\n{ARMS}", "a seed occurs twice"),
    "a recipe": ("project_name: mine\nprocess: []\n", "a recipe; a lab file names it among its arms"),
    "a list as a key": ("? [a]\n: 1\n", "not a YAML document .*unhashable key"),
    "a name too long for a file": (f"seeds: 1\narms: {{{'a' * 61}: raw}}\n", "a name has 1 to 60 letters"),
    "a name that YAML takes for no": ("seeds: 1\narms: {no: raw}\n", "arms: false: a name has .* in quotes where"),
    "nothing": ("seeds: 1\narms:\n", "arms must be keys and values, found nothing"),
    "other features": (
        f"seeds: 1\nfeatures: cahced\n{ARMS}",
        "one of cached, none, found 'cahced'; did you mean cached",
    ),
    "a text for a number": (f"seeds: 1\nbudget_hours: '3'\n{ARMS}", "must be a number, found '3'; write 3, without"),
    "a text for a list": (f"seeds: 1\nreuse: folder\n{ARMS}", "reuse must be a list, such as"),
    "a defect's share above 1": (
        f"seeds: 1\nworld: {{shares: {{mismatched: 3}}}}\n{ARMS}",
        "shares: mismatched must be a share of the rows, 0 to 1, found 3",
    ),
    "more questions than can be drawn": (
        f"seeds: 1\nworld: {{questions: 1000000000}}\n{ARMS}",
        "world: questions must be 1 to 100,000",
    ),
    "no arm": ("seeds: 1\narms: {}\n", "arms: none named"),
    "an arm twice": ("seeds: 1\narms:\n  raw: raw\n  raw: none\n", "line 4: 'raw' occurs twice"),
    "an unknown control": (
        "seeds: 1\narms: {a: randm}\n",
        "arms: a: no control or recipe 'randm'; did you mean 'random'",
    ),
    "an unknown recipe": ("seeds: 1\narms: {a: simlarity.yaml}\n", "recipe simlarity.yaml: no such file; did you mean"),
    "a missing file": ("seeds: 1\narms: {a: gone.jsonl}\n", "file gone.jsonl: no such file; paths start at the repo"),
    "an unknown key of an arm": (
        "seeds: 1\narms: {a: {control: raw, seed: 1}}\n",
        "no key 'seed'; did you mean 'seeds'",
    ),
    "two kinds of an arm": (
        "seeds: 1\narms: {a: {control: raw, recipe: mini}}\n",
        "expected a control, a recipe or a file",
    ),
    "a name that is no file's": ("seeds: 1\narms: {a/b: raw}\n", "arms: a/b: a name has 1 to 60 letters"),
    "random of nothing": ("seeds: 1\narms: {raw: raw, a: random}\n", "no arm is a recipe or file"),
    "random of no arm": (
        "seeds: 1\narms: {mini: mini, a: {control: random, size_of: mimi}}\n",
        "no recipe or file among the arms called 'mimi'; did you mean 'mini'",
    ),
    "a size of raw": (
        "seeds: 1\narms: {mini: mini, a: {control: raw, size_of: mini}}\n",
        "size_of belongs to random and",
    ),
    "an unknown preset": (f"seeds: 1\npreset: mimi\n{ARMS}", "no preset 'mimi'; expected one of full, 10k, mini"),
    "an unknown baseline": (f"seeds: 1\nbaseline: rav\n{ARMS}", "baseline: no arm 'rav'; did you mean 'raw'"),
    "a world's control without one": (
        "seeds: 1\narms: {a: clean}\n",
        "clean is a control of the mini world; add the key",
    ),
    "an unknown split": (f"seeds: 1\nworld: {{split: tset}}\n{ARMS}", "world: split must be one of dev, test"),
    "more draws than the world's": ("seeds: 1\nworld: {}\narms: {a: {control: raw, draws: 2}}\n", "draws must be 1 to"),
    "no draws": (f"seeds: 1\nworld: {{draws: 0}}\n{ARMS}", "world: draws must be 1 to 100,000, found 0"),
    "an unknown defect": (
        f"seeds: 1\nworld: {{shares: {{blurr: 0.1}}}}\n{ARMS}",
        "no defect 'blurr'; did you mean 'blur'",
    ),
    "a budget below nothing": (f"seeds: 1\nbudget_hours: -1\n{ARMS}", "budget_hours must be 0"),
    "a missing data set": (
        f"seeds: 1\ndataset: gone.jsonl\n{ARMS}",
        "dataset gone.jsonl: no such file; paths start at",
    ),
    "a full preset's features": (
        f"seeds: 1\npreset: full\nfeatures: cached\ndataset: input/mini/mgm_pretrain_mini.jsonl\n{ARMS}",
        "features: cached is for small presets",
    ),
    "a full preset without data": (f"seeds: 1\npreset: full\n{ARMS}", "no such file; run `bash download.sh`"),
    "records in a file": (
        f"seeds: 1\nrecords: README.md/records\n{ARMS}",
        "records: README.md is a file; name a folder",
    ),
    "no folder to reuse": (f"seeds: 1\nreuse: [gone]\n{ARMS}", "reuse: gone: no such folder"),
    "a rung's unknown key": (
        f"seeds: 1\nladder: {{small: {{cap: 1}}}}\n{ARMS}",
        "ladder: small: no key of a rung 'cap'",
    ),
    "no YAML": ("seeds: [1\n", "not a YAML document"),
    "no mapping": ("- seeds\n", "expected a lab's keys and values"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_ends_in_one_line(case, written):
    text, expected = WRONG[case]
    with pytest.raises(UserError, match=expected) as caught:
        read_lab(written(text))
    assert "\n" not in str(caught.value)
    assert "trial.yaml" in str(caught.value)


def test_all_faults_come_at_once(written):
    arms = "arms:\n  raw: raw\n  r1: recpie\n  'a b': raw\n  x: {control: random, seeds: 0}\n"
    file = written(f"seeds: -1\nbudget_hours: -3\nbaseline: rwa\ndataset: nowhere.jsonl\nreuse: [a, b]\n{arms}")
    with pytest.raises(UserError) as raised:
        read_lab(file)
    first, *faults = str(raised.value).splitlines()
    assert first == "9 faults:"
    starts = ("budget_hours", "seeds", "arms: r1", "arms: a b", "arms: x: seeds", "baseline", "reuse: a", "reuse: b")
    for fault, start in zip(faults, (*starts, "dataset nowhere.jsonl"), strict=True):
        assert fault.startswith(f"  {file}: {start}")
    with pytest.raises(UserError, match=r"2 faults:\n  .*one: no key of a rung 'arms'.*\n  .*two: expected keys"):
        read_lab(written(f"seeds: 1\n{ARMS}ladder: {{one: {{arms: {{}}}}, two: [1]}}\n"))


def test_the_command_tells_it_without_a_trace(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("experiments.lab.plan.faults_of", lambda recipes, dataset: {})
    assert main(["lab", "run", str(tmp_path / "gone.yaml")]) == 1
    assert capsys.readouterr().err.startswith("error: ")
    assert main(["lab", "ladder", str(REPOSITORY / "benchmarks" / "lab" / "example.yaml"), "--plan"]) == 0
