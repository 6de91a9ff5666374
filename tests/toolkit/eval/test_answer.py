"""`eval` and `ask`: the same answers however they are batched, shared, chunked or resumed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import openpyxl
import pytest
import torch
from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE
from PIL import Image

from tests.toolkit.eval.conftest import Benchmarks
from toolkit.__main__ import main
from toolkit.eval import inference, textvqa
from toolkit.eval.answer import BENCHMARKS
from toolkit.eval.decoding import Decoder
from toolkit.eval.inference import Answerer
from toolkit.eval.questions import collapse_warning
from toolkit.mgm.model import MGMGemmaForCausalLM


def evaluate(benchmark: str, files: Benchmarks, model: Path, out: Path, *more: str) -> int:
    return main(["eval", benchmark, "--preset", str(files.preset), "--model", str(model), "--out", str(out), *more])


def lines_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches of images that were encoded."""
    sizes: list[int] = []
    plain = MGMGemmaForCausalLM.encode_images

    def counted(self: MGMGemmaForCausalLM, pixels: torch.Tensor) -> torch.Tensor:
        sizes.append(len(pixels))
        return plain(self, pixels)

    monkeypatch.setattr(MGMGemmaForCausalLM, "encode_images", counted)
    return sizes


@pytest.mark.parametrize(("batch", "sorted_together"), [(5, 8), (3, 1), (16, 8)])
def test_batched_answers_are_those_of_one_at_a_time(
    tiny_model: Path, benchmarks: Benchmarks, monkeypatch: pytest.MonkeyPatch, batch: int, sorted_together: int
) -> None:
    monkeypatch.setattr(inference, "BATCHES_SORTED_TOGETHER", sorted_together)
    questions = textvqa.read_questions(benchmarks.textvqa, benchmarks.images)
    answerer = Answerer.load(tiny_model, full_precision=True)
    alone = [text for answers in answerer.answers_one_at_a_time(questions, 1, 12) for text in answers.values()]
    assert len(set(alone)) > 4, "the model's answers are too alike to tell batches apart"
    together: dict[int, str] = {}
    for answers in answerer.answers(questions, batch, max_new_tokens=12):
        assert not together.keys() & answers.keys()
        together |= answers
    assert [together[index] for index in range(len(questions))] == alone


def test_large_batches_of_questions_encode_few_images_at_once(
    tiny_model: Path, benchmarks: Benchmarks, monkeypatch: pytest.MonkeyPatch, encoded: list[int]
) -> None:
    monkeypatch.setattr(inference, "CPU_IMAGES", 3)
    questions = textvqa.read_questions(benchmarks.textvqa, benchmarks.images)
    answerer = Answerer.load(tiny_model, full_precision=True)
    [answers] = answerer.answers(questions, len(questions), max_new_tokens=2)
    assert len(answers) == len(questions)
    assert sum(encoded) == len({question.image for question in questions})
    assert max(encoded) == 3


