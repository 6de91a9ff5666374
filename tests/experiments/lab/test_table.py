"""The lab's results in a terminal; the noise of earlier labs that they may use."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from experiments.lab import ladder, run
from experiments.lab.cells import cells_of
from experiments.lab.comparison.earlier import earlier_noise
from experiments.lab.comparison.measures import scores_of_records
from experiments.lab.comparison.statistics import analyse
from experiments.lab.comparison.table import lines_of
from experiments.lab.labfile import read_lab
from experiments.lab.workers import Outcome
from tests.experiments.lab.example import write_lab
from toolkit.files import REPOSITORY

RECORDS = REPOSITORY / "experiments" / "mini_world" / "records" / "test"


def mini_records(*arms: str) -> list[dict]:
    return [json.loads(file.read_text()) for arm in arms for file in sorted(RECORDS.glob(f"{arm}-*.json"))]


def test_the_best_arm_comes_first_within_80_columns() -> None:
    scores = scores_of_records(mini_records("none", "raw", "random", "recipe", "clean"))
    lines = lines_of(analyse(scores, "raw", warnings=["recipe: odd"]))
    assert max(map(len, lines)) <= 80, "\n".join(lines)
    assert [line.split()[0] for line in lines[1:6]] == ["clean", "recipe", "random", "raw", "none"]
    assert lines[0].split("  ")[0] == "points, 95 %"
    against = {line.split()[0]: line for line in lines[8:12]}
    assert list(against) == ["clean", "recipe", "random", "none"]
    assert against["recipe"].endswith("better")
    assert against["none"].endswith("worse")
    assert against["random"].endswith("not decided  > 50")
    assert lines[12].startswith("smallest gain that four of five such labs find: ")
    assert lines[-1] == "warning: recipe: odd"


def test_one_seed_without_earlier_labs_has_no_intervals() -> None:
    records = [record for record in mini_records("raw", "recipe") if (record["draw"], record["seed"]) == (0, 0)]
    lines = lines_of(analyse(scores_of_records(records), "raw"))
    assert "recipe        1     61.5     60.5     61.0" in lines
    assert "recipe       +26.2    +11.3    +18.8  -  not decided  ?" in lines


def test_earlier_noise_is_that_of_the_presets_largest_lab(tmp_path: Path) -> None:
    found = earlier_noise("mini")
    assert found
    assert found.source == "101 trainings of 15 arms in experiments/mini_world/records/test"
    assert earlier_noise("full") is None
    mine = tmp_path / "output" / "lab" / "mine"
    mine.mkdir(parents=True)
    for seed in range(2):
        scores = {"textvqa": {"all": 0.4 + seed / 10}}
        record = {"arm": "raw", "draw": 0, "seed": seed, "preset": "full", "scores": scores}
        (mine / f"raw-draw0-seed{seed}.json").write_text(json.dumps(record))
    (mine / "bad-draw0-seed0.json").write_text('{"arm": ')
    found = earlier_noise("full", tmp_path)
    assert found
    assert found.by_measure["textvqa"].of_mean(1, 1, 1).value == pytest.approx(50)
    assert found.source.startswith("2 trainings of 1 arms in ")


def test_a_finished_lab_prints_its_table_and_a_ladder_its_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("experiments.lab.comparison.ranks.RESAMPLES", 20)
    monkeypatch.setattr(run, "write_summary", lambda lab, outcomes: None)
    skills = {"none": 0.1, "raw": 0.3, "random": 0.5, "recipe": 0.8}
    rungs = {}
    for name in ("small", "usual"):
        (tmp_path / name).mkdir()
        rungs[name] = read_lab(write_lab(tmp_path / name, skills))
    outcomes = [Outcome(cell, "there", "k") for cell in cells_of(rungs["usual"])]
    assert run.finish(rungs["usual"], outcomes) == 0
    printed = capsys.readouterr().out
    assert printed.index("recipe ") < printed.index("raw ") < printed.index("against raw ")
    ranks = ladder.lines_of(dataclasses.replace(rungs["usual"], rungs=rungs))
    assert ranks[0].startswith("ranks of 4 arms in small and usual: Spearman 1.00 [")
    assert ranks[1] == "  small ranks the arms much as usual does"
