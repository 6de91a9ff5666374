"""The page of a finished run: its figures are those of `score`, nothing in its data can act, and it stays small."""

from __future__ import annotations

import base64
import html
import io
import json
import random
import re
from collections.abc import Callable
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from experiments.lab.answers import Given, outcomes
from experiments.lab.comparison import remembered
from experiments.lab.comparison.against import compare
from experiments.lab.finished import FinishedRun
from experiments.lab.intervals import bootstrap, interval
from experiments.lab.pages import plots, subject
from experiments.lab.pages.browser import Entry, browser
from tests.experiments.lab import example
from tests.experiments.lab.example import ANSWERS
from tests.solution.report.test_report import HOSTILE, console_of, load
from tests.toolkit.eval.conftest import Benchmarks, benchmarks  # noqa: F401  a fixture
from toolkit.__main__ import main
from toolkit.eval import score
from toolkit.files import REPOSITORY
from toolkit.presets import load_preset


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for output/eval_results; pages go beside it."""
    monkeypatch.setattr(score, "EVAL_RESULTS", tmp_path / "eval_results")
    monkeypatch.setattr(remembered, "KNOWN", tmp_path / "compared.json")
    monkeypatch.setattr(subject, "PAGES", tmp_path / "pages")
    monkeypatch.setattr(plots, "DPI", 20)
    return tmp_path / "eval_results"


@pytest.fixture
def write_run(results: Path, benchmarks: Benchmarks) -> Callable[..., Path]:  # noqa: F811
    """`example.write_run` in this test's folder."""
    return partial(example.write_run, results, benchmarks)


def page_of(*words: str, preset: Path) -> str:
    assert main(["lab", "page", *words, "--preset", str(preset)]) == 0
    return (subject.PAGES / f"MGM-Tiny-{words[0]}.html").read_text(encoding="utf-8")


def data_of(page: str) -> dict:
    """What the page's script reads."""
    return json.loads(re.search(r'<script type="application/json" id="answers-data">(.*?)</script>', page)[1])


def test_the_page_says_what_score_says(write_run, benchmarks, capsys):  # noqa: F811
    folder = write_run("recipe", 9, ANSWERS)
    write_run("raw", 3, ["A", "B", "B", "A", "B", "A"])
    page = page_of("recipe", "--baseline", "raw", preset=benchmarks.preset)
    assert capsys.readouterr().out == f"written: {subject.PAGES / 'MGM-Tiny-recipe.html'}\n"
    main(["score", "recipe", "--preset", str(benchmarks.preset)])
    written = json.loads((folder / "score.json").read_text())
    data = data_of(page)
    for benchmark, figure in (("textvqa", "accuracy"), ("mmbench", "tolerant")):
        credits = [question["m"][0] for question in data["questions"] if question["b"] == benchmark]
        assert sum(credits) / len(credits) == pytest.approx(written[benchmark][figure])
        assert f"<td>{100 * written[benchmark][figure]:.2f} [" in page
    assert f"<td>{100 * written['mmbench']['strict']:.2f} [" in page
    assert "<td>+50.00" in page  # 9 of 12 against 3 of 12
    # What `score --baseline` prints.
    analysis = compare([FinishedRun(name, str(benchmarks.preset)) for name in ("recipe", "raw")])
    for comparison in analysis.comparisons:
        change = comparison.difference
        ends = "" if change.low is None else f" [{change.low:+.1f}, {change.high:+.1f}]"
        assert f"<td>{change.value:+.2f}{ends}</td>" in page
    assert html.escape(analysis.comparisons[-1].words) in page
    assert "8" in re.search(r"<b>(.*?)</b><span>samples in pre-training", page)[1]


def test_answers_are_read_as_score_reads_them(write_run, benchmarks):  # noqa: F811
    folder = write_run("recipe", 9, ANSWERS)
    preset = load_preset(str(benchmarks.preset))
    found = {outcome.key: outcome for outcome in outcomes(folder, preset)}
    assert len(found) == 12 + 3
    told = score.explain(folder, preset, 100)
    first = found["mmbench", "1", "which one ?"]
    assert [given.read for given in first.given] == ["read as A (an option's text)"] * 2
    assert "mmbench 1: 'red' read as A (an option's text); A is right: right, tolerant only" in told
    assert (first.strict, first.tolerant) == (0.0, 1.0)
    assert found["mmbench", "2", "which one one ?"].tolerant == 0.0  # one of its two rotations is wrong
    assert first.given[0].wanted == "A. red"