def test_textvqa_answers(
    tiny_model: Path, benchmarks: Benchmarks, tmp_path: Path, encoded: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert evaluate("textvqa", benchmarks, tiny_model, out) == 0
    assert sum(encoded) == 4  # twelve questions on four images
    questions = [json.loads(line) for line in benchmarks.textvqa.read_text().splitlines()]
    assert [(line["question_id"], line["prompt"]) for line in lines_of(out)] == [
        (question["question_id"], question["text"]) for question in questions
    ]
    assert {line["model_id"] for line in lines_of(out)} == {tiny_model.name}
    assert sorted(path.name for path in out.iterdir()) == ["answers.jsonl", "run.json"]
    record = json.loads((out / "run.json").read_text())
    assert record["counts"]["questions"] == 12
    assert record["counts"]["pictures"] == 4

    before = (out / "answers.jsonl").stat().st_mtime_ns
    assert evaluate("textvqa", benchmarks, tiny_model, out) == 0
    assert (out / "answers.jsonl").stat().st_mtime_ns == before
    assert "answered already" in capsys.readouterr().out


def test_mmbench_answers_and_upload(
    tiny_model: Path, benchmarks: Benchmarks, tmp_path: Path, encoded: list[int]
) -> None:
    out = tmp_path / "out"
    assert evaluate("mmbench", benchmarks, tiny_model, out, "--batch", "2") == 0
    assert sum(encoded) == 3
    lines = lines_of(out)
    assert [line["question_id"] for line in lines] == [0, 1, 2, 1_000_000, 1_000_001, 1_000_002]
    header, *rows = openpyxl.load_workbook(out / "answers_upload.xlsx").active.iter_rows(values_only=True)
    predictions = [row[header.index("prediction")] or "" for row in rows]
    assert predictions == [ILLEGAL_CHARACTERS_RE.sub("", line["text"]) for line in lines]


def test_both_benchmarks_by_one_model(
    tiny_model: Path,
    benchmarks: Benchmarks,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    alone, both = tmp_path / "alone", tmp_path / "both"
    for benchmark in BENCHMARKS:
        evaluate(benchmark, benchmarks, tiny_model, alone / benchmark)
    loaded = []
    plain = Answerer.load
    monkeypatch.setattr(Answerer, "load", lambda *words: loaded.append(words) or plain(*words))
    for chunk in ("0", "1"):
        assert evaluate("all", benchmarks, tiny_model, both, "--chunk", chunk, "--chunks", "2") == 0
    assert len(loaded) == 2
    assert evaluate("all", benchmarks, tiny_model, both) == 0
    assert len(loaded) == 2
    for benchmark in BENCHMARKS:
        assert (both / benchmark / "answers.jsonl").read_bytes() == (alone / benchmark / "answers.jsonl").read_bytes()
        assert json.loads((both / benchmark / "run.json").read_text())["command"] == f"eval {benchmark}"

    # What is wrong with the second is said before the first is answered.
    for folder in ("new", "other"):
        (tmp_path / folder).mkdir()
    shutil.copytree(both / "textvqa", tmp_path / "other" / "mmbench")
    assert evaluate("all", benchmarks, tiny_model, tmp_path / "other") == 1
    assert "holds the answers to textvqa" in capsys.readouterr().err
    benchmarks.mmbench.unlink()
    assert evaluate("all", benchmarks, tiny_model, tmp_path / "new") == 1
    assert not (tmp_path / "new" / "textvqa").exists()
    assert not (tmp_path / "other" / "textvqa").exists()
    assert len(loaded) == 2


def test_interrupted_run_goes_on(
    tiny_model: Path, benchmarks: Benchmarks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    evaluate("textvqa", benchmarks, tiny_model, whole)
    plain = Decoder.continue_prompts
    calls = []

    def cut_short(self: Decoder, prefixes: torch.Tensor, owners: list[int], *rest: object) -> list[list[int]]:
        calls.append(len(owners))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return plain(self, prefixes, owners, *rest)

    monkeypatch.setattr(Decoder, "continue_prompts", cut_short)
    with pytest.raises(KeyboardInterrupt):
        evaluate("textvqa", benchmarks, tiny_model, out, "--batch", "4")
    tries = json.loads((out / "attempts.json").read_text())
    assert [past["exit"] for past in tries["attempts"]] == [130]
    assert tries["command"] == "eval textvqa"
    (left,) = out.glob(".answers-*.jsonl")
    left.write_text(left.read_text() + '{"half a li')
    assert evaluate("textvqa", benchmarks, tiny_model, out, "--batch", "4") == 0
    assert sum(calls[3:]) == 4
    assert (out / "answers.jsonl").read_bytes() == (whole / "answers.jsonl").read_bytes()
    assert sorted(path.name for path in out.iterdir()) == ["answers.jsonl", "run.json"]
    record = json.loads((out / "run.json").read_text())
    assert [past["exit"] for past in record["attempts"]] == [130, 0]
    assert {key: record[key] for key in ("inputs", "configuration", "fixed_part", "versions")} == {
        key: tries[key] for key in ("inputs", "configuration", "fixed_part", "versions")
    }
    # As if it had been killed after its record was written.
    (out / "attempts.json").write_text(json.dumps(tries))
    assert evaluate("textvqa", benchmarks, tiny_model, out) == 0
    assert sorted(path.name for path in out.iterdir()) == ["answers.jsonl", "run.json"]


def test_a_full_gpu_is_told_how_many_to_answer(
    tiny_model: Path,
    benchmarks: Benchmarks,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plain = Decoder.continue_prompts

    def fill(self: Decoder, prefixes: torch.Tensor, owners: list[int], *rest: object) -> list[list[int]]:
        if len(owners) > 3:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return plain(self, prefixes, owners, *rest)

    monkeypatch.setattr(Decoder, "continue_prompts", fill)
    assert evaluate("textvqa", benchmarks, tiny_model, tmp_path / "out", "--batch", "6") == 1
    assert capsys.readouterr().err == (
        "error: 6 questions at a time are too many for the GPU's memory; run again with --batch 3\n"
    )
    assert evaluate("textvqa", benchmarks, tiny_model, tmp_path / "out", "--batch", "3") == 0


def test_answers_of_other_weights_are_not_kept(
    tiny_model: Path, benchmarks: Benchmarks, tmp_path: Path, encoded: list[int]
) -> None:
    out, other = tmp_path / "out", tmp_path / "other" / tiny_model.name
    evaluate("textvqa", benchmarks, tiny_model, out)
    first = (out / "answers.jsonl").read_text()
    shutil.copytree(tiny_model, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.5}))
    encoded.clear()
    evaluate("textvqa", benchmarks, other, out)
    assert sum(encoded) == 4
    assert (out / "answers.jsonl").read_text() != first


@pytest.mark.parametrize("chunks", [5, 8, 20])
def test_chunks_are_gathered(
    tiny_model: Path, benchmarks: Benchmarks, tmp_path: Path, encoded: list[int], chunks: int
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    evaluate("textvqa", benchmarks, tiny_model, whole)
    for chunk in range(chunks):
        assert evaluate("textvqa", benchmarks, tiny_model, out, "--chunk", str(chunk), "--chunks", str(chunks)) == 0
        assert not (out / "answers.jsonl").exists()
    encoded.clear()
    assert evaluate("textvqa", benchmarks, tiny_model, out) == 0
    assert not encoded  # nothing was left to answer
    assert len(json.loads((out / "run.json").read_text())["attempts"]) == chunks + 1
    assert (out / "answers.jsonl").read_bytes() == (whole / "answers.jsonl").read_bytes()


def test_equal_questions_share_an_answer(tiny_model: Path, benchmarks: Benchmarks, tmp_path: Path) -> None:
    text = benchmarks.textvqa.read_text()
    benchmarks.textvqa.write_text(text + text.splitlines()[0] + "\n")
    evaluate("textvqa", benchmarks, tiny_model, tmp_path / "out")
    lines = lines_of(tmp_path / "out")
    assert len(lines) == 13
    assert lines[0] == lines[12]


def test_ask(tiny_model: Path, benchmarks: Benchmarks, capsys: pytest.CaptureFixture[str]) -> None:
    image = str(benchmarks.images / "1.png")
    arguments = ["ask", "--model", str(tiny_model), "--image", image, "--max-new-tokens", "12"]
    question = json.loads(benchmarks.textvqa.read_text().splitlines()[1])["text"]
    assert main([*arguments, question]) == 0
    printed = capsys.readouterr().out
    questions = textvqa.read_questions(benchmarks.textvqa, benchmarks.images)
    (answers,) = Answerer.load(tiny_model, full_precision=True).answers([questions[1]], batch=1, max_new_tokens=12)
    assert printed == answers[0] + "\n"


def test_mistakes_are_one_line(
    tiny_model: Path, benchmarks: Benchmarks, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*arguments: object) -> str:
        assert evaluate(*arguments) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        return error

    out = tmp_path / "out"
    assert "no config.json" in refused("textvqa", benchmarks, tmp_path, out)
    assert "expected 0 to 1" in refused("textvqa", benchmarks, tiny_model, out, "--chunk", "2", "--chunks", "2")
    assert "--chunk: has an effect with --chunks alone" in refused(
        "textvqa", benchmarks, tiny_model, out, "--chunk", "0"
    )
    assert "--chunks: has an effect with --chunk alone" in refused(
        "textvqa", benchmarks, tiny_model, out, "--chunks", "2"
    )
    Image.new("RGB", (4, 4)).save(benchmarks.images / "1.png")
    (benchmarks.images / "1.png").write_bytes((benchmarks.images / "1.png").read_bytes()[:40])
    assert "question 1: unreadable_image" in refused("textvqa", benchmarks, tiny_model, out)
    (benchmarks.images / "1.png").unlink()
    assert "question 1: missing_image" in refused("textvqa", benchmarks, tiny_model, out)


@pytest.fixture
def finished(tiny_model: Path, benchmarks: Benchmarks, tmp_path: Path) -> Path:
    """Folder of finished answers to TextVQA."""
    evaluate("textvqa", benchmarks, tiny_model, tmp_path / "out")
    return tmp_path / "out"


def other_fixed_part(out: Path) -> None:
    record = json.loads((out / "run.json").read_text())
    record["fixed_part"]["files"]["toolkit/eval/textvqa.py"] = "0" * 64
    (out / "run.json").write_text(json.dumps(record))


def cut(out: Path) -> None:
    (out / "answers.jsonl").write_bytes((out / "answers.jsonl").read_bytes()[:-40])


def edited(out: Path) -> None:
    lines = lines_of(out)
    lines[0]["text"] = "another answer"
    (out / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def repeated(out: Path) -> None:
    text = (out / "answers.jsonl").read_text()
    (out / "answers.jsonl").write_text(text + text.splitlines(keepends=True)[0])


@pytest.mark.parametrize(
    ("change", "benchmark", "message"),
    [
        (other_fixed_part, "textvqa", "another fixed part (toolkit/eval/textvqa.py changed)"),
        (cut, "textvqa", "answers.jsonl is not the file that was written there"),
        (edited, "textvqa", "answers.jsonl is not the file that was written there"),
        (repeated, "textvqa", "answers.jsonl is not the file that was written there"),
        (lambda out: None, "mmbench", "holds the answers to textvqa; choose another --out for mmbench"),
        (lambda out: (out / "run.json").write_text("[]"), "textvqa", "run.json: damaged"),
        (lambda out: (out / "run.json").write_text('{"configuration": 3}'), "textvqa", "run.json: damaged"),
    ],
)
def test_finished_answers_that_are_not_these_are_refused(
    tiny_model: Path,
    benchmarks: Benchmarks,
    finished: Path,
    change: Callable[[Path], object],
    benchmark: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    change(finished)
    before = {path.name: path.read_bytes() for path in finished.iterdir()}
    capsys.readouterr()
    assert evaluate(benchmark, benchmarks, tiny_model, finished) == 1
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert {path.name: path.read_bytes() for path in finished.iterdir()} == before


def test_tables_of_vlmevalkit_are_answered_without_an_upload(
    tiny_model: Path, benchmarks: Benchmarks, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They have no column `source`, and an image that was shown before is the index of that row."""
    header, *rows = [line.split("\t") for line in benchmarks.mmbench.read_text().splitlines()]
    image, source = header.index("image"), header.index("source")
    plain = [row[:source] + row[source + 1 :] for row in (header, *rows)]
    for number, row in enumerate(plain[1:]):
        if number >= 3:
            row[image] = str(number % 3)
    evaluate("mmbench", benchmarks, tiny_model, tmp_path / "whole")
    benchmarks.mmbench.write_text("".join("\t".join(row) + "\n" for row in plain))
    assert evaluate("mmbench", benchmarks, tiny_model, tmp_path / "out") == 0
    assert "no answers_upload.xlsx will be written" in capsys.readouterr().out
    assert (tmp_path / "out" / "answers.jsonl").read_bytes() == (tmp_path / "whole" / "answers.jsonl").read_bytes()
    assert not (tmp_path / "out" / "answers_upload.xlsx").exists()


def test_answers_that_are_one_string_are_warned_about() -> None:
    assert collapse_warning(["a"] * 89 + ["b"] * 11) is None
    warning = collapse_warning(["the the the"] * 90 + [str(number) for number in range(10)])
    assert warning == "90 of 100 answers are 'the the the'; has the training collapsed?"


@pytest.mark.parametrize("setting", [{"image_grid": 2}, {"image_global": True}])
def test_models_that_cut_images_in_a_grid_are_refused(
    tiny_model: Path, benchmarks: Benchmarks, tmp_path: Path, setting: dict, capsys: pytest.CaptureFixture[str]
) -> None:
    """They answered on one view where they were trained on five."""
    other = tmp_path / "MGM-2B-HD"
    shutil.copytree(tiny_model, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | setting))
    assert evaluate("textvqa", benchmarks, other, tmp_path / "out") == 1
    assert "an MGM-HD model, which is not supported" in capsys.readouterr().err


@pytest.mark.parametrize("benchmark", ["textvqa", "mmbench"])
def test_answers_without_images_lie_apart_and_say_so(
    tiny_model: Path, benchmarks: Benchmarks, tmp_path: Path, encoded: list[int], benchmark: str
) -> None:
    out = tmp_path / "answers" / benchmark
    assert evaluate(benchmark, benchmarks, tiny_model, out) == 0
    seen = {path.name: path.read_bytes() for path in out.iterdir()}
    encoded.clear()
    assert evaluate(benchmark, benchmarks, tiny_model, out, "--no-image") == 0
    assert encoded == [1]
    apart = tmp_path / "answers" / "blind" / benchmark
    assert {path.name: path.read_bytes() for path in out.iterdir()} == seen
    assert sorted(path.name for path in apart.iterdir()) == ["answers.jsonl", "run.json"]
    lines = lines_of(apart)
    assert [line["metadata"] for line in lines] == [{"no_image": True}] * len(lines)
    assert [line["question_id"] for line in lines] == [line["question_id"] for line in lines_of(out)]
    assert [line["text"] for line in lines] != [line["text"] for line in lines_of(out)]
    assert json.loads((apart / "run.json").read_text())["configuration"]["no_image"] is True
    # Run again with the folder itself as --out, nothing is left to do.
    encoded.clear()
    assert evaluate(benchmark, benchmarks, tiny_model, apart, "--no-image") == 0
    assert encoded == []
    # Both benchmarks at once lie there, too.
    assert evaluate("all", benchmarks, tiny_model, tmp_path / "answers", "--no-image") == 0
    assert sorted(path.name for path in (tmp_path / "answers" / "blind").iterdir()) == ["mmbench", "textvqa"]
    assert {path.name: path.read_bytes() for path in out.iterdir()} == seen
