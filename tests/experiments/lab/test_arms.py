"""The rows that arms train on."""

from collections import Counter
from pathlib import Path

import pytest

from experiments.lab.arms import SeedSet, clip_similarities, repeat
from experiments.lab.bench import Bench
from experiments.lab.cells import Cell
from experiments.lab.worlds import TRUTH_FILE, replaced
from tests.experiments.lab.conftest import CAP
from toolkit.errors import UserError
from toolkit.files import REPOSITORY, read_jsonl, write_jsonl

COMMITTED = "input/mini/mgm_pretrain_mini.jsonl"


def rows_of(bench: Bench, arm: str, seed: int = 0):
    return bench.rows_of(Cell(bench.lab.arms[arm], 0, seed))


def captions(rows: list[dict]) -> dict[str, str]:
    return {row["id"]: row["conversations"][1]["value"] for row in rows}


def truths(bench: Bench) -> dict[str, dict]:
    bench.seed_set(0).build()
    return {truth["id"]: truth for _, truth in read_jsonl(bench.seed_set(0).images / TRUTH_FILE)}


def test_raw_is_the_caps_draw_of_the_seed(bench):
    rows, roots = rows_of(bench, "raw")
    assert len(rows) == CAP
    assert all(roots.resolve(row["image"]).is_file() for row in rows)
    assert {truths(bench)[row["id"]]["defect"] for row in rows} > {"none"}


def test_clean_repairs_raws_rows_in_place(bench):
    raw, (clean, roots) = rows_of(bench, "raw")[0], rows_of(bench, "clean")
    truth = truths(bench)
    assert len(clean) == CAP
    assert all(caption == truth[row_id]["true_caption"] for row_id, caption in captions(clean).items())
    assert "near_duplicate" not in {truth[row["id"]]["defect"] for row in clean}
    for before, after in zip(raw, clean, strict=True):
        assert before["id"] == after["id"] or truth[before["id"]]["defect"] == "near_duplicate"
    damaged = next(row for row in truth.values() if row["defect"] in ("blur", "watermark"))["id"]
    name = f"images/{damaged[:5]}/{damaged}.jpg"
    assert roots.resolve(name).read_bytes() != (bench.seed_set(0).images / name).read_bytes()


def test_a_defect_alone_is_replaced_by_rows_not_drawn(bench):
    raw, without = captions(rows_of(bench, "raw")[0]), captions(rows_of(bench, "no_mismatched")[0])
    truth = truths(bench)
    assert len(without) == CAP
    assert "mismatched" not in {truth[row_id]["defect"] for row_id in without}
    assert {row_id for row_id in raw if truth[row_id]["defect"] != "mismatched"} < set(without)


def test_random_and_reversed_have_another_arms_size_and_fill_up(bench, monkeypatch):
    monkeypatch.setattr(SeedSet, "_distinct", lambda *_: 10)
    for arm in ("random", "reversed"):
        rows = rows_of(bench, arm)[0]
        assert len(rows) == CAP
        assert len(captions(rows)) == 10
    seed = bench.seed_set(0)
    scores = clip_similarities(seed.lines, seed.images, bench.preset.vision_tower)
    assert set(captions(rows)) == set(sorted(scores, key=scores.get)[:10])
    again, other = rows_of(bench, "random", seed=0)[0], rows_of(bench, "random", seed=1)[0]
    assert again == rows_of(bench, "random")[0] != other


def test_a_seed_may_have_other_shares_of_defects(toy):
    lab = toy({"raw": "raw"}, world={"rows": 20, "shares": {"blur": 0.5}})
    found = Counter(truth["defect"] for truth in truths(Bench(lab)).values())
    assert found == {"blur": 10, "none": 10}


def ten_rows(folder: Path) -> Path:
    """A finished file of ten rows of the committed seed."""
    rows = [row for _, row in read_jsonl(REPOSITORY / COMMITTED)]
    write_jsonl(folder / "processed_data.jsonl", rows[:10])
    return folder / "processed_data.jsonl"


def test_without_a_world_rows_come_from_the_presets_seed(toy, tmp_path):
    arms = {"raw": "raw", "kept": str(ten_rows(tmp_path)), "random": "random"}
    lab = toy(arms, world=None, dataset=COMMITTED)
    bench = Bench(lab)
    rows, roots = rows_of(bench, "raw")
    assert len(rows) == CAP
    assert roots.seed == REPOSITORY / "input" / "mini"
    assert len(rows_of(bench, "kept")[0]) == 10
    assert len(captions(rows_of(bench, "random")[0])) == 10


def test_a_faulty_row_is_named(toy, tmp_path):
    file = ten_rows(tmp_path)
    faulty = '{"id": "7", "images": ["images/none.jpg"], "text": "<image>\\nred"}\n'
    file.write_text(file.read_text(encoding="utf-8") + faulty, encoding="utf-8")
    bench = Bench(toy({"kept": str(file)}, world=None, dataset=COMMITTED))
    with pytest.raises(
        UserError, match=r"1 of the 11 rows of arm kept cannot be trained; the first has id 7 \(missing_image"
    ):
        rows_of(bench, "kept")


def test_replaced_and_repeat():
    rows = [{"id": letter} for letter in "abcdef"]
    assert replaced(rows, [rows[4], rows[1], rows[0]], set("abdf")) == [rows[3], rows[1], rows[0]]
    assert replaced(rows[:2], rows[:2], {"b"}) == [rows[1]]
    assert repeat(rows[:2], 5) == [rows[0], rows[1], rows[0], rows[1], rows[0]]


def test_comments_of_a_recipe_do_not_matter_a_threshold_does(bench, tmp_path):
    seed, folders = bench.seed_set(0), []
    for text in ("process: [{x: {min: 1}}]", "# so\nprocess: [{x: {min: 1}}]", "process: [{x: {min: 2}}]"):
        (tmp_path / "r.yaml").write_text(text, encoding="utf-8")
        folders.append(seed.recipe_folder(tmp_path / "r.yaml"))
    assert folders[0] == folders[1] != folders[2]
