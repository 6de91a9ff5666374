"""Counts by codes are those of a plain loop, whatever the values; edges are short and axes fit."""

import numpy as np
import pytest
import yaml

from solution.analysis.axis import GOES, MOST_EDGES, STAYS, axis_of, codes_of, edges_of

random = np.random.default_rng(0)
KINDS = {
    "similarities": random.normal(0.28, 0.05, 20_000).clip(-1, 1),
    "sharpness": 10 ** random.normal(2, 1, 20_000),
    "sharpness with zeros": np.concatenate([np.zeros(100), 10 ** random.normal(2, 1, 20_000)]),
    "words": random.integers(0, 40, 5000).astype(float),
    "pixels": np.floor(10 ** random.normal(2.5, 0.6, 20_000)) + 1,
    "one value": np.full(50, 0.3),
    "one whole value": np.full(50, 7.0),
    "an outlier": np.append(random.normal(0, 1, 5000), 1e12),
    "negative": -(10 ** random.normal(2, 1, 5000)),
    "tiny": 10 ** random.normal(-9, 2, 5000),
    "shares": np.append(np.ones(900), random.random(100)),
}


@pytest.mark.parametrize("name", KINDS)
def test_counts_by_codes_are_exact_for_every_edge(name):
    values = KINDS[name]
    limits = [float(np.quantile(values, 0.3))]
    is_whole = bool((values == np.round(values)).all())
    axis = axis_of(values, limits, is_whole)
    edges = edges_of(values, limits, axis, is_whole, MOST_EDGES)
    codes = codes_of(values, edges, np.ones(len(values), bool)).astype(int)
    assert len(edges) <= 1.5 * MOST_EDGES
    assert edges[0] <= values.min()
    assert values.max() <= edges[-1]
    assert set(limits) <= set(edges.tolist())
    for index in {0, len(edges) - 1, *random.integers(0, len(edges), 50).tolist()}:
        assert (codes >= 2 * index + 1).sum() == (values >= edges[index]).sum()
        assert (codes <= 2 * index + 1).sum() == (values <= edges[index]).sum()
    if is_whole:
        assert (edges == np.round(edges)).all()
    else:  # short texts, and the same number when YAML reads them
        grid = np.setdiff1d(edges, limits)
        assert len(grid) <= 1 or np.median([len(f"{edge:g}".lstrip("-").replace(".", "")) for edge in grid]) <= 6
        assert all(float(f"{edge:.12g}") == edge for edge in grid.tolist())
        assert all(yaml.safe_load(repr(edge)) == edge for edge in grid.tolist() if "e" not in repr(edge))


def test_axes_fit_the_values():
    log = {name: axis_of(values, [], False).is_log for name, values in KINDS.items()}
    assert {name for name, is_log in log.items() if is_log} == {"sharpness", "sharpness with zeros", "pixels", "tiny"}
    assert axis_of(KINDS["an outlier"], [], False).high < 10
    assert axis_of(KINDS["similarities"], [0.9], False).high == 0.9
    words = axis_of(KINDS["words"], [], True)
    assert (words.low, words.high, words.bins) == (-0.5, 39.5, 40)


def test_rows_without_a_value_go_as_the_filter_says():
    codes = codes_of(np.array([np.nan, np.nan, 1.0]), np.array([1.0]), np.array([True, False, True]))
    assert codes.tolist() == [STAYS, GOES, 1]
