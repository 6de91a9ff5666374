"""Thresholds computed from the data and balanced clusters, against numpy and plain loops."""

import json

import numpy as np
import pytest
import torch

import solution.operators  # noqa: F401  registers ours
from solution.operators.common.images import open_image
from solution.operators.common.kmeans import kmeans, shares
from solution.runner.data_juicer import OPERATORS, STATS, NestedDataset


def build(name: str, **parameters):
    """An operator that works in this process."""
    return OPERATORS.modules[name](auto_op_parallelism=False, num_proc=None, **parameters)


@pytest.fixture
def scored(make_seed):
    """make(scores, captions) -> rows with images and a clip_similarity."""

    def make(scores: list, captions: list[str] | None = None) -> NestedDataset:
        seed = make_seed(captions or [f"row {number}" for number in range(len(scores))])
        lines = [json.loads(line) for line in seed.read_text().splitlines()]
        for number, line in enumerate(lines, start=1):
            line["__row__"] = number
            line["images"] = [str(seed.parent / image) for image in line["images"]]
        return NestedDataset.from_list(lines).add_column(STATS, [{"clip_similarity": score} for score in scores])

    return make


SCORES = np.random.default_rng(0).normal(0.32, 0.04, 40).tolist()


def test_percentiles_equal_numpy(scored):
    operator = build("percentile_selector", min_percentile=25, max_percentile=90)
    found = operator.run(scored(SCORES))
    low, high = np.quantile(SCORES, 0.25), np.quantile(SCORES, 0.9)
    assert [int(name) for name in found["id"]] == [row for row, score in enumerate(SCORES) if low <= score <= high]
    assert len(found) == 26
    lowest = int(np.argmin(SCORES))
    assert operator.dropped_because[lowest].startswith("clip_similarity below percentile 25 ")


def test_sigmas_equal_numpy(scored):
    operator = build("sigma_selector", sigmas_below=1.0, sigmas_above=float("inf"))
    found = operator.run(scored(SCORES))
    threshold = np.mean(SCORES) - np.std(SCORES)
    assert [int(name) for name in found["id"]] == [row for row, score in enumerate(SCORES) if score >= threshold]
    assert 0 < len(operator.dropped_because) < 15
    assert all(
        reason.startswith("clip_similarity below mean - 1 sigma") for reason in operator.dropped_because.values()
    )


def test_scores_of_stock_filters_are_lists(scored):
    found = build("percentile_selector", min_percentile=50).run(scored([[0.1, 0.5], [0.2], [0.4]]))
    assert found["id"] == ["000", "002"]


def test_a_window_of_ranks_by_two_scores_together(scored):
    """Equal to sorting the sum of the two scores, each scaled to 0 to 1."""
    other = np.random.default_rng(7).uniform(100, 300, len(SCORES)).tolist()
    stats = [{"clip_similarity": score, "blip": more} for score, more in zip(SCORES, other, strict=True)]
    data = scored(SCORES).remove_columns(STATS).add_column(STATS, stats)
    operator = build("rank_window_selector", weights={"clip_similarity": 1.0, "blip": 0.5}, min_rank=4, max_rank=20)
    found = [int(name) for name in operator.run(data)["id"]]
    total = (np.array(SCORES) - min(SCORES)) / (max(SCORES) - min(SCORES))
    total += 0.5 * (np.array(other) - min(other)) / (max(other) - min(other))
    order = sorted(range(len(SCORES)), key=lambda row: -total[row])
    assert found == sorted(order[3:20])
    assert set(operator.dropped_because) == set(range(len(SCORES))) - set(found)
    assert operator.dropped_because[order[0]] == "rank by clip_similarity + blip outside 4 to 20: 1"
    assert operator.dropped_because[order[20]].endswith(": 21")


def test_a_window_of_ranks_keeps_equal_rows_in_order_and_may_be_beyond_the_last(scored):
    data = scored([0.5] * 4)
    assert build("rank_window_selector", min_rank=2, max_rank=3).run(data)["id"] == ["001", "002"]
    assert len(build("rank_window_selector", min_rank=9).run(data)) == 0


@pytest.mark.parametrize(
    "name", ["percentile_selector", "sigma_selector", "rank_window_selector", "cluster_balanced_selector"]
)
@pytest.mark.parametrize("scores", [[0.1, None, 0.3], [0.1, float("nan"), 0.3]])
def test_missing_scores_are_named(scored, name, scores, clip_folder):
    further = {"hf_clip": str(clip_folder), "cap": 2} if name.startswith("cluster") else {}
    with pytest.raises(ValueError, match="no score 'clip_similarity'"):
        build(name, **further).run(scored(scores))


