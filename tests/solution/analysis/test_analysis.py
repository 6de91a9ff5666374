"""`process.py analyze`: what it says of every row is what a run does, and a run after it asks no model."""

import base64
import json
import re
import shutil
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from solution.analysis import page as pages
from solution.analysis.scoring import Asked, summary
from solution.runner.recipe import load_recipe
from tests import warm
from tests.solution.analysis.browser import Browser
from tests.solution.conftest import ROOT, sample_image

CAPTIONS = [
    *(" ".join(["word"] * (number % 9 + 1)) + f" number {number}" for number in range(40)),
    "a red dog", "a red dog", "собака на траве", "stock photo", "猫",
]  # fmt: skip
HOSTILE = [
    "</script><script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\"> dog",
    "]]>&lt;script&gt;document.title='owned' \u202e ${document.title='owned'}",
]


@pytest.fixture
def analyze(tmp_path):
    """analyze(recipe, seed, options ...) runs the command as a user does; returns code, out, err, page, scores."""

    def run(recipe: Path | None, seed: Path, *options: str) -> SimpleNamespace:
        output = tmp_path / "output"
        words = ["analyze", *([str(recipe)] if recipe else []), "--dataset", str(seed)]
        words += ["--output", str(output / "processed_data"), *options]
        done = warm.run([sys.executable, str(ROOT / "solution" / "process.py"), *words], cwd=tmp_path)
        name = f"{recipe.stem if recipe else 'first_look'}.{seed.stem}{'.trial' if '--limit' in options else ''}"
        page = output / "analysis" / f"{name}.html"
        return SimpleNamespace(
            code=done.returncode, out=done.stdout, err=done.stderr, page=page, scores=page.with_suffix(".parquet")
        )

    return run


def data_of(page: Path) -> dict:
    """What the page's script reads."""
    return json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', page.read_text())[1])


def unpacked(text: str, kind: str) -> np.ndarray:
    content = zlib.decompress(base64.b64decode(text))
    if kind == "<u2":
        content = np.frombuffer(content, np.uint8).reshape(2, -1).T.tobytes()
    return np.frombuffer(content, kind)


def staying(data: dict, values: dict[str, float] | None = None) -> int:
    """The page's count, by a plain loop over its data; ``values`` are other thresholds, as `3.min_num`."""
    stays = np.ones(data["rows"], bool)
    for mark in data["marks"]:
        stays &= unpacked(mark["goes"], "u1") == 0
    for statistic in data["statistics"]:
        codes, edges = unpacked(statistic["codes"], "<u2").astype(int), unpacked(statistic["edges"], "<f8")
        for threshold in statistic["thresholds"]:
            stays &= codes != 65534
            value = (values or {}).get(f"{statistic['number']}.{threshold['name']}", threshold["value"])
            if value is not None:
                code = 2 * edges.tolist().index(value) + 1
                stays &= (codes == 65535) | (
                    (codes >= code) if threshold["name"].startswith("min_") else (codes <= code)
                )
    return int(stays.sum())


def test_the_count_is_that_of_a_run_and_no_model_is_asked_twice(
    make_seed, make_recipe, run_process, analyze, clip_folder, score_folder
):
    seed = make_seed([*CAPTIONS, HOSTILE[1]])
    recipe = make_recipe(
        [
            {"caption_cleanup_mapper": None},
            {"image_shape_filter": {"min_width": 16}},
            {"caption_words_filter": {"min_num": 3, "max_num": 9}},
            {"caption_deduplicator": {"max_copies": 1}},
            {"clip_similarity_filter": {"hf_clip": str(clip_folder), "min_score": 0.0}},
        ]
    )
    done = analyze(recipe, seed)
    assert done.code == 0, done.err
    assert not (done.page.parent.parent / "processed_data").exists()
    stored = sorted(score_folder.rglob("part-*"))
    assert stored
    run = run_process(recipe, seed)
    assert run.code == 0, run.err
    assert sorted(score_folder.rglob("part-*")) == stored
    data = data_of(done.page)
    assert staying(data) == len(run.rows) < data["rows"] == len(CAPTIONS) + 1
    assert [mark["step"] for mark in data["marks"]] == ["caption_deduplicator"]
    width = next(found for found in data["statistics"] if found["stat"] == "image_width")
    assert [(limit["name"], limit["value"], limit["idle"]) for limit in width["thresholds"]] == [
        ("min_width", None, 16), ("max_width", None, None)
    ]  # fmt: skip
    scores = pq.read_table(done.scores).to_pylist()
    assert len(scores) == len(CAPTIONS) + 1
    of_run = {line["row"]: line for line in pq.read_table(run.audit).to_pylist() if line["state"] == "kept"}
    assert len(of_run) == len(run.rows)
    for line in scores:
        if line["row"] in of_run:
            assert line["clip_similarity_filter.clip_similarity"] == of_run[line["row"]]["score"]
            assert all(
                line[step] for step in ("caption_words_filter", "clip_similarity_filter", "caption_deduplicator")
            )
    assert "already done" in analyze(recipe, seed).out


