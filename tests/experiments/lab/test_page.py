"""The page of a lab: the table's figures, what is missing, equal bytes, and nothing in its data can act."""

from __future__ import annotations

import html
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from experiments.lab.cells import SUMMARY
from experiments.lab.labfile import read_lab
from experiments.lab.pages import page, plots
from experiments.lab.pages.findings import findings
from experiments.lab.pages.markup import duration
from experiments.lab.pages.page import write_lab_page
from experiments.lab.pages.page_tables import cost
from tests.experiments.lab.example import write_lab
from tests.experiments.lab.test_run_page import Reader, data_of
from tests.solution.report.test_report import HOSTILE, console_of, load
from toolkit.__main__ import main
from toolkit.files import REPOSITORY

SKILLS = {"none": 0.1, "raw": 0.4, "recipe": 0.8, "again": 0.8}


@pytest.fixture(autouse=True)
def pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for output/pages."""
    monkeypatch.setattr(plots, "DPI", 20)
    monkeypatch.setattr(page, "PAGES", tmp_path / "pages")
    return tmp_path / "pages"


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def cells_of_row(text: str, section: str, first: str) -> list[str]:
    """The cells of a table's row, by its section and first cell."""
    part = text[text.index(f'<section id="{section}">') :]
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", part)]
    return next(row for row in rows if row and row[0] == first)


def test_the_figures_are_those_of_the_analysis(tmp_path, pages, capsys):
    file = write_lab(tmp_path, SKILLS)
    assert main(["lab", "page", str(file)]) == 0
    assert capsys.readouterr().out == f"written: {pages / 'lab-lab.html'}\n"
    text = text_of(pages / "lab-lab.html")
    found = findings(read_lab(file), file)
    for arm in found.analysis.arms:
        row = cells_of_row(text, "leaderboard", arm.arm)
        assert row[1] == "3"
        for cell, measure in zip(row[3:], found.analysis.measures, strict=False):
            score = arm.scores[measure]
            assert cell == f"{score.value:.1f} [{score.low:.1f}, {score.high:.1f}]"
        comparison = found.comparison(arm.arm)
        assert html.unescape(row[-1]) == (comparison.words if comparison else "the baseline")
    assert re.findall(r"<td class=\"text\">(none|raw|recipe|again)</td>", text)[3] == "none"  # the last
    verdict = found.analysis.comparison("recipe", "textvqa")
    assert f"{verdict.difference.value:+.1f} [" in cells_of_row(text, "differences", "recipe")[2]
    data = data_of(text)
    means = [
        question["m"][data["arms"].index("recipe")] for question in data["questions"] if question["b"] == "textvqa"
    ]
    shown = next(arm for arm in found.analysis.arms if arm.arm == "recipe").scores["textvqa"].value
    assert 100 * sum(means) / len(means) == pytest.approx(shown, abs=0.1)
    recipes = text[text.index('<section id="recipes">') :]
    assert re.search(r'<span class="removed">-.*min_num: 2.*</span>', recipes)
    assert re.search(r'<span class="added">\+.*min_num: 3.*</span>', recipes)
    assert "421 too short" in recipes
    assert main(["lab", "page", str(file)]) == 0
    assert capsys.readouterr().out.startswith("up to date: ")


def test_times_of_a_column_have_one_unit():
    seconds = [3.0, 119.0, 7300.0]
    assert [duration(each) for each in seconds] == ["3 s", "119 s", "2.0 h"]
    assert [duration(each, max(seconds)) for each in seconds] == ["0.00 h", "0.03 h", "2.0 h"]
    assert [duration(each, 119.0) for each in seconds[:2]] == ["3 s", "119 s"]
    assert [duration(each, 400.0) for each in seconds[:2]] == ["0.1 min", "2.0 min"]


def test_the_cost_table_has_one_unit_in_each_column(tmp_path):
    file = write_lab(tmp_path, SKILLS)
    for number, record in enumerate(sorted((tmp_path / "records").glob("*-draw0-seed*.json"))):
        record.write_text(json.dumps(json.loads(record.read_text()) | {"seconds": 40.0 * (number + 1)}))
    table = cost(findings(read_lab(file), file))
    for column in (-2, -1):
        assert len({row[column].split()[1] for row in table.rows}) == 1


def test_equal_records_give_equal_bytes(tmp_path):
    file = write_lab(tmp_path, SKILLS, seeds=2)
    files = []
    for _ in range(2):
        path, _ = write_lab_page(file, tmp_path / "page.html")
        files.append(
            {path.name: path.read_bytes()} | {plot.name: plot.read_bytes() for plot in (tmp_path / "page").iterdir()}
        )
        path.unlink()
    assert files[0] == files[1]
    names = {name.partition(".")[0] for name in files[0]}
    assert names == {"page", "leaderboard", "differences", "cost", "loss", "categories", "kept"}


def test_what_is_missing_is_named_with_its_reason(tmp_path):
    file = write_lab(tmp_path, SKILLS, seeds=2)
    records = tmp_path / "records"
    for name in ("recipe-draw0-seed1", "raw-draw0-seed0", "raw-draw0-seed1"):
        (records / f"{name}.json").unlink()
    summary = json.loads((records / SUMMARY).read_text())
    summary["missing"] = [{"arm": "recipe", "draw": 0, "seed": 1, "reason": "out of memory <b>"}]
    (records / SUMMARY).write_text(json.dumps(summary))
    text = text_of(write_lab_page(file, tmp_path / "page.html")[0])
    assert "Missing: recipe-draw0-seed1: out of memory &lt;b&gt;" in text
    assert "Missing: raw-draw0-seed0, raw-draw0-seed1: not run yet" in text
    assert "5 of 8" in text
    assert "The baseline raw has no cell yet" in text


