"""The arithmetic of a step: plain mean of micro-batch means, warm-up from zero, no clipping; against a plain loop."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from tests.toolkit.training.conftest import IMAGE_SIZE_AUX, SmallWorld
from toolkit.dataset.rows import ImageRoots
from toolkit.errors import UserError
from toolkit.mgm.checkpoint import build_model, load_tokenizer
from toolkit.mgm.model import MGMGemmaForCausalLM
from toolkit.presets import load_preset
from toolkit.training import stage
from toolkit.training.data import Collator, SampleReader, TrainingSet
from toolkit.training.order import shuffled_order
from toolkit.training.plan import Settings
from toolkit.training.stage import RunOptions, fit

SETTINGS = Settings(
    stage="pretrain",
    preset="small",
    batch=2,
    accumulation=3,
    processes=1,
    learning_rate=1e-2,
    image_aspect_ratio="square",
    group_by_modality_length=False,
    precision="fp32",
    max_length=128,
    stochastic_depth=False,
    initialisation_seed=1024,
    order_seed=42,
    on_error="stop",
    images="",
    synthetic_images="",
)
OPTIONS = RunOptions(workers=0, logging_steps=1, save_steps=100, save_total_limit=1)


def model_of(small_world: SmallWorld) -> MGMGemmaForCausalLM:
    preset = load_preset(str(small_world.preset))
    return build_model(
        llm=preset.llm,
        vision_tower=preset.vision_tower,
        vision_tower_aux=preset.vision_tower_aux,
        image_size_aux=IMAGE_SIZE_AUX,
        max_length=128,
        dtype=torch.float32,
        seed=1024,
    )


def reader_of(small_world: SmallWorld) -> SampleReader:
    tokenizer = load_tokenizer(load_preset(str(small_world.preset)).llm)
    roots = ImageRoots(small_world.images, small_world.images)
    return SampleReader(roots, tokenizer, IMAGE_SIZE_AUX, "square", 128, 4)


def test_a_step_averages_the_means_of_its_micro_batches(small_world: SmallWorld, tmp_path: Path) -> None:
    rows, reader = small_world.rows()[:18], reader_of(small_world)
    trained = model_of(small_world)
    outcome = fit(trained, rows, reader, SETTINGS, OPTIONS, tmp_path, save_weights=lambda _folder: None)
    logged = [entry["loss"] for entry in outcome.trainer.state.log_history if "loss" in entry]

    model = model_of(small_world)
    model.set_trainable("pretrain")
    model.set_stochastic_depth(False)
    model.train()
    optimizer = torch.optim.AdamW(model.adapter_parameters().values(), weight_decay=0.0)
    order, dataset = shuffled_order(18, 42), TrainingSet(rows, reader)
    collate = Collator(0, reader.image_tokens, reader.max_length)
    expected, weighted = [], []
    for step, rate in enumerate([0.0, 1e-2, 0.5e-2]):
        optimizer.param_groups[0]["lr"] = rate
        losses, tokens = [], []
        for start in range(6 * step, 6 * step + 6, 2):
            batch = collate([dataset[index] for index in order[start : start + 2]])
            loss = model(**batch).loss
            (loss / 3).backward()
            losses.append(loss.detach())
            tokens.append((batch["labels"] != -100).sum())
        optimizer.step()
        optimizer.zero_grad()
        expected.append(torch.stack(losses).mean().item())
        weighted.append(((torch.stack(losses) * torch.stack(tokens)).sum() / sum(tokens)).item())

    assert logged == pytest.approx(expected, rel=1e-5)
    assert all(abs(mean - other) > 1e-3 for mean, other in zip(expected, weighted, strict=True)), "the two must differ"
    for name, parameter in trained.adapter_parameters().items():
        torch.testing.assert_close(parameter, model.adapter_parameters()[name], rtol=1e-4, atol=1e-5)


def test_stochastic_depth_is_on_unless_switched_off(small_world: SmallWorld, tmp_path: Path) -> None:
    rows, reader = small_world.rows()[:6], reader_of(small_world)
    losses = {}
    for on in (True, False):
        settings = dataclasses.replace(SETTINGS, stochastic_depth=on)
        folder = tmp_path / str(on)
        outcome = fit(model_of(small_world), rows, reader, settings, OPTIONS, folder, lambda _folder: None)
        losses[on] = outcome.trainer.state.log_history[0]["loss"]
    assert losses[True] != losses[False]


def test_no_checkpoint_is_written_where_the_result_comes_next(small_world: SmallWorld, tmp_path: Path) -> None:
    """After the last step: 41 GB of MGM-2B's. Those due before it stay."""
    options = dataclasses.replace(OPTIONS, save_steps=2)
    rows, reader = small_world.rows()[:18], reader_of(small_world)
    fit(model_of(small_world), rows, reader, SETTINGS, options, tmp_path, save_weights=lambda _folder: None)
    assert [folder.name for folder in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]


def test_a_cpu_keeps_freed_memory_but_in_reference_mode(
    small_world: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = []
    monkeypatch.setattr(stage, "keep_freed_memory", lambda: kept.append(True))
    for reference, expected in ((True, []), (False, [True])):
        options = dataclasses.replace(OPTIONS, reference_mode=reference)
        fit(model_of(small_world), small_world.rows(), reader_of(small_world), SETTINGS, options, tmp_path, print)
        assert kept == expected


def test_too_few_rows_for_one_step_are_refused(small_world: SmallWorld, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="4 rows make no pretrain step: one takes 6"):
        fit(model_of(small_world), small_world.rows()[:4], reader_of(small_world), SETTINGS, OPTIONS, tmp_path, print)


@pytest.mark.parametrize("logging_steps", [1, 1000])
def test_a_loss_that_is_no_number_stops_training_at_its_step(
    small_world: SmallWorld, tmp_path: Path, logging_steps: int
) -> None:
    """Before a weight is changed by it or anything is saved, whether or not the step is logged."""
    model, saved = model_of(small_world), []
    model.model.mm_projector[0].bias.data.fill_(torch.nan)
    options = dataclasses.replace(OPTIONS, logging_steps=logging_steps, save_steps=1)
    with pytest.raises(UserError, match="loss is nan at step 1"):
        fit(model, small_world.rows(), reader_of(small_world), SETTINGS, options, tmp_path, saved.append)
    assert saved == []
    assert not list(tmp_path.rglob("checkpoint-*"))


def test_a_temporary_folder_too_long_for_sockets_is_refused(
    small_world: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers would fail to hand over their first batch, and training would wait for it for ever."""
    monkeypatch.setattr("tempfile.tempdir", f"/{'x' * 80}")
    options = dataclasses.replace(OPTIONS, workers=1)
    with pytest.raises(UserError, match=r"TMPDIR=/xxx.*at most 75 bytes"):
        fit(model_of(small_world), small_world.rows(), reader_of(small_world), SETTINGS, options, tmp_path, print)