def test_every_row_is_accounted_for(make_seed, make_recipe, analyze):
    """Rows that fail are counted with their reason, created rows have what their parents were given before."""
    seed = make_seed(CAPTIONS[:12])
    (seed.parent / "images" / "003.jpg").write_bytes(b"none")
    lines = seed.read_text().splitlines()
    seed.write_text("\n".join([*lines, "{}"]) + "\n")
    done = analyze(make_recipe([{"caption_words_filter": {"min_num": 4}}, {"fill_to_cap_selector": {"cap": 3}}]), seed)
    assert done.code == 0, done.err
    assert "13 in + 0 created = 11 scored + 0 removed by mappers + 2 failed" in done.out
    lines = pq.read_table(done.scores).to_pylist()
    assert [line["state"] for line in lines].count("failed") == 2
    assert lines[3]["reason"].startswith("image ")
    assert lines[3]["caption_words_filter.caption_words"] is None
    text = done.page.read_text()
    assert "key &#39;id&#39; is missing" in text
    assert "<b>fill_to_cap_selector</b> chooses among the rows that reach it and was left out" in text


def test_rows_that_a_deduplicator_cannot_compare_fail_as_in_a_run(make_seed, make_recipe, run_process, analyze):
    """A text-only row among images: nothing to compare."""
    seed = make_seed(CAPTIONS[:6])
    seed.write_text(seed.read_text() + '{"id": "t", "text": "text alone <|__dj__eoc|>", "images": []}\n')
    recipe = make_recipe([{"caption_words_filter": {"min_num": 1}}, {"picture_deduplicator": {"max_distance": 0}}])
    done, run = analyze(recipe, seed), run_process(recipe, seed)
    assert (done.code, run.code) == (0, 0), done.err + run.err
    assert staying(data_of(done.page)) == len(run.rows)
    last = pq.read_table(done.scores).to_pylist()[-1]
    assert (last["state"], last["reason"], last["picture_deduplicator"]) == ("scored", "the row has no image", False)
    assert last["caption_words_filter.caption_words"] == 2


def test_rows_of_text_alone_are_scored_by_what_needs_no_image(make_seed, make_recipe, run_process, analyze):
    """Among images they are dropped where a run fails them; alone, filters of images are left out."""
    texts = "".join(f'{{"id": "t{n}", "text": "text {n} <|__dj__eoc|>", "images": []}}\n' for n in range(4))
    seed = make_seed(CAPTIONS[:6])
    seed.write_text(texts + seed.read_text())
    recipe = make_recipe([{"picture_sharpness_filter": None}, {"caption_words_filter": {"min_num": 1}}])
    done, run = analyze(recipe, seed), run_process(recipe, seed, "--max-failed", "1")
    assert (done.code, run.code) == (0, 0), done.err + run.err
    assert "4 rows have no image: they count as dropped here, and a run fails them" in done.err
    assert "10 in + 0 created = 10 scored + 0 removed by mappers + 0 failed" in done.out
    data = data_of(done.page)
    assert staying(data) == len(run.rows) == 6
    words = next(found for found in data["statistics"] if found["stat"] == "caption_words")
    assert words["known"] == 10
    seed.write_text(texts)
    done = analyze(None, seed)
    assert done.code == 0, done.err
    assert "no row has an image: left out" in done.err
    assert "nothing to score for image_shape_filter, image_aspect_ratio_filter, picture_sharpness_filter" in done.out
    assert staying(data_of(done.page)) == 4
    assert "<b>picture_sharpness_filter</b> has nothing to score" in done.page.read_text()


def test_the_terminal_counts_rows_without_a_value_as_the_page_does(tmp_path):
    """Of five rows one is outside and one failed; of the two without a value the filter keeps one."""
    step, column = "image_shape_filter", "image_shape_filter.image_width"
    values, kept = [5.0, 1.0, None, None, None], [True, False, True, False, None]
    pq.write_table(pa.table({step: kept, column: pa.array(values, pa.float64())}), tmp_path / "scores.parquet")
    asked = Asked(1, step, step, "filter", {"image_width": {"min_width": 2.0}})
    counts = {"in": 5, "created": 0, "scored": 4, "removed": 0, "failed": 1}
    _, line, _ = summary(tmp_path / "scores.parquet", [asked], counts).splitlines()
    assert line.split() == [column, "1", "3", "5", "min_width", "2", "2"]


