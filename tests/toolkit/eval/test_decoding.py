"""Our greedy loop finds the words of transformers' `generate`; a stand-in for CUDA graphs tries recorded steps."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from toolkit.errors import UserError
from toolkit.eval import decoding
from toolkit.eval.decoding import Decoder
from toolkit.eval.inference import Answerer, fitting
from toolkit.eval.questions import Question

LONGEST = 12


@pytest.fixture
def answerer(tiny_model: Path) -> Answerer:
    return Answerer.load(tiny_model, full_precision=True)


@pytest.fixture
def questions(benchmarks) -> list[Question]:
    """Of different lengths, two or three on an image."""
    texts = ["a", "what is that", "<pad>is<pad> it red?", "how many " * 9, "where", "is it <image> there", "why not?"]
    return [Question(str(number), benchmarks.images / f"{number % 3}.png", text) for number, text in enumerate(texts)]


def both(answerer: Answerer, questions: list[Question], batch: int = 4) -> tuple[list[str], list[str]]:
    """Answers of transformers' loop, and ours."""
    plain, ours = {}, {}
    for answers in answerer.answers_one_at_a_time(questions, 1, LONGEST):
        plain |= answers
    for answers in answerer.answers(questions, batch, LONGEST):
        ours |= answers
    return [plain[number] for number in range(len(questions))], [ours[number] for number in range(len(questions))]


def test_prompts_of_all_lengths(answerer: Answerer, questions: list[Question]) -> None:
    plain, ours = both(answerer, questions)
    assert ours == plain
    assert len(set(ours)) > 4


@pytest.mark.parametrize("fewest", [3, LONGEST])
def test_answers_do_not_end_too_early(answerer: Answerer, questions: list[Question], fewest: int) -> None:
    # Every other token ends an answer.
    answerer.decoder = Decoder(answerer.model, range(1, answerer.model.config.vocab_size, 2), 0)
    answerer._ends = answerer.decoder.ends.tolist()
    plain, ours = both(answerer, questions)
    answerer.model.generation_config.min_new_tokens = fewest
    longer_plain, longer = both(answerer, questions)
    assert (ours, longer) == (plain, longer_plain)
    assert longer != ours


def test_prompts_are_cut_at_the_models_length(answerer: Answerer, questions: list[Question]) -> None:
    _, whole = both(answerer, questions)
    answerer.model.config.tokenizer_model_max_length = 14
    plain, ours = both(answerer, questions)
    assert ours == plain
    assert ours != whole
    answerer.model.config.tokenizer_model_max_length = 8
    with pytest.raises(UserError, match="tokenizer_model_max_length"):
        list(answerer.answers(questions, 4, LONGEST))


def recorded(decoder: Decoder, end: int) -> SimpleNamespace:
    """As a graph: always the whole cache's rows, at the length of the recording."""
    assert end not in decoder.graphs
    return SimpleNamespace(replay=lambda: decoder._plain_step(end, len(decoder.tokens)))


def test_recorded_steps(answerer: Answerer, questions: list[Question], monkeypatch: pytest.MonkeyPatch) -> None:
    """The last batch is smaller than the recorded one, answers outgrow the length of the first recording."""
    plain, _ = both(answerer, questions)
    monkeypatch.setattr(decoding, "CACHE_STEP", 16)
    monkeypatch.setattr(decoding, "SUFFIX_STEP", 8)
    monkeypatch.setattr(Decoder, "_record", recorded)
    answerer.decoder = Decoder(answerer.model, answerer._ends, 0)
    answerer.decoder.on_gpu = answerer.decoder.use_graphs = True
    assert both(answerer, questions)[1] == plain
    assert len(answerer.decoder.graphs) > 1
    assert both(answerer, questions, batch=7)[1] == plain  # a larger cache, new recordings


def test_a_gpu_that_records_nothing_answers_all_the_same(
    answerer: Answerer, questions: list[Question], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(decoder: Decoder, end: int) -> None:
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(Decoder, "_record", refuse)
    answerer.decoder.use_graphs = True
    plain, ours = both(answerer, questions)
    assert ours == plain
    printed = capsys.readouterr().err
    assert printed.startswith("CUDA graphs are off, answers take longer: CUDA error: operation not permitted")
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    ("free", "images", "questions"), [(73e9, 16, 128), (17e9, 15, 64), (9e9, 8, 32), (3e9, 2, 16), (1e8, 1, 1)]
)
def test_a_gpu_answers_as_many_as_its_memory_takes(free: float, images: int, questions: int) -> None:
    """With MGM-2B and 1,024 new tokens a question takes 64 MB."""
    assert fitting(free, row=64e6) == (images, questions)


def test_a_cpu_answers_fewer_where_they_are_large(answerer: Answerer) -> None:
    assert answerer._fitting(100) == (8, 64)
    assert answerer._fitting(200_000)[1] < 64
