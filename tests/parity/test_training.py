"""The two golden runs without clipping, A0 (pre-training) and B0 (finetuning), through the kit's own training code."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.parity.reference_weights import golden_model, rule_tensor
from toolkit.dataset.rows import ImageRoots
from toolkit.files import read_json
from toolkit.mgm.checkpoint import load_tokenizer
from toolkit.mgm.model import MGMGemmaForCausalLM
from toolkit.training.data import SampleReader, scan
from toolkit.training.order import modality_grouped_order, shuffled_order, word_lengths
from toolkit.training.plan import Settings
from toolkit.training.stage import RunOptions, fit

STAGES = {"A0": "pretrain", "B0": "finetune"}
SEED = 42
TOLERANCE = 1e-3


@dataclass
class Run:
    """What one run of ours left, beside what the reference left."""

    stage: str
    golden: dict[str, Any]
    model: MGMGemmaForCausalLM
    micro_losses: list[float]
    learning_rates: list[float]
    group_sizes: list[int]


def batch_and_accumulation(golden: dict[str, Any]) -> tuple[int, int]:
    return len(golden["micro_batches"][0]["indices"]), golden["optimizer_steps"][0]["micro_batches_so_far"]


def rows_of(goldens: Path, stage: str) -> list[dict[str, Any]]:
    return json.loads((goldens / "data" / f"{stage}.json").read_text())


@pytest.fixture(scope="module", params=STAGES)
def run(request: pytest.FixtureRequest, goldens: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    stage = STAGES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    model = golden_model(goldens, folder / "base")
    reader = SampleReader(
        roots=ImageRoots(goldens, goldens),
        tokenizer=load_tokenizer(folder / "base" / "gemma"),
        image_size_aux=model.config.image_size_aux,
        aspect="square" if stage == "pretrain" else "pad",
        max_length=2048,
        image_tokens=model.image_tokens,
    )
    rows = rows_of(goldens, stage)
    assert not scan(rows, reader).faults
    golden = read_json(goldens / "training.json")[request.param]
    batch, accumulation = batch_and_accumulation(golden)
    settings = Settings(
        stage=stage,
        preset="goldens",
        batch=batch,
        accumulation=accumulation,
        processes=1,
        learning_rate=golden["param_groups"][0]["lr"],
        image_aspect_ratio=reader.aspect,
        group_by_modality_length=stage == "finetune",
        precision="fp32",
        max_length=2048,
        stochastic_depth=False,
        initialisation_seed=1024,
        order_seed=SEED,
        on_error="stop",
        images=str(goldens),
        synthetic_images=str(goldens),
    )
    losses: list[float] = []
    model.register_forward_hook(lambda _module, _inputs, output: losses.append(output.loss.item()))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    options = RunOptions(workers=0, logging_steps=1, save_steps=10**6, save_total_limit=1)
    outcome = fit(model, rows, reader, settings, options, folder / "out", save_weights=lambda _folder: None)
    torch.set_num_threads(threads)
    rates = [entry["learning_rate"] for entry in outcome.trainer.state.log_history if "loss" in entry]
    groups = [len(group["params"]) for group in outcome.trainer.optimizer.param_groups]
    return Run(stage, golden, model, losses, rates, groups)


@pytest.mark.parametrize("name", STAGES)
def test_order_of_samples(goldens: Path, name: str) -> None:
    golden = read_json(goldens / "training.json")[name]
    rows = rows_of(goldens, STAGES[name])
    if name == "A0":
        order = shuffled_order(len(rows), SEED)
    else:
        order = modality_grouped_order(word_lengths(rows), *batch_and_accumulation(golden), SEED)
    assert order == golden["order_of_dataset_reads"]


@pytest.mark.slow
def test_learning_rate_of_each_step(run: Run) -> None:
    assert run.learning_rates == pytest.approx([step["lr"] for step in run.golden["optimizer_steps"]], rel=1e-6)


@pytest.mark.slow
def test_two_parameter_groups(run: Run) -> None:
    assert run.group_sizes == [group["n"] for group in run.golden["param_groups"]]


@pytest.mark.slow
def test_loss_of_each_micro_batch(run: Run) -> None:
    expected = [micro_batch["loss"] for micro_batch in run.golden["micro_batches"]]
    assert run.micro_losses == pytest.approx(expected, rel=TOLERANCE)


@pytest.mark.slow
def test_final_parameters(run: Run) -> None:
    parameters = dict(run.model.named_parameters())
    for name, golden in run.golden["final"].items():
        tensor = parameters[name].detach().double()
        assert tensor.norm().item() == pytest.approx(golden["norm"], rel=TOLERANCE), name
        assert tensor.abs().sum().item() == pytest.approx(golden["abs_sum"], rel=TOLERANCE), name
        # Single elements are compared on the scale of the tensor's own spread.
        atol = TOLERANCE * golden["norm"] / tensor.numel() ** 0.5
        assert tensor.flatten()[:4].tolist() == pytest.approx(golden["first4"], rel=TOLERANCE, abs=atol), name


@pytest.mark.slow
def test_frozen_parameters_stay(run: Run, goldens: Path) -> None:
    manifest = read_json(goldens / "manifest.json")
    frozen = {name: parameter for name, parameter in run.model.named_parameters() if not parameter.requires_grad}
    assert set(frozen) == set(manifest[f"frozen_{run.stage}"])
    for name, parameter in frozen.items():
        assert torch.equal(parameter, rule_tensor(name, list(parameter.shape), manifest["salt"])), name
