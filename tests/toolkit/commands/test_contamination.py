"""`check --contamination`: rows that show or say what the evaluation sets do, as lines, table and page."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image, ImageOps

from benchmarks.contamination import photograph
from tests.conftest import SmallSeed
from tests.solution.analysis.browser import Browser
from toolkit.__main__ import main
from toolkit.contamination import search
from toolkit.contamination.images import Match
from toolkit.dataset.rows import ImageRoots
from toolkit.presets import load_preset

QUESTIONS = 12


@pytest.fixture
def words(small_seed: SmallSeed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A check of four rows: one shows a mirrored image of TextVQA, one repeats a question, two are clean."""
    monkeypatch.setattr(search, "KNOWN", tmp_path / "known.sqlite")
    mini = load_preset("mini")
    exam = tmp_path / "exam"
    exam.mkdir()
    for number in range(QUESTIONS):
        photograph(number).save(exam / f"{number}.jpg")
    lines = [
        {"question_id": f"q{number}", "image": f"{number}.jpg", "text": f"What stands on sign number {number} here?\nX"}
        for number in range(QUESTIONS)
    ]
    (exam / "questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (exam / "mmbench.tsv").write_text("".join(mini.mmbench.questions.read_text().splitlines(True)[:3]))
    values = yaml.safe_load(small_seed.preset.read_text())
    values["textvqa"] |= {"questions": str(exam / "questions.jsonl"), "images": str(exam)}
    values["mmbench"]["questions"] = str(exam / "mmbench.tsv")
    small_seed.preset.write_text(yaml.safe_dump(values))
    ImageOps.mirror(Image.open(exam / "3.jpg")).save(small_seed.folder / "images" / "1.png")
    for number in (0, 2, 3):
        photograph(50 + number).save(small_seed.folder / "images" / f"{number}.png")
    told = small_seed.row(2, text="<image>\n<b>what stands on sign number 7 here?</b> Dave <|__dj__eoc|>")
    file = small_seed.write(small_seed.row(0), small_seed.row(1), told, small_seed.row(3))
    return ["check", *small_seed.arguments(file), "--contamination", str(tmp_path / "found")]


def test_what_is_shared_is_named_and_refused(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 1
    said = capsys.readouterr()
    assert "1 of 4 images are copies of the evaluation sets' 13, in 1 rows" in said.out
    assert "line 2 (images/1.png): TextVQA q3, mirrored" in said.out
    assert "the mini world draws all its images from the same things and skies" in said.out
    assert "1 of 4 captions share their words" in said.out
    assert "line 3 (id s2): TextVQA q7: 'what stands on sign number 7 here'" in said.out
    assert "rows share images or captions with the evaluation sets" in said.err
    assert said.err.count("\n") == 1
    report, fixes = tmp_path / "report.json", tmp_path / "fixes.jsonl"
    assert main([*words, "--on-error", "skip", "--json", str(report), "--fixes", str(fixes)]) == 0
    overlaps = [line for line in map(json.loads, fixes.read_text().splitlines()) if line["kind"] == "overlap"]
    assert [(line["line"], line["id"], line["reason"]) for line in overlaps] == [
        (2, "s1", "evaluation_image"), (3, "s2", "evaluation_caption")
    ]  # fmt: skip
    assert overlaps[0]["detail"].startswith("images/1.png: TextVQA q3, mirrored, correlation ")
    assert overlaps[1]["detail"] == "TextVQA q7: what stands on sign number 7 here"
    assert all("evaluation_overlap_filter" in line["fix"] for line in overlaps)
    assert json.loads(report.read_text())["contamination"] == {"images": [2], "captions": [3]}
    table = pq.read_table(tmp_path / "found" / "overlaps.parquet").to_pylist()
    assert [(row["id"], row["image_in"], row["text_in"]) for row in table] == [
        ("s0", "", ""), ("s1", "TextVQA q3", ""), ("s2", "", "TextVQA q7"), ("s3", "", "")
    ]  # fmt: skip
    page = (tmp_path / "found" / "overlaps.html").read_text()
    assert page.count("<figure>") == 1
    assert "default-src 'none'" in page
    assert "<script" not in page


def test_nothing_shared_is_said(words: list[str], small_seed: SmallSeed, capsys: pytest.CaptureFixture[str]) -> None:
    small_seed.write(small_seed.row(0), small_seed.row(3))
    assert main(words) == 0
    assert "0 of 2 images are copies of the evaluation sets' 13" in capsys.readouterr().out


def test_a_file_is_no_folder_for_the_result(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in (tmp_path / "exam" / "questions.jsonl", ""):
        assert main([*words[:-1], str(folder)]) == 1
        assert "expected a folder of its own" in capsys.readouterr().err


def test_missing_evaluation_sets_are_named(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "exam" / "questions.jsonl").write_text("\n")
    assert main(words) == 1
    assert "questions.jsonl: no question in it, and nothing to compare with" in capsys.readouterr().err
    (tmp_path / "exam" / "questions.jsonl").unlink()
    assert main(words) == 1
    assert "questions.jsonl: no such file, and nothing to compare with; `" in capsys.readouterr().err
    assert not (tmp_path / "found").exists()


def test_what_was_compared_is_known(
    words: list[str], small_seed: SmallSeed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the second time only an image that changed is looked at; other evaluation sets are other results."""
    asked: list[str] = []
    look = search.Wanted._look_at
    monkeypatch.setattr(search.Wanted, "_look_at", lambda self, path: asked.append(path.name) or look(self, path))
    again = [*words, "--on-error", "skip"]
    assert main(again) == 0
    first = pq.read_table(tmp_path / "found" / "overlaps.parquet").to_pylist()
    assert asked == ["0.png", "1.png", "2.png", "3.png"]
    assert main(again) == 0
    assert len(asked) == 4
    assert pq.read_table(tmp_path / "found" / "overlaps.parquet").to_pylist() == first
    photograph(3).save(small_seed.folder / "images" / "0.png")
    assert main(again) == 0
    assert asked[4:] == ["0.png"]
    changed = pq.read_table(tmp_path / "found" / "overlaps.parquet").to_pylist()
    assert [row["image_in"] for row in changed] == ["TextVQA q3", "TextVQA q3", "", ""]
    photograph(40).save(tmp_path / "exam" / "3.jpg")
    assert main(again) == 0
    assert len(asked) == 9


def test_a_killed_comparison_goes_on(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    look = search.Wanted._look_at

    def fail_at_third(self: search.Wanted, path: Path):
        asked.append(path.name)
        if path.name == "2.png" and len(asked) == 3:
            raise KeyboardInterrupt
        return look(self, path)

    monkeypatch.setattr(search, "KEPT_AT_ONCE", 1)
    monkeypatch.setattr(search.Wanted, "_look_at", fail_at_third)
    with pytest.raises(KeyboardInterrupt):
        main(words)
    assert main(words) == 1
    assert asked == ["0.png", "1.png", "2.png", "2.png", "3.png"]


def test_a_store_that_cannot_be_written_only_costs_time(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(search, "KNOWN", tmp_path / "output" / "known.sqlite")
    (tmp_path / "output").write_text("in the way of the folder")
    assert main([*words, "--on-error", "skip"]) == 0
    said = capsys.readouterr()
    assert "1 of 4 images are copies" in said.out
    (note,) = said.err.splitlines()
    assert note.startswith("note: ")
    assert note.endswith("; what is compared now will be compared again")


def test_a_damaged_store_is_named(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "known.sqlite").write_bytes(b"none" * 1000)
    assert main(words) == 1
    assert "known.sqlite: file is not a database; remove it" in capsys.readouterr().err


@pytest.mark.slow
def test_the_page_escapes_what_others_wrote(tmp_path: Path) -> None:
    name, label = "images/<script>alert(1)<.png", "TextVQA <img src=x onerror=alert(1)>"
    (tmp_path / "images").mkdir()
    photograph(0).save(tmp_path / name)
    lines = {name: [(1, "<b>1</b>")]}
    found = search.Overlaps(pairs={name: Match(0, 1.0, True)}, lines=lines, captions=[(1, "<b>1</b>", label, "a b")])
    exam = search.Exam([tmp_path / name], [label], {})
    search.write_page(found, ImageRoots(tmp_path, tmp_path), Path("<i>.jsonl"), exam, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert not any(tag in page for tag in ("<script", "<img src=x", "<b>", "<i>"))
    assert "images/&lt;script&gt;alert(1)&lt;.png, line 1" in page
    with Browser(tmp_path / "profile") as browser:
        browser.open((tmp_path / "page.html").as_uri(), "document.querySelector('table')")
        assert browser.evaluate("document.scripts.length + document.querySelectorAll('[onerror], b, i').length") == 0
        assert browser.said == []


CLIP = load_preset("mini").vision_tower


def test_what_a_clip_takes_for_alike_is_shown_and_not_counted(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Images of which the hash finds none: the same one is nearest by embedding."""
    Image.open(tmp_path / "exam" / "5.jpg").save(Path(words[words.index("--images") + 1]) / "images" / "0.png")
    monkeypatch.setattr(search.Wanted, "_closest", lambda self, view: iter(()))
    assert main([*words, "--on-error", "skip", "--clip", str(CLIP)]) == 0
    assert "0 of 4 images are copies" in capsys.readouterr().out
    page = (tmp_path / "found" / "overlaps.html").read_text()
    first, *others = page.split("<h2>Alike by embedding</h2>")[1].split("<h2>")[0].split("<figcaption>")[1:]
    assert first.startswith("images/0.png, line 1<br>TextVQA q5; similarity 1.000, by embedding")
    assert len(others) == 3


@pytest.mark.parametrize(
    ("clip", "message"),
    [("none", "--clip none: no such folder"), (str(CLIP.parent), f"--clip {CLIP.parent}: no folder of a CLIP")],
)
def test_a_folder_without_a_clip_is_named(
    words: list[str], capsys: pytest.CaptureFixture[str], clip: str, message: str
) -> None:
    assert main([*words, "--clip", clip]) == 1
    assert message in capsys.readouterr().err
    assert main([*words[: words.index("--contamination")], "--clip", clip]) == 1
    assert "--clip: belongs to --contamination DIR" in capsys.readouterr().err