def test_rows_that_a_mapper_made_count_as_in_a_run(make_seed, make_recipe, run_process, analyze, captioner_folder):
    """A created row has the scores that its parent was given before: where the parent is dropped it never comes."""
    seed = make_seed(CAPTIONS[:10])
    writer = {"hf_captioner": str(captioner_folder), "min_words": 1, "max_new_tokens": 5, "keep_original": True}
    steps = [{"caption_words_filter": {"min_num": 4}}, {"caption_writer_mapper": writer}]
    recipe = make_recipe([*steps, {"caption_latin_filter": {"min_ratio": 0.1}}])
    done, run = analyze(recipe, seed), run_process(recipe, seed)
    assert done.code == run.code == 0, done.err + run.err
    data = data_of(done.page)
    assert data["rows"] > 10
    assert staying(data) == len(run.rows) > 0


def test_a_filter_that_no_threshold_explains_is_shown_and_not_moved(make_seed, make_recipe, run_process, analyze):
    seed = make_seed(CAPTIONS)
    recipe = make_recipe([{"caption_words_filter": {"min_num": 4, "max_num": 8, "reversed_range": True}}])
    done, run = analyze(recipe, seed), run_process(recipe, seed)
    assert done.code == run.code == 0, done.err + run.err
    data = data_of(done.page)
    assert data["statistics"][0]["thresholds"] == []
    assert staying(data) == len(run.rows) > 0
    assert "decides by more than thresholds" in done.page.read_text()


def test_without_a_recipe_there_is_a_first_look(make_seed, analyze):
    done = analyze(None, make_seed([*CAPTIONS[:5], "a dog собака", "left out"]), "--limit", "6")
    assert done.code == 0, done.err
    data = data_of(done.page)
    assert data["rows"] == 6
    found = {statistic["stat"]: statistic for statistic in data["statistics"]}
    assert {"caption_words", "image_width", "picture_sharpness"} <= found.keys()
    ratio = found["caption_latin_ratio"]
    assert ratio["axis"]["low"] > 0.2  # the lowest value, not the whole number below it
    assert len(unpacked(ratio["edges"], "<f8")) > 100


def test_a_page_is_called_as_its_data_set_and_says_whose_place_it_takes(make_seed, make_recipe, analyze, tmp_path):
    recipe = make_recipe([{"caption_words_filter": None}])
    seed = make_seed(["a dog"])
    done = analyze(recipe, seed)
    (tmp_path / "elsewhere").mkdir()
    other = Path(shutil.copytree(seed.parent, tmp_path / "elsewhere" / "seed")) / seed.name
    assert "takes its place" not in done.err + analyze(recipe, seed, "--overwrite").err
    again = analyze(recipe, other)
    assert again.page == done.page
    assert f"is about {seed}: the page about {other} takes its place" in again.err
    renamed = other.rename(other.with_name("others.jsonl"))
    assert analyze(recipe, renamed).page.name == f"{recipe.stem}.others.html"
    assert done.page.is_file()


def test_mistakes_are_one_line(make_seed, make_recipe, analyze):
    seed = make_seed(["a dog"])
    done = analyze(make_recipe([{"caption_word_filter": None}]), seed)
    assert (done.code, len(done.err.splitlines())) == (1, 1)
    assert "did you mean caption_words_filter?" in done.err
    assert not done.page.exists()
    done = analyze(make_recipe([{"caption_cleanup_mapper": None}]), seed)
    assert (done.code, len(done.err.splitlines())) == (1, 1)
    assert "has no filter, so there are no scores to look at: `process.py analyze first_look`" in done.err
    assert not done.page.parent.exists()  # no empty log either
    done = analyze(make_recipe([{"caption_words_filter": None}]), seed, "--limit", "0")
    assert done.err == "error: --limit 0: expected 1 or more rows\n"


