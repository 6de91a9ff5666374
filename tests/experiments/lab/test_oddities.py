"""Warnings about odd cells."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
import pytest

from experiments.lab.comparison.oddities import warnings_of
from toolkit.files import REPOSITORY


def record(arm: str = "recipe", seed: int = 0, **changes: Any) -> dict[str, Any]:
    falling = [4 - 0.05 * step for step in range(60)]
    return {
        "arm": arm, "draw": 0, "seed": seed, "samples": {"pretrain": 1200, "finetune": 1200},
        "loss": {"pretrain": falling, "finetune": falling}, **changes,
    }  # fmt: skip


def answers(texts: list[str], **changes: Any) -> pd.DataFrame:
    columns = {"arm": "recipe", "draw": 0, "seed": 0, "benchmark": "mmbench"} | changes
    return pd.DataFrame({"answer": texts} | {name: [value] * len(texts) for name, value in columns.items()})


def test_sound_cells_have_none() -> None:
    assert warnings_of([record("raw"), record()], answers(["A", "B", "C", "D"] * 5)) == []


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([4.0, 3.0, float("nan"), 3.0], "recipe, seed 0: the loss of pretrain is not a number at some step"),
        ([4.0, 3.0, None, 3.0], "recipe, seed 0: the loss of pretrain is not a number at some step"),
        ([4.0] * 5 + [1.0] * 40 + [9.0] * 5, "recipe, seed 0: the loss of pretrain rose from 1.00 to 9.00 at its end"),
        ([4.0, 4.1] * 30, "recipe, seed 0: the loss of pretrain has not fallen (from 4.05 to 4.05)"),
    ],
)
def test_odd_loss_curves(losses: list[float], expected: str) -> None:
    (warning,) = warnings_of([record(loss={"pretrain": losses})])
    assert warning.startswith(expected)


def test_a_last_loss_unlike_that_of_the_arms_others() -> None:
    cells = [record(seed=seed, loss={"finetune": 0.25}) for seed in range(4)]
    cells.append(record(seed=4, draw=1, loss={"finetune": 0.4}))
    assert warnings_of(cells) == [
        "recipe, seed 4, draw 1: the loss of finetune ended at 0.40, the arm's others at 0.25"
    ]


def test_arms_with_fewer_samples() -> None:
    few = record("half", samples={"pretrain": 600, "finetune": 1200})
    none = record("none", samples={"pretrain": 0, "finetune": 1200})
    (warning,) = warnings_of([record(), few, none])
    assert warning.startswith("half: pretrain had 600 samples, others 1,200")


def test_answers_collapsed_to_one_letter_however_written() -> None:
    (warning,) = warnings_of([record()], answers(["A", "A.", "(A)", " A"] * 3 + ["A | A | A. | A"]))
    assert warning == "recipe, seed 0: mmbench: all 16 answers are 'A'; has the training collapsed?"


def test_a_records_own_warnings_are_handed_on_once() -> None:
    own = "mmbench: all 12 answers are 'A'; has the training collapsed?"
    assert warnings_of([record(warnings=[own])], answers(["A"] * 12)) == [f"recipe, seed 0: {own}"]
    assert warnings_of([record(warnings=[own])]) == [f"recipe, seed 0: {own}"]


def test_the_mini_worlds_records_have_one() -> None:
    files = sorted((REPOSITORY / "experiments" / "mini_world" / "records" / "test").glob("*.json"))
    (warning,) = warnings_of([json.loads(file.read_text()) for file in files])
    assert warning.startswith("recipe, seed 4, draw 1: the loss of finetune ended at 0.38")
