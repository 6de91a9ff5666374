"""Trainings of one and the same arm are seldom called different: the leaderboard's own records."""

from __future__ import annotations

import pytest

from benchmarks import equal_arms

MOST = 0.075  # of the pairs; 5 % are meant


@pytest.fixture(scope="module")
def table():
    return equal_arms.called_different(equal_arms.RECORDS)


@pytest.mark.parametrize("how", [equal_arms.SINGLE, equal_arms.ALONE, equal_arms.AMONG])
def test_equal_arms_are_seldom_called_different(table, how):
    pairs = table[table["how"] == how]
    assert len(pairs) >= 40
    assert pairs["arm"].nunique() >= 3
    for measure in ("textvqa", "mmbench", "both"):
        assert pairs[measure].notna().all()
        assert pairs[measure].mean() <= MOST, measure