def test_a_page_is_made_once_and_again_when_an_answer_changes(write_run, benchmarks, capsys):  # noqa: F811
    folder = write_run("recipe", 9, ANSWERS)
    before = page_of("recipe", preset=benchmarks.preset)
    assert page_of("recipe", preset=benchmarks.preset) == before
    assert capsys.readouterr().out.splitlines()[1].startswith("up to date: ")
    plots = subject.PAGES / "MGM-Tiny-recipe"
    drawn = {file.name: file.read_bytes() for file in plots.iterdir()}
    assert set(drawn) == {f"{name}.{ending}" for name in ("scores", "loss") for ending in ("svg", "png", "csv")}
    (subject.PAGES / "MGM-Tiny-recipe.html").unlink()
    assert page_of("recipe", preset=benchmarks.preset) == before
    assert {file.name: file.read_bytes() for file in plots.iterdir()} == drawn
    answers = folder / "textvqa" / "answers.jsonl"
    answers.write_text(answers.read_text().replace("Open.", "closed", 1))
    assert page_of("recipe", preset=benchmarks.preset) != before


def test_a_run_without_history_leaves_the_other_its_colour_and_legend(write_run, benchmarks):  # noqa: F811
    folder = write_run("recipe", 9, ANSWERS)
    write_run("raw", 3, ANSWERS)
    for stage in ("Pretrain", "Finetune"):
        (folder.parent.parent / "training_dirs" / f"MGM-Tiny-{stage}-recipe" / "trainer_state.json").unlink()
    page = page_of("recipe", "--baseline", "raw", preset=benchmarks.preset)
    assert "No curve was recorded for recipe." in page
    scores, loss = (
        (subject.PAGES / "MGM-Tiny-recipe" / f"{name}.svg").read_text(encoding="utf-8") for name in ("scores", "loss")
    )
    ours, theirs = (colour.lower() for colour in plots.COLOURS[:2])
    assert ours in scores
    assert theirs in scores
    assert ours not in loss
    assert theirs in loss
    assert "<!-- raw -->" in loss  # its entry in the legend
    assert "<!-- recipe -->" not in loss


def test_answers_without_images_stand_beside(write_run, benchmarks):  # noqa: F811
    folder = write_run("recipe", 9, ANSWERS)
    assert "<th>without image</th>" not in page_of("recipe", preset=benchmarks.preset)
    seen = write_run("blind", 3, ["A", "B", "B", "B", "B", "B"])
    for benchmark in ("textvqa", "mmbench"):
        (folder / "blind").mkdir(exist_ok=True)
        (seen / benchmark).rename(folder / "blind" / benchmark)
    page = page_of("recipe", preset=benchmarks.preset)
    (row,) = re.findall(r"<tr><td class=\"text\">TextVQA soft accuracy</td>(.*?)</tr>", page)
    assert re.findall(r"<td>(\d+\.\d+) \[", row) == ["75.00", "25.00"]
    assert "without looking" in page


def test_what_is_missing_is_said(write_run, benchmarks):  # noqa: F811
    folder = write_run("recipe", 9, ANSWERS)
    (folder / "mmbench" / "answers.jsonl").unlink()
    (folder.parent.parent / "training_dirs/MGM-Tiny-Finetune-recipe/run.json").write_text("{")
    page = page_of("recipe", preset=benchmarks.preset)
    assert "mmbench not scored" in page
    assert "no record of its finetuning in" in page
    assert "No record of how its rows were prepared." in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["absent"], "absent: no answers in"),
        (["recipe", "--baseline", "recipe"], "--baseline recipe: the same run"),
        (["recipe", "--out", "page.txt"], "--out page.txt: expected a name that ends in .html"),
    ],
)
def test_users_mistakes(words, message, write_run, benchmarks, capsys):  # noqa: F811
    write_run("recipe", 9, ANSWERS)
    assert main(["lab", "page", *words, "--preset", str(benchmarks.preset)]) == 1
    line, *names = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {message}")
    assert all(name.startswith("  ") for name in names)
    assert not subject.PAGES.exists()


def test_the_recipe_and_its_funnel_belong_to_the_rows(write_run, benchmarks, tmp_path):  # noqa: F811
    write_run("recipe", 9, ANSWERS)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("process:\n  - words_num_filter: {min_num: 2}  # <script>\n")
    rows = tmp_path / "processed" / "processed_data.jsonl"
    rows.parent.mkdir()
    step = {"name": "words_num_filter", "rows_in": 9, "kept": 7, "dropped": 2, "failed": 0, "created": 0}
    step |= {"rewritten": 0, "reasons": {"words below min_num 2": 2}, "seconds": 0.1}

    def record(digest: str) -> None:
        made = {"steps": [step], "seconds": 1.0, "outputs": {"processed_data.jsonl": digest}}
        made["inputs"] = {"recipe": {"path": str(recipe), "sha256": score.sha256_of(recipe)}}
        (rows.parent / "run.json").write_text(json.dumps(made))

    prepared = {"inputs": {str(rows): "abc"}, "counts": {"rows": 7, "drawn": 7, "written": 7}}
    (tmp_path / "training_dirs/MGM-Tiny-Pretrain-recipe/pretrain_data.run.json").write_text(json.dumps(prepared))
    record("abc")
    page = page_of("recipe", preset=benchmarks.preset)
    assert "2 words below min_num 2" in page
    assert "words_num_filter: {min_num: 2}  # &lt;script&gt;" in page
    record("another")
    page = page_of("recipe", preset=benchmarks.preset)
    assert "another one has written to that folder since" in page
    assert "words below min_num" not in page