def test_a_page_of_many_rows_stays_small(tmp_path, monkeypatch):
    """Fewer edges, images and searchable rows where they would not fit."""
    rows = 3000
    random = np.random.default_rng(0)
    asked = pages.Asked(1, "caption_words_filter", "caption_words_filter", "filter", {"x": {"min_num": 0.5}}, True)
    table = {
        "id": [f"{number}" for number in range(rows)], "row": range(1, rows + 1), "parent": [None] * rows,
        "state": ["scored"] * rows, "operator": [""] * rows, "reason": [""] * rows,
        "caption": [" ".join(map(str, random.integers(0, 1000, 25))) for _ in range(rows)],
        "caption_words_filter": [True] * rows, "caption_words_filter.x": random.random(rows),
    }  # fmt: skip
    pq.write_table(pa.table(table | {"parent": pa.nulls(rows, pa.int64())}), tmp_path / "scores.parquet")
    (tmp_path / "trial.yaml").write_text("process:\n  - caption_words_filter: {min_num: 1}\n")
    sample_image(1).save(tmp_path / "1.jpg")
    monkeypatch.setattr(pages, "MOST_BYTES", 440_000)
    monkeypatch.setattr(pages, "_CODES", 5_000)
    monkeypatch.setattr(pages, "_IMAGES", 20_000)
    target = tmp_path / "page.html"
    recipe = load_recipe(tmp_path / "trial.yaml", None)
    pages.write_page(
        recipe, tmp_path / "scores.parquet", target, [asked], lambda rows: [[str(tmp_path / "1.jpg")]] * len(rows)
    )
    data = data_of(target)
    assert target.stat().st_size <= 440_000
    assert 0 < data["search"]["rows"] < rows
    assert 0 < sum(bool(sample["image"]) for sample in data["samples"]) < len(data["samples"])


@pytest.mark.slow
def test_a_slider_moved_in_a_browser_gives_the_recipe_that_keeps_as_many(
    make_seed, make_recipe, run_process, analyze, tmp_path
):
    seed = make_seed([*CAPTIONS, *HOSTILE])
    recipe = make_recipe(
        [{"caption_words_filter": {"min_num": 2}}, {"picture_sharpness_filter": None}], name="<b>&trial"
    )
    done = analyze(recipe, seed)
    assert done.code == 0, done.err
    with Browser(tmp_path / "profile") as browser:
        browser.open(done.page.as_uri())
        count = "Number(document.getElementById('stay').textContent.replace(/,/g, ''))"
        before = browser.evaluate(count)
        browser.drag("input[type=range][data-slot='2.min_sharpness']", 0.0, 0.6)
        dragged = browser.evaluate(count)
        browser.evaluate("document.querySelector(\"input[type=range][data-slot='1.min_num']\").focus()")
        for _ in range(3):
            browser.press("ArrowRight")
        browser.click("input[type=number][data-slot='1.max_num']")
        browser.type("9")
        browser.press("Enter")
        browser.frame()
        assert "1.max_num=9" in browser.evaluate("location.href")
        # A number between the values of rows is taken as it is; one that no recipe may have is not, and the page tells.
        sharpness = sorted(
            line["picture_sharpness_filter.picture_sharpness"] for line in pq.read_table(done.scores).to_pylist()
        )
        between = round((sharpness[20] + sharpness[21]) / 2, 6)
        browser.click("input[type=number][data-slot='2.min_sharpness']")
        browser.evaluate("document.activeElement.select()")
        browser.type(str(between))
        browser.press("Enter")
        browser.click("input[type=number][data-slot='1.max_num']")
        browser.evaluate("document.activeElement.select()")
        browser.type("8.7")
        browser.press("Enter")
        browser.frame()
        assert f"2.min_sharpness={between}" in browser.evaluate("location.href")
        assert browser.evaluate("document.activeElement.value") == "9"
        assert "8.7 cannot be chosen here, 9 is the nearest threshold" in browser.evaluate("document.body.textContent")
        stays = browser.evaluate(count)
        assert 0 < stays < before
        assert dragged < before
        browser.until("document.querySelectorAll('.sides figure img').length > 6")
        text = browser.evaluate("document.getElementById('yaml-text').value")
        browser.click("#search-words")
        browser.type("собака")
        browser.until("document.querySelectorAll('#search-found figure').length === 1")
        browser.evaluate("document.activeElement.select()")
        browser.type("number")
        browser.until("document.getElementById('search-count').textContent === '40 found, 24 of them shown'")
        browser.click("#pair")
        assert browser.evaluate("document.querySelectorAll('#pair-images figure').length") == 12
        address = browser.evaluate("location.href")
        assert browser.evaluate("document.title") == f"Analysis of {recipe.stem}"
        browser.open(address)  # the address keeps the thresholds
        assert browser.evaluate(count) == stays
        browser.click("#reset")
        browser.frame()
        assert browser.evaluate(count) == before
        assert browser.said == []
        # The policy lets no other script run, should one ever get into the page.
        browser.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"document.title = 1\">')")
        browser.evaluate(
            "document.body.append(Object.assign(document.createElement('script'), {textContent: 'document.title = 2'}))"
        )
        browser.frame()
        assert browser.evaluate("document.title") == f"Analysis of {recipe.stem}"
        assert "Content Security Policy" in " ".join(browser.said)
    chosen = tmp_path / "chosen.yaml"
    chosen.write_text(text)
    run = run_process(chosen, seed)
    assert run.code == 0, run.err
    assert len(run.rows) == stays
