"""A GPU's fast paths, on the CPU: equal to the plain path, whole graphs, no compilation for every new length."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from tests.toolkit.mgm.tiny import write_tiny_base_models
from toolkit.mgm.checkpoint import build_model
from toolkit.mgm.conversation import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from toolkit.mgm.model import MGMGemmaForCausalLM
from toolkit.training.data import Collator
from toolkit.training.speed import regions
from toolkit.training.speed.decoder import Decoder, supervised_loss
from toolkit.training.speed.packing import PackedDecoder

GPU = torch.device("cuda")  # nothing is sent there
LONG = (regions.WORTH_COMPILING, regions.SMALLEST_BATCH)
QUESTION = [2, 4, 9, IMAGE_TOKEN_INDEX, 30]
WITHOUT_IMAGE = [2, 4, 17]


@pytest.fixture
def model(tmp_path: Path) -> MGMGemmaForCausalLM:
    model = build_model(
        **write_tiny_base_models(tmp_path / "base"), image_size_aux=96, max_length=24, dtype=torch.float32, seed=1024
    )
    return model.train()


def batch_of(model: MGMGemmaForCausalLM, answers: list[int], text_only: int = 0) -> dict:
    """A micro-batch of images with answers of these lengths, then of samples without an image."""
    generator = torch.Generator().manual_seed(3)
    samples = []
    for number, length in enumerate([*answers, *[3] * text_only]):
        asked = QUESTION if number < len(answers) else WITHOUT_IMAGE
        answer = torch.randint(5, 600, (length,), generator=generator).tolist()
        sample = {"input_ids": asked + answer, "labels": [IGNORE_INDEX] * len(asked) + answer}
        if number < len(answers):
            sample["pixels"] = torch.randint(0, 256, (3, 96, 96), dtype=torch.uint8, generator=generator)
        samples.append(sample)
    return Collator(0, model.image_tokens, 24, packed=True)(samples)


def loss_and_gradients(model: MGMGemmaForCausalLM, batch: dict) -> list[torch.Tensor]:
    torch.manual_seed(5)  # of stochastic depth
    model.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


BATCHES = {"lengths": ([3, 7, 1], 0), "cut": ([30, 2], 1), "alone": ([5], 0), "text": ([], 2)}


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
@pytest.mark.parametrize("shape", BATCHES)
def test_without_padding_and_by_regions_it_is_the_same_training(
    model: MGMGemmaForCausalLM, stage: str, shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with gradient checkpointing, and with stochastic depth of the same draws."""
    model.set_trainable(stage)
    batch = batch_of(model, *BATCHES[shape])
    plain = loss_and_gradients(model, batch)
    compile_nothing(monkeypatch)
    regions.speed_up(model, GPU, *LONG, say=pytest.fail)
    fast = loss_and_gradients(model, batch)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for found in (fast, loss_and_gradients(model, batch)):
        for one, other in zip(plain, found, strict=True):
            torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-6)


def compile_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regions, "fault_of_compiler", lambda _: None)
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)


def test_regions_are_whole_graphs_compiled_once(model: MGMGemmaForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """fullgraph refuses a break; new lengths and counts of images need nothing new."""
    counters: dict[str, CompileCounterWithBackend] = {}
    compile = torch.compile

    def counted(function: Callable, **options: object) -> Callable:
        counters[function.__name__] = CompileCounterWithBackend("eager")
        return compile(function, backend=counters[function.__name__], **options)

    monkeypatch.setattr(regions, "fault_of_compiler", lambda _: None)
    monkeypatch.setattr(torch, "compile", counted)
    regions.speed_up(model, GPU, *LONG, say=pytest.fail)
    model.set_trainable("finetune")
    loss_and_gradients(model, batch_of(model, [3, 7, 1]))
    first = {name: counter.frame_count for name, counter in counters.items()}
    assert first == dict.fromkeys(first, 1) | {"convnext_branch": 4}  # one for each stage
    loss_and_gradients(model, batch_of(model, [2, 5, 9, 4], text_only=1))
    loss_and_gradients(model, batch_of(model, [], text_only=3))
    assert {name: counter.frame_count for name, counter in counters.items()} == first


def test_maps_that_patches_cannot_share_stay_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compile_nothing(monkeypatch)
    sizes = {"image_size_aux": 48, "max_length": 24, "dtype": torch.float32, "seed": 1024}
    model = build_model(**write_tiny_base_models(tmp_path / "base"), **sizes)
    regions.speed_up(model, GPU, *LONG, say=pytest.fail)
    assert "encode_images" not in vars(model.model)


def test_what_would_not_pay_is_not_compiled(model: MGMGemmaForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short training, and a micro-batch that the GPU is done with before the host."""
    monkeypatch.setattr(torch, "compile", pytest.fail)
    samples, batch = LONG
    for less in ((samples - 1, batch), (samples, batch - 1)):
        regions.speed_up(model, GPU, *less, say=pytest.fail)
        assert isinstance(model.decoder, PackedDecoder)


def test_on_a_cpu_every_bit_stays(model: MGMGemmaForCausalLM) -> None:
    """Against Gemma's own forward, which makes a mask."""
    model.set_trainable("finetune")
    regions.speed_up(model, torch.device("cpu"), *LONG, say=pytest.fail)
    assert isinstance(model.decoder, Decoder)
    batch = batch_of(model, [3, 7, 1], text_only=1)
    fast = loss_and_gradients(model, batch)

    def masked(model: MGMGemmaForCausalLM, table: torch.Tensor, expansion: dict) -> torch.Tensor:
        embedded = table[expansion["source"]]
        mask = expansion["source"] != len(table) - 1
        hidden = model.model(inputs_embeds=embedded, attention_mask=mask, use_cache=False)[0]
        rows, places = hidden.flatten(0, 1), expansion["supervised"]
        return supervised_loss(rows[places], model.lm_head.weight, expansion["labels"].flatten()[places + 1])

    model.decoder = masked
    for one, other in zip(loss_and_gradients(model, batch), fast, strict=True):
        assert torch.equal(one, other)


def test_without_a_compiler_padding_goes_all_the_same(
    model: MGMGemmaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_compiler(*_: object, **__: object) -> None:
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC environment variable.")

    monkeypatch.setattr(torch, "compile", no_compiler)
    lines: list[str] = []
    regions.speed_up(model, GPU, *LONG, say=lines.append)
    (line,) = lines
    assert "without compiled kernels" in line
    assert "Failed to find C compiler. Please specify" in line
    assert model.decoder is not None
    assert "encode_images" not in vars(model.model)