def test_clusters_are_the_groups_of_the_data():
    generator = torch.Generator().manual_seed(0)
    middles = torch.nn.functional.normalize(torch.randn(6, 16, generator=generator), dim=1)
    truth = torch.arange(6).repeat(50)
    rows = torch.nn.functional.normalize(middles[truth] + 0.05 * torch.randn(300, 16, generator=generator), dim=1)
    found = kmeans(rows.half(), 6, seed=1)
    for group in range(6):  # every true group is one cluster, and no two share one
        assert len(set(found[truth == group].tolist())) == 1
    assert len(set(found.tolist())) == 6
    assert torch.equal(found, kmeans(rows.half(), 6, seed=1))


def test_every_row_is_in_its_nearest_cluster():
    rows = torch.nn.functional.normalize(torch.randn(500, 8, generator=torch.Generator().manual_seed(2)), dim=1)
    found = kmeans(rows, 5, seed=0)
    centres = torch.nn.functional.normalize(
        torch.stack([rows[found == group].mean(dim=0) for group in range(5)]), dim=1
    )
    at_home = ((rows @ centres.T).argmax(dim=1) == found).float().mean()
    assert at_home > 0.97  # Lloyd's algorithm ended near a fixed point


def test_more_clusters_than_rows_is_a_fault():
    with pytest.raises(ValueError, match="9 clusters need as many rows, there are 3"):
        kmeans(torch.eye(3), 9, seed=0)


@pytest.mark.parametrize(("sizes", "cap"), [([5, 3, 2], 4), ([1, 1, 1], 2), ([10, 0, 7], 9), ([4, 4], 20)])
def test_shares(sizes, cap):
    kept = shares(sizes, cap)
    assert sum(kept) == min(cap, sum(sizes))
    for size, own in zip(sizes, kept, strict=True):
        assert abs(own - size * min(1, cap / sum(sizes))) < 1


@pytest.mark.parametrize("embed", ["caption", "picture"])
def test_the_best_of_each_cluster_stay(scored, clip_folder, embed):
    from transformers import CLIPModel, CLIPProcessor

    captions = [f"{word} {number % 5}" for number, word in enumerate(["dog", "a large car", "ball"] * 10)]
    data = scored(SCORES[:30], captions)
    operator = build(
        "cluster_balanced_selector", hf_clip=str(clip_folder), embed=embed, clusters=3, cap=12, seed=5, model_batch=7
    )
    found = operator.run(data)
    model, processor = CLIPModel.from_pretrained(clip_folder).eval(), CLIPProcessor.from_pretrained(clip_folder)
    features = []
    for row in data:
        with torch.no_grad():
            if embed == "caption":
                caption = row["text"].removeprefix("<__dj__image>\n").removesuffix(" <|__dj__eoc|>")
                feature = model.get_text_features(**processor(text=[caption], return_tensors="pt"))
            else:
                image = open_image(row["images"][0])
                feature = model.get_image_features(**processor(images=image, return_tensors="pt"))
        features.append(torch.nn.functional.normalize(feature[0], dim=0))
    groups = kmeans(torch.stack(features).half(), 3, seed=5)
    expected = []
    for group, share in enumerate(shares(torch.bincount(groups, minlength=3).tolist(), 12)):
        members = [row for row in range(30) if groups[row] == group]
        expected += sorted(members, key=lambda row: -SCORES[row])[:share]
    assert [int(name) for name in found["id"]] == sorted(expected)
    assert set(operator.dropped_because) == set(range(30)) - set(expected)


def test_a_bad_image_fails_alone_when_images_are_clustered(scored, clip_folder):
    data = scored(SCORES[:10])
    with open(data[3]["images"][0], "r+b") as file:
        file.truncate(300)
    found = build("cluster_balanced_selector", hf_clip=str(clip_folder), embed="picture", clusters=2, cap=6).run(data)
    marked = dict(zip(found["id"], found["__failure__"], strict=True))
    assert "cannot be read" in marked.pop("003")
    assert len(marked) == 6
    assert not any(marked.values())


def test_without_an_audit_a_bad_image_goes(scored, clip_folder):
    data = scored(SCORES[:10]).remove_columns("__row__")
    with open(data[3]["images"][0], "r+b") as file:
        file.truncate(300)
    found = build("cluster_balanced_selector", hf_clip=str(clip_folder), embed="picture", clusters=2, cap=6).run(data)
    assert len(found) == 6
    assert "003" not in found["id"]
    assert found.column_names == data.column_names


def test_few_rows_need_no_model(scored):
    assert len(build("cluster_balanced_selector", hf_clip="nowhere", cap=3).run(scored([0.1, 0.2, 0.3]))) == 3