class Reader(HTMLParser):
    """The tags and attributes of a page, as a browser takes them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.scripts = 0
        self.attributes: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.scripts += tag == "script"
        self.attributes |= {name for name, _ in attrs}


def hostile(benchmarks: Benchmarks) -> None:  # noqa: F811
    """Put every hostile text into questions, options and categories."""
    lines = benchmarks.mmbench.read_text().splitlines()
    for place, text in enumerate(HOSTILE[:5], 1):
        cells = lines[place].split("\t")
        cells[1], cells[3], cells[8] = text, text, text
        lines[place] = "\t".join(cells)
    benchmarks.mmbench.write_text("\n".join(lines) + "\n")


def test_hostile_texts_stay_text(write_run, benchmarks):  # noqa: F811
    hostile(benchmarks)
    write_run("recipe", 3, [*HOSTILE[:5], "A"], text=HOSTILE[0] + HOSTILE[-1])
    page = page_of("recipe", preset=benchmarks.preset)
    found = Reader(page)
    assert found.scripts == 2  # the data and the page's own
    assert not [name for name in found.attributes if name.startswith("on") or name == "style"]
    assert "\u202e" not in page
    assert "\\u202e" not in page.replace("\\\\u202e", "")  # written out, not as JSON's escape of it
    assert (
        "</style></title>" in data_of(page)["questions"][-1]["a"][0][0][0] + data_of(page)["questions"][5]["a"][0][0][0]
    )


@pytest.mark.slow
def test_a_browser_shows_the_answers_and_nothing_else_runs(write_run, benchmarks, tmp_path):  # noqa: F811
    hostile(benchmarks)
    write_run("recipe", 3, [*HOSTILE[:5], "A"], text="<img src=x onerror=document.title='run'>")
    write_run("raw", 9, ANSWERS)
    page_of("recipe", "--baseline", "raw", preset=benchmarks.preset)
    page = subject.PAGES / "MGM-Tiny-recipe.html"
    assert console_of(page, tmp_path / "profile") == []
    shown = load(page, tmp_path / "profile").stdout
    assert "<title>Run recipe beside raw</title>" in shown
    assert shown.count("<figure>") == 8  # the questions whose answer changed
    assert "&lt;img src=x onerror=" in shown
    # The policy is what keeps a foreign script from running, not the escapes alone.
    foreign = tmp_path / "foreign.html"
    foreign.write_text(page.read_text().replace("<footer>", "<script>document.title = 'run'</script><footer>"))
    assert any("Content Security Policy" in line for line in console_of(foreign, tmp_path / "profile"))
    assert "<title>run</title>" not in load(foreign, tmp_path / "profile").stdout


def test_nine_thousand_questions_stay_small():
    """Images of noise, which JPEG cannot shrink: the budget holds, and every question keeps its texts."""
    noise = random.Random(0)
    pool = []
    for _ in range(40):
        image, file = Image.frombytes("RGB", (96, 96), noise.randbytes(96 * 96 * 3)), io.BytesIO()
        image.save(file, "PNG")
        pool.append(base64.b64encode(file.getvalue()).decode())
    given = (Given("an answer " * 30, "read as A (a lone letter)", "A. one", 0.0),)
    entries = [
        Entry(
            "mmbench",
            str(n),
            "c",
            "a question " * 20,
            ("A. one", "B. two"),
            pool[n % 40] + " " * (n // 40),
            (float(n % 2),),
            (given,),
        )
        for n in range(9000)
    ]
    found = browser(["recipe"], entries, image_bytes=1_000_000)
    assert len(found.data["questions"]) == 9000
    assert 0 < found.shown < found.wanted == 9000
    assert sum(map(len, found.data["images"])) < 1_100_000
    assert len(json.dumps(found.data)) < 9_000_000


def test_unreadable_images_are_counted():
    entry = Entry("mmbench", "1", "", "?", (), "bm8gaW1hZ2U=", (1.0,), ((),))
    found = browser(["recipe"], [entry])
    assert (found.shown, found.wanted, found.unreadable) == (0, 1, 1)
    assert found.data["questions"][0]["i"] is None


def test_intervals_contain_what_they_should():
    import numpy as np

    right = np.array([1.0] * 30 + [0.0] * 70)
    low, high = interval(right)
    assert (round(low, 3), round(high, 3)) == (0.217, 0.395)  # Jeffreys's, as published tables have it
    assert interval(np.ones(10))[1] == 1.0
    low, high = bootstrap(right)
    assert low < 0.3 < high
    assert high - low == pytest.approx(2 * 1.96 * (0.3 * 0.7 / 100) ** 0.5, rel=0.1)


def test_the_pages_look_like_the_recipes_report():
    """Copies, because a participant may change `solution/` and the referee's pages must not depend on it."""
    own = REPOSITORY / "experiments/lab/pages/templates/page.css"
    assert own.read_bytes() == (REPOSITORY / "solution/report/page.css").read_bytes()
