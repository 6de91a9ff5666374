"""`score`: figures by hand, the baseline's column, what is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.toolkit.eval.conftest import Benchmarks
from toolkit.__main__ import main
from toolkit.eval import score


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for output/eval_results."""
    monkeypatch.setattr(score, "EVAL_RESULTS", tmp_path / "eval_results")
    return tmp_path / "eval_results"


def write_answers(results: Path, benchmarks: Benchmarks, experiment: str, right: int, mmbench: list[str]) -> Path:
    """Answers of one experiment: the first `right` TextVQA questions right, the given texts for MMBench."""
    folder = results / f"MGM-Tiny-Finetune-{experiment}"
    questions = [json.loads(line) for line in benchmarks.textvqa.read_text().splitlines()]
    indices = [int(line.split("\t")[0]) for line in benchmarks.mmbench.read_text().splitlines()[1:]]
    answers = {
        "textvqa": [
            {"question_id": q["question_id"], "prompt": q["text"], "text": "Open." if n < right else "shut"}
            for n, q in enumerate(questions)
        ],
        "mmbench": [{"question_id": index, "text": text} for index, text in zip(indices, mmbench, strict=True)],
    }
    for name, lines in answers.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_score_and_baseline(results: Path, benchmarks: Benchmarks, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_answers(results, benchmarks, "recipe", 9, ["A", "A", "A.", "A", "B", "A"])
    write_answers(results, benchmarks, "raw", 3, ["A", "A", "B", "A", "B", "A"])
    assert main(["score", "recipe", "--baseline", "raw", "--preset", str(benchmarks.preset)]) == 0
    rows = {line[:22].strip(): line[22:].split() for line in capsys.readouterr().out.splitlines()}
    assert rows["per cent"] == ["recipe", "raw", "ratio"]
    assert rows["TextVQA soft accuracy"] == ["75.00", "25.00", "3.00"]
    assert rows["MMBench strict"] == ["33.33", "33.33", "1.00"]
    assert rows["MMBench tolerant"] == ["66.67", "33.33", "2.00"]
    assert rows["colour tolerant (3)"] == ["66.67", "33.33", "2.00"]
    written = json.loads((folder / "score.json").read_text())
    assert written["textvqa"]["accuracy"] == 0.75
    assert written["mmbench"]["strict"] == pytest.approx(1 / 3)
    assert written["mmbench"]["categories"]["colour"]["groups"] == 3


def test_unanswered_questions_count_as_wrong(results: Path, benchmarks: Benchmarks) -> None:
    folder = write_answers(results, benchmarks, "recipe", 12, ["A"] * 6)
    for name, keep in (("textvqa", 6), ("mmbench", 5)):
        file = folder / name / "answers.jsonl"
        file.write_text("".join(file.read_text().splitlines(keepends=True)[:keep]))
    assert main(["score", str(folder), "--preset", str(benchmarks.preset)]) == 0
    written = json.loads((folder / "score.json").read_text())
    assert (written["textvqa"]["accuracy"], written["textvqa"]["unanswered"]) == (0.5, 6)
    assert (written["mmbench"]["strict"], written["mmbench"]["unanswered"]) == (pytest.approx(2 / 3), 1)


def test_without_annotations_the_rest_is_scored(
    results: Path, benchmarks: Benchmarks, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_answers(results, benchmarks, "recipe", 12, ["A"] * 6)
    benchmarks.annotations.unlink()
    assert main(["score", "recipe", "--preset", str(benchmarks.preset)]) == 0
    printed = capsys.readouterr().out
    assert f"textvqa not scored: {benchmarks.annotations} is missing; get it from https://" in printed
    assert "MMBench strict" in printed
    assert json.loads((folder / "score.json").read_text())["textvqa"] is None
    benchmarks.mmbench.unlink()
    assert main(["score", "recipe", "--preset", str(benchmarks.preset)]) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent"], "absent: no answers in"),
        (["recipe", "--baseline", "absent"], "absent: no answers in"),
    ],
)
def test_no_such_experiment(
    results: Path,
    benchmarks: Benchmarks,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    write_answers(results, benchmarks, "recipe", 12, ["A"] * 6)
    assert main(["score", *arguments, "--preset", str(benchmarks.preset)]) == 1
    assert message in capsys.readouterr().err


def test_the_preset_is_found_out(results: Path) -> None:
    for name in ("MGM-Mini-Finetune-a", "MGM-2B-Finetune-b", "MGM-Mini-Finetune-c", "MGM-2B-Finetune-c"):
        (results / name).mkdir(parents=True)
    assert score.find_answers("a", None)[1].name == "mini"
    assert score.find_answers("b", None)[1].name == "full"
    assert score.find_answers("c", "mini")[0].name == "MGM-Mini-Finetune-c"
    with pytest.raises(score.UserError, match="say which with --preset"):
        score.find_answers("c", None)


def test_answers_of_another_benchmark(
    results: Path, benchmarks: Benchmarks, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_answers(results, benchmarks, "recipe", 12, ["A"] * 6)
    file = folder / "textvqa" / "answers.jsonl"
    file.write_text(file.read_text() + json.dumps({"question_id": "9", "prompt": "who?\nx", "text": ""}) + "\n")
    assert main(["score", "recipe", "--preset", str(benchmarks.preset)]) == 1
    assert "answers.jsonl:13" in capsys.readouterr().err