def test_records_of_before_the_lab_have_scores_alone(tmp_path):
    shutil.copytree(REPOSITORY / "experiments/mini_world/records/test", tmp_path / "records")
    keys = {"arms": {"none": "none", "raw": "raw"}, "seeds": 5, "records": str(tmp_path / "records")}
    (tmp_path / "lab.yaml").write_text(yaml.safe_dump(keys))
    text = text_of(write_lab_page(tmp_path / "lab.yaml", tmp_path / "page.html")[0])
    assert "These records hold scores alone" in text
    assert cells_of_row(text, "leaderboard", "raw")[5].startswith("43.0 [")  # as docs/mini_world.md has it
    assert '<section id="loss">' not in text


def test_the_ladder_says_how_a_smaller_size_ranks(tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.lab.comparison.ranks.RESAMPLES", 20)
    skills = {"none": 0.1, "raw": 0.3, "random": 0.5, "recipe": 0.8, "reversed": 0.2}
    file = write_lab(tmp_path, skills, seeds=2)
    keys = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump(keys | {"ladder": {"small": {"seeds": 2}, "usual": {}}}, sort_keys=False))
    text = text_of(write_lab_page(file, tmp_path / "page.html")[0])
    assert f"No cell is there yet of small: python -m toolkit lab ladder {file}" in text
    assert not (tmp_path / "page" / "ladder.csv").exists()
    (tmp_path / "cheap").mkdir()
    write_lab(tmp_path / "cheap", skills | {"again": 0.8}, seeds=2)
    (tmp_path / "cheap" / "records").rename(tmp_path / "records" / "small")
    text = text_of(write_lab_page(file, tmp_path / "page.html")[0])
    row = cells_of_row(text, "ladder", "small and usual")
    assert row[1] == "5"
    assert re.fullmatch(r"(1\.00|0\.90) \[.*\]", row[2])
    assert row[4].startswith("small ranks the arms ")
    assert len((tmp_path / "page" / "ladder.csv").read_text().splitlines()) == 1 + 5


def test_arms_with_scores_alone_are_named_and_not_offered(tmp_path):
    file = write_lab(tmp_path, SKILLS, seeds=2)  # best first: again or recipe, raw, none
    for name in ("recipe-draw0-seed0", "recipe-draw0-seed1", "again-draw0-seed0", "again-draw0-seed1"):
        (tmp_path / "records" / f"{name}.parquet").unlink()
    text = text_of(write_lab_page(file, tmp_path / "page.html")[0])
    data = data_of(text)
    assert data["arms"] == ["none", "raw"]
    assert (data["arms"][data["left"]], data["arms"][data["right"]]) == ("none", "raw")
    assert "Scores alone are kept of recipe, again." in text
    (tmp_path / "records" / "raw-draw0-seed1.parquet").unlink()
    assert "answers are kept (raw 1 of 2)." in text_of(write_lab_page(file, tmp_path / "page.html")[0])
    (tmp_path / "records" / "raw-draw0-seed0.parquet").unlink()
    data = data_of(text_of(write_lab_page(file, tmp_path / "page.html")[0]))
    assert (data["arms"], data["left"], data["right"]) == (["none"], 0, 0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["absent.yaml"], "absent.yaml: no such file"),
        (["{lab}"], "no cell of "),
        (["{lab}", "--baseline", "raw"], "a lab names its own baseline and preset"),
    ],
)
def test_users_mistakes(words, message, tmp_path, pages, capsys):
    file = write_lab(tmp_path, {"raw": 0.5}, seeds=1)
    shutil.rmtree(tmp_path / "records")
    assert main(["lab", "page", *(word.format(lab=file) for word in words)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not pages.exists()


def hostile_lab(folder: Path) -> Path:
    """Hostile texts wherever a lab's records can hold them."""
    file = write_lab(
        folder, SKILLS, seeds=2, text=HOSTILE[0], wanted=HOSTILE[1], category=HOSTILE[2], answer=HOSTILE[3]
    )
    records = folder / "records"
    summary = json.loads((records / SUMMARY).read_text())
    arm = summary["arms"]["recipe"]
    arm["text"], arm["source"] = "\n".join(HOSTILE), HOSTILE[4]
    arm["steps"][0]["name"], arm["steps"][1]["reasons"] = HOSTILE[5], {HOSTILE[6]: 3}
    (records / SUMMARY).write_text(json.dumps(summary))
    record = json.loads((records / "raw-draw0-seed0.json").read_text())
    record["warnings"] = HOSTILE
    (records / "raw-draw0-seed0.json").write_text(json.dumps(record))
    return file


def test_hostile_texts_stay_text(tmp_path):
    text = text_of(write_lab_page(hostile_lab(tmp_path), tmp_path / "page.html")[0])
    found = Reader(text)
    assert found.scripts == 2  # the data and the page's own
    assert not [name for name in found.attributes if name.startswith("on") or name == "style"]
    assert "\x1b" not in text
    assert "\u202e" not in text


@pytest.mark.slow
def test_a_browser_shows_the_questions_and_nothing_else_runs(tmp_path):
    path, _ = write_lab_page(hostile_lab(tmp_path), tmp_path / "page.html")
    assert console_of(path, tmp_path / "profile") == []
    shown = load(path, tmp_path / "profile").stdout
    assert "<title>Lab lab</title>" in shown
    data = data_of(text_of(path))
    means = [[question["m"][data[side]] for side in ("left", "right")] for question in data["questions"]]
    assert shown.count("<figure>") == min(48, sum(left != right for left, right in means))
    assert html.escape(HOSTILE[0], quote=False) in shown
