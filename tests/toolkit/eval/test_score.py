"""`score`: figures by hand, the baseline's column, what is missing."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import openpyxl
import pytest

from experiments.lab.comparison import remembered
from experiments.lab.comparison.earlier import earlier_noise
from tests.toolkit.eval.conftest import Benchmarks
from toolkit.__main__ import main
from toolkit.eval import score


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for output/eval_results."""
    monkeypatch.setattr(score, "EVAL_RESULTS", tmp_path / "eval_results")
    monkeypatch.setattr(remembered, "KNOWN", tmp_path / "compared.json")
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


def rows_of(printed: str) -> dict[str, list[str]]:
    """Cells by label; two spaces or more part them."""
    lines = [re.split("  +", line.strip()) for line in printed.splitlines()]
    return {line[0]: line[1:] for line in lines}


def test_score_and_baseline(results: Path, benchmarks: Benchmarks, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_answers(results, benchmarks, "recipe", 9, ["A", "A", "A.", "A", "B", "A"])
    write_answers(results, benchmarks, "raw", 3, ["A", "A", "B", "A", "B", "A"])
    assert main(["score", "recipe", "--baseline", "raw", "--preset", str(benchmarks.preset)]) == 0
    printed = capsys.readouterr().out
    rows = rows_of(printed)
    assert rows["recipe"] == ["raw"]
    assert rows["per cent"] == ["strict", "tolerant", "strict", "tolerant", "difference"]
    assert [cell.split(" [")[0] for cell in rows["TextVQA soft accuracy"]] == ["-", "75.00", "-", "25.00", "+50.00"]
    assert [cell.split(" [")[0] for cell in rows["MMBench"]] == ["33.33", "66.67", "33.33", "33.33", "+33.33"]
    assert rows["colour (3)"] == ["33.33", "66.67", "33.33", "33.33"]
    assert [cell.split(" [")[0] for cell in rows["both, mean"]] == ["-", "70.83", "-", "29.17", "+41.67"]
    written = json.loads((folder / "score.json").read_text())
    assert written["textvqa"]["accuracy"] == 0.75
    assert written["mmbench"]["strict"] == pytest.approx(1 / 3)
    assert written["mmbench"]["categories"]["colour"]["groups"] == 3


def test_differences_have_intervals_that_say_what_they_hold(
    results: Path, benchmarks: Benchmarks, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_answers(results, benchmarks, "recipe", 9, ["A"] * 6)
    write_answers(results, benchmarks, "raw", 3, ["A", "A", "B", "A", "B", "A"])
    command = ["score", "recipe", "--baseline", "raw", "--preset", str(benchmarks.preset)]
    monkeypatch.setattr("experiments.lab.comparison.against.earlier_noise", lambda preset: earlier_noise("mini"))
    assert main(command) == 0
    known = capsys.readouterr().out
    assert "the luck of questions and of trainings, the latter as in" in known.replace("\n", " ")
    assert "recipe against raw: not decided: about" in known
    assert main(command) == 0
    assert capsys.readouterr().out == known
    monkeypatch.setattr("experiments.lab.comparison.against.earlier_noise", lambda preset: None)
    remembered.KNOWN.write_text("damaged")
    assert main(command) == 0
    unknown = capsys.readouterr().out
    assert "the luck of the questions alone" in unknown
    assert "recipe against raw: not decided: how much trainings differ by luck is unknown" in unknown.replace("\n", " ")

    def ends(printed: str) -> str:
        return rows_of(printed)["both, mean"][-1].split(" [")[1]

    assert ends(known) != ends(unknown)


@pytest.mark.parametrize("name", ["recipe", ""])
def test_a_run_is_not_compared_with_itself_or_nothing(
    results: Path, benchmarks: Benchmarks, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert main(["score", "recipe", "--preset", str(benchmarks.preset), "--baseline", name]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_a_difference_is_remembered_until_answers_change(
    results: Path, benchmarks: Benchmarks, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [write_answers(results, benchmarks, name, 3, ["A"] * 6) for name in ("recipe", "raw")]
    command = ["score", "recipe", "--baseline", "raw", "--preset", str(benchmarks.preset)]
    assert main(command) == 0
    first = capsys.readouterr().out
    with monkeypatch.context() as patch:
        patch.setattr("experiments.lab.comparison.against.compare", lambda runs: pytest.fail("compared again"))
        assert main(command) == 0
    assert capsys.readouterr().out == first
    for damage in ([], [{"MMBench": 3}, []], None):
        remembered.KNOWN.write_text(json.dumps(dict.fromkeys(json.loads(remembered.KNOWN.read_text()), damage)))
        assert (main(command), capsys.readouterr().out) == (0, first)
    answers = folders[0] / "mmbench" / "answers.jsonl"
    answers.write_text(answers.read_text().replace('"A"', '"B"'))
    assert main(command) == 0
    assert rows_of(capsys.readouterr().out)["MMBench"][-1] != rows_of(first)["MMBench"][-1]


def test_the_same_answers_are_a_tie(results: Path, benchmarks: Benchmarks, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("recipe", "again"):
        write_answers(results, benchmarks, name, 9, ["A", "A", "A", "A", "B", "A"])
    assert main(["score", "recipe", "--baseline", "again", "--preset", str(benchmarks.preset)]) == 0
    assert "recipe against again: tie: the very same scores." in capsys.readouterr().out


def test_a_baseline_of_another_benchmark_or_a_missing_package_leaves_the_scores(
    results: Path, benchmarks: Benchmarks, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(write_answers(results, benchmarks, "recipe", 9, ["A"] * 6) / "mmbench")
    shutil.rmtree(write_answers(results, benchmarks, "raw", 9, ["A"] * 6) / "textvqa")
    command = ["score", "recipe", "--baseline", "raw", "--preset", str(benchmarks.preset)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert rows_of(printed)["TextVQA soft accuracy"][:4] == ["-", "75.00", "-", "-"]
    assert "No benchmark is scored for both" in printed

    def without_scipy(*_: str) -> None:
        raise ModuleNotFoundError("No module named 'scipy'", name="scipy")

    monkeypatch.setattr("experiments.lab.comparison.remembered.differences", without_scipy)
    assert main(command) == 0
    assert "No intervals: scipy is missing; bash install.sh brings all packages." in capsys.readouterr().out


def test_strict_scores_that_are_all_zero_are_one_line(
    results: Path, benchmarks: Benchmarks, capsys: pytest.CaptureFixture[str]
) -> None:
    write_answers(results, benchmarks, "recipe", 9, ["red"] * 6)
    assert main(["score", "recipe", "--preset", str(benchmarks.preset)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("MMBench strict") == 1
    assert "MMBench strict: 0 (no right answer is the bare letter)" in printed
    assert rows_of(printed)["per cent"] == ["recipe"]
    assert rows_of(printed)["MMBench"] == ["100.00"]


def blind(folder: Path) -> None:
    """Turn a run's answers into those given without images."""
    (folder / "blind").mkdir()
    for name in ("textvqa", "mmbench"):
        shutil.copytree(folder / name, folder / "blind" / name)
        file = folder / "blind" / name / "answers.jsonl"
        lines = [json.loads(line) | {"metadata": {"no_image": True}} for line in file.read_text().splitlines()]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_answers_without_images_are_a_column_and_never_a_score(
    results: Path, benchmarks: Benchmarks, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_answers(results, benchmarks, "recipe", 3, ["A"] * 6)
    blind(folder)
    (folder / "textvqa" / "answers.jsonl").write_text(
        (folder / "textvqa" / "answers.jsonl").read_text().replace("shut", "open")
    )
    command = ["score", "recipe", "--preset", str(benchmarks.preset)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    rows = rows_of(printed)
    assert rows["per cent"][-1] == "blind"
    assert "blind: recipe without the images (eval --no-image), MMBench tolerant" in printed
    assert rows["TextVQA soft accuracy"] == ["-", "100.00", "25.00"]
    assert rows["MMBench"] == ["100.00", "100.00", "100.00"]
    # Wherever they lie, they are no score of the run.
    assert main(["score", str(folder / "blind"), "--preset", str(benchmarks.preset)]) == 1
    assert "answered without its image (eval --no-image), so no score of the run" in capsys.readouterr().err
    own = (folder / "mmbench" / "answers.jsonl").read_bytes()
    shutil.copy(folder / "blind" / "mmbench" / "answers.jsonl", folder / "mmbench" / "answers.jsonl")
    assert main(command) == 1
    assert "answered without its image" in capsys.readouterr().err
    # And answers with images are not shown as blind.
    (folder / "mmbench" / "answers.jsonl").write_bytes(own)
    (folder / "blind" / "mmbench" / "answers.jsonl").write_bytes(own)
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "blind not shown: " in printed
    assert "answered with its image" in printed
    assert rows_of(printed)["per cent"] == ["strict", "tolerant"]


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
    assert rows_of(printed)["MMBench"] == ["100.00", "100.00"]
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


def test_a_run_is_found_by_every_name_it_has(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score, "TRAINING_DIRS", results.parent / "training_dirs")
    for name in ("MGM-Mini-Finetune-a", "MGM-2B-Finetune-a", "MGM-Mini-Finetune-recipe"):
        (results / name).mkdir(parents=True)
    for word in ("MGM-Mini-Finetune-a", "MGM-Mini-Pretrain-a"):
        for path in (word, f"{results}/{word}", f"{results}/{word}/", f"{results.parent}/training_dirs/{word}"):
            folder, preset = score.find_answers(path, None)
            assert (folder, preset.name) == (results / "MGM-Mini-Finetune-a", "mini")
    assert score.find_answers("MGM-2B-Finetune-a", None)[1].name == "full"
    with pytest.raises(score.UserError, match=r"recpie: no answers in .*; did you mean recipe\?$"):
        score.find_answers("recpie", None)
    with pytest.raises(score.UserError, match=r"xyz: no answers in .*; there are\n  a\n  recipe$"):
        score.find_answers("xyz", None)
    with pytest.raises(score.UserError, match="/other/MGM-Mini-Finetune-a: no answers in"):
        score.find_answers("/other/MGM-Mini-Finetune-a", None)


def test_answers_of_another_benchmark(
    results: Path, benchmarks: Benchmarks, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_answers(results, benchmarks, "recipe", 12, ["A"] * 6)
    file = folder / "textvqa" / "answers.jsonl"
    file.write_text(file.read_text() + json.dumps({"question_id": "9", "prompt": "who?\nx", "text": ""}) + "\n")
    assert main(["score", "recipe", "--preset", str(benchmarks.preset)]) == 1
    assert "answers.jsonl:13" in capsys.readouterr().err


def test_unanswered_questions_stand_in_the_table(
    results: Path, benchmarks: Benchmarks, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_answers(results, benchmarks, "recipe", 12, ["A", "A", "A", "A", "A", ""])
    file = folder / "textvqa" / "answers.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[0]["text"] = None
    file.write_text("".join(json.dumps(line) + "\n" for line in lines[:10]))
    assert main(["score", "recipe", "--preset", str(benchmarks.preset)]) == 0
    printed = rows_of(capsys.readouterr().out)
    assert printed["TextVQA unanswered"] == ["3/12"]
    assert printed["MMBench unanswered"] == ["1/6"]
    write_answers(results, benchmarks, "raw", 12, ["A"] * 6)
    assert main(["score", "raw", "--preset", str(benchmarks.preset)]) == 0
    assert not any(
        label.endswith("A unanswered") or label == "MMBench unanswered" for label in rows_of(capsys.readouterr().out)
    )


@pytest.mark.parametrize(
    ("benchmark", "line", "message"),
    [
        ("mmbench", {"question_id": 77, "text": "A"}, "has no question 77; answers of another benchmark or split?"),
        ("mmbench", {"question_id": "sign", "text": "A"}, "the question's id is 'sign', expected a whole number"),
        ("mmbench", {"question_id": None, "text": "A"}, "the question's id is None, expected"),
        ("mmbench", {"question_id": True, "text": "A"}, "the question's id is True, expected"),
        ("mmbench", {"text": "A"}, "neither 'question_id' nor 'index'"),
        ("mmbench", {"question_id": 0}, "neither 'text' nor 'prediction'"),
        ("mmbench", {"question_id": 0, "text": ["A"]}, "the answer is ['A'], expected text"),
        ("textvqa", {"question_id": "0", "text": "open"}, "no 'prompt' in it"),
        ("textvqa", {"question_id": "0", "prompt": 3, "text": "open"}, "no 'prompt' in it"),
        ("textvqa", {"prompt": "what?", "text": "open"}, "neither 'question_id' nor 'index'"),
        ("textvqa", b'{"question_id": "0", "prom', "not JSON"),
        ("mmbench", None, "no answers in it; answer the benchmark again"),
    ],
)
def test_lines_that_are_no_answer_are_named(
    results: Path,
    benchmarks: Benchmarks,
    benchmark: str,
    line: dict | bytes | None,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = write_answers(results, benchmarks, "recipe", 12, ["A"] * 6)
    file = folder / benchmark / "answers.jsonl"
    content = line if isinstance(line, bytes) else json.dumps(line).encode()
    file.write_bytes(b"" if line is None else file.read_bytes() + content)
    assert main(["score", "recipe", "--preset", str(benchmarks.preset)]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert str(file) in error
    assert error.count("\n") == 1


def test_ids_as_text_and_answers_given_twice(
    results: Path, benchmarks: Benchmarks, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_answers(results, benchmarks, "recipe", 12, ["B"] * 6)
    file = folder / "mmbench" / "answers.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    again = [{"question_id": str(line["question_id"]), "text": "A"} for line in lines]
    file.write_text("".join(json.dumps(line) + "\n" for line in [*lines, *again]))
    assert main(["score", "recipe", "--preset", str(benchmarks.preset)]) == 0
    printed = capsys.readouterr().out
    assert rows_of(printed)["MMBench"] == ["100.00", "100.00"]
    assert "mmbench: 6 questions have several answers that differ; the last of each counts" in printed


def test_answers_that_are_all_one_text_are_noted(
    results: Path, benchmarks: Benchmarks, capsys: pytest.CaptureFixture[str]
) -> None:
    write_answers(results, benchmarks, "recipe", 0, ["A"] * 6)
    assert main(["score", "recipe", "--preset", str(benchmarks.preset)]) == 0
    assert "textvqa: all 12 answers are 'shut'" in capsys.readouterr().out


def test_how_answers_were_read(results: Path, benchmarks: Benchmarks, capsys: pytest.CaptureFixture[str]) -> None:
    write_answers(results, benchmarks, "recipe", 11, ["A", "I choose B", "(A)", "A", "red", "dunno"])
    assert main(["score", "recipe", "--preset", str(benchmarks.preset), "--explain", "3"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if ": '" in line]
    assert len(lines) == 6
    assert "'shut' read as 'shut', 0.00 of 'open' x 10" in lines[0]
    assert "read as 'open', 1.00" in lines[1]
    told = [line.split(": ", 1)[1] for line in lines[3:]]
    assert told[0].startswith("'I choose B' read as B (the letter after")
    assert told[1] == "'dunno' read as None (no letter, and no option's text); A is right: wrong"
    assert told[2] == "'(A)' read as A (a lone letter); A is right: right, tolerant only"


def as_xlsx(rows: list[dict], path: Path) -> None:
    book = openpyxl.Workbook()
    for row in (list(rows[0]), *(list(row.values()) for row in rows)):
        book.active.append(row)
    book.save(path)


def as_json(rows: list[dict], path: Path) -> None:
    path.write_text(json.dumps(rows))


def as_json_by_index(rows: list[dict], path: Path) -> None:
    path.write_text(json.dumps({str(row["index"]): row["prediction"] for row in rows}))


def as_tsv(rows: list[dict], path: Path) -> None:
    lines = [rows[0], *(row.values() for row in rows)]
    path.write_text("".join("\t".join(map(str, line)) + "\n" for line in lines))


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("m_MMBench.xlsx", as_xlsx),
        ("m_MMBench.json", as_json),
        ("by_index.json", as_json_by_index),
        ("m_MMBench.tsv", as_tsv),
    ],
)
def test_answer_files_of_vlmevalkit(
    benchmarks: Benchmarks, tmp_path: Path, name: str, write: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    indices = [0, 1, 2, 1_000_000, 1_000_001, 1_000_002]
    texts = ["A", "A.", "B", "A", "Answer: A", "A"]
    rows = [{"index": i, "question": "q", "prediction": t} for i, t in zip(indices, texts, strict=True)]
    write(rows, tmp_path / name)
    assert main(["score", str(tmp_path / name), "--preset", str(benchmarks.preset)]) == 0
    printed = rows_of(capsys.readouterr().out)
    assert printed["MMBench"] == ["33.33", "66.67"]
    assert json.loads((tmp_path / f"{name}.score.json").read_text())["mmbench"]["unanswered"] == 0
    folder = tmp_path / "foreign" / "mmbench"
    folder.mkdir(parents=True)
    shutil.copy(tmp_path / name, folder / f"answers{Path(name).suffix}")
    assert main(["score", str(folder.parent), "--preset", str(benchmarks.preset)]) == 0
    assert rows_of(capsys.readouterr().out)["MMBench"] == ["33.33", "66.67"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.xlsx", None, "absent.xlsx: no such file"),
        ("bad.xlsx", b"PK no workbook", "not an xlsx workbook"),
        ("bad.json", b'[{"index": 0}', "not a JSON document"),
        ("list.json", b"[1, 2]", "expected a list of objects"),
        ("empty.json", b"[]", "no answers in it"),
        ("bad.tsv", b"index\tprediction\n0\t\xff\n", "not a table in UTF-8"),
        ("none.tsv", b"index\tanswer\n0\tA\n", "neither 'text' nor 'prediction'"),
    ],
)
def test_answer_files_that_are_none(
    benchmarks: Benchmarks,
    tmp_path: Path,
    name: str,
    content: bytes | None,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert main(["score", str(tmp_path / name), "--preset", str(benchmarks.preset)]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / f"{name}.score.json").exists()
