"""Reasons are read back as they were built, so that rewording one cannot empty a gallery of the report."""

import pytest

from solution.operators.common import reasons


@pytest.mark.parametrize("identifier", ["0042", "a: b", "id with spaces", "图", "x\ny"])
def test_a_repeated_image_names_its_original(identifier):
    reason = reasons.repeats_image(identifier)
    assert reasons.kind_of(reason) == reasons.REPEATS_IMAGE
    assert reasons.repeated_id(reason) == identifier


@pytest.mark.parametrize(("new", "old"), [(0.35, 0.1), (0.3, -0.05), (1e-9, 0.0), (31.25, 29.5)])
def test_a_new_caption_tells_its_gain(new, old):
    assert reasons.recaption_gain(reasons.recaptioned(new, old)) == pytest.approx(new - old, abs=1e-4)


def test_other_reasons_are_told_apart():
    others = [
        reasons.repeats_caption("0.3 instead of 0.2"),
        reasons.outside_threshold("clip_similarity", "below", "min_score 0.3", 0.123456789),
        reasons.not_best(1200, "clip_similarity"),
        reasons.not_best_of_cluster("clip_similarity", 7),
        reasons.created_from(12),
    ]
    assert [reasons.recaption_gain(reason) for reason in others] == [None] * 5
    assert [reasons.repeated_id(reason) for reason in others] == [None] * 5
    kinds = [reasons.kind_of(reason) for reason in others]
    assert kinds == [
        "repeats a caption",
        "clip_similarity below min_score 0.3",
        "not among the best 1,200 by clip_similarity",
        "not among the best of its cluster by clip_similarity",
        "made from row 12",
    ]
