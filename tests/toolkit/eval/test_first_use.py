"""The GPU's first use beside reading the weights, on the CPU: it is made once, in the towers' shapes, and may fail."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from tests.toolkit.eval.conftest import Benchmarks
from toolkit.eval import inference, textvqa
from toolkit.eval.first_use import use_towers
from toolkit.eval.inference import Answerer
from toolkit.weights import read_config


@pytest.fixture(autouse=True)
def slow_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU stands for a GPU."""
    monkeypatch.setattr(inference, "SLOW_AT_FIRST", ("cpu",))


def answers_of(answerer: Answerer, benchmarks: Benchmarks) -> dict[int, str]:
    questions = textvqa.read_questions(benchmarks.textvqa, benchmarks.images)
    return {index: text for some in answerer.answers(questions, 4, 8) for index, text in some.items()}


def test_it_is_made_once_while_the_weights_are_read(
    tiny_model: Path, benchmarks: Benchmarks, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, used = threading.Event(), []
    plain = inference.load_finetuned

    def load(*arguments: object) -> object:
        reading.set()
        return plain(*arguments)

    def use(fields: dict, *where: object) -> None:
        assert reading.wait(60), "nothing was read beside it"
        use_towers(fields, *where)
        used.append(where)

    monkeypatch.setattr(inference, "load_finetuned", load)
    monkeypatch.setattr(inference, "use_towers", use)
    answerer = Answerer.load(tiny_model, full_precision=True)
    found = answers_of(answerer, benchmarks)
    assert used == [(torch.device("cpu"), torch.float32)]
    assert answers_of(answerer, benchmarks) == found
    assert len(used) == 1
    assert Answerer.load(tiny_model, full_precision=True, reference_mode=True).first_use is None
    monkeypatch.setattr(inference, "SLOW_AT_FIRST", ())
    assert answers_of(Answerer.load(tiny_model, full_precision=True), benchmarks) == found
    assert len(used) == 1


def test_its_failure_is_told_only_where_the_real_use_fails_too(
    tiny_model: Path,
    benchmarks: Benchmarks,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED")

    monkeypatch.setattr(inference, "use_towers", fail)
    answerer = Answerer.load(tiny_model, full_precision=True)
    assert all(answers_of(answerer, benchmarks).values())
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(answerer.model.model, "encode_images", fail)
    with pytest.raises(RuntimeError, match="cuDNN error"):
        answers_of(answerer, benchmarks)
    assert capsys.readouterr().err == (
        "note: the GPU's first use, with zeros, failed too: RuntimeError: cuDNN error: CUDNN_STATUS_NOT_INITIALIZED\n"
    )


def test_it_makes_the_convolutions_of_both_towers(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one image: shapes, strides, layouts."""
    made: list[tuple] = []
    plain = torch.nn.functional.conv2d

    def conv2d(x: torch.Tensor, weight: torch.Tensor, *rest: object, **named: object) -> torch.Tensor:
        result = plain(x, weight, *rest, **named)
        last = x.is_contiguous(memory_format=torch.channels_last)
        made.append((tuple(x.shape), tuple(weight.shape), tuple(result.shape), last and not x.is_contiguous()))
        return result

    model = Answerer.load(tiny_model, full_precision=True).model
    side = model.config.image_size_aux
    monkeypatch.setattr(torch.nn.functional, "conv2d", conv2d)
    with torch.inference_mode():
        model.encode_images(torch.zeros(1, 3, side, side, dtype=torch.uint8))
    needed = set(made)
    made.clear()
    use_towers(read_config(tiny_model), torch.device("cpu"), torch.float32)
    assert len(needed) > 4
    assert needed <= set(made)
