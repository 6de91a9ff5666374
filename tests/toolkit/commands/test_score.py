"""toolkit/commands/score.py: what is said below the table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.toolkit.eval.conftest import Benchmarks, benchmarks  # noqa: F401 (a fixture)
from tests.toolkit.eval.test_score import results, write_answers  # noqa: F401 (a fixture)
from toolkit.__main__ import main


def test_warnings_of_the_training_are_told_again(
    results: Path,  # noqa: F811
    benchmarks: Benchmarks,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A score of a stage that learnt nothing looks like any other."""
    answers = write_answers(results, benchmarks, "recipe", 12, ["A"] * 6)
    stages = ("Pretrain", "Finetune")
    records = [results.parent / "training_dirs" / f"MGM-Tiny-{stage}-recipe" / "run.json" for stage in stages]
    for record, warnings in zip(records, (["the loss has not fallen"], []), strict=True):
        record.parent.mkdir(parents=True)
        record.write_text(json.dumps({"warnings": warnings}))
    for named in ("recipe", str(answers)):
        assert main(["score", named, "--preset", str(benchmarks.preset)]) == 0
        assert "pretrain: the loss has not fallen" in capsys.readouterr().out.splitlines()
    records[0].write_text("{")
    assert main(["score", "recipe", "--preset", str(benchmarks.preset)]) == 1
    assert f"{records[0]}: not a JSON document" in capsys.readouterr().err


def test_an_empty_name_is_shown_as_one(results: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    """As a variable that is not set gives it."""
    assert main(["score", ""]) == 1
    assert capsys.readouterr().err.startswith("error: '': no answers in ")
