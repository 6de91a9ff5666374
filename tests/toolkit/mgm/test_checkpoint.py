"""Files in and out: base models, adapters, finetuned folders, and what is refused."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.toolkit.mgm.test_model import IMAGE, images, pad
from toolkit.errors import UserError
from toolkit.mgm.checkpoint import (
    build_model,
    load_adapter,
    load_finetuned,
    load_tokenizer,
    save_adapter,
    save_finetuned,
)
from toolkit.mgm.model import MGMGemmaForCausalLM

SIZES = {"image_size_aux": 48, "max_length": 64, "dtype": torch.float32}


def test_adapter_round_trip_ignores_towers(
    model: MGMGemmaForCausalLM, base_models: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "mm_projector.bin"
    save_adapter(model, path)
    saved = torch.load(path, weights_only=True)
    assert len(saved) == 16
    # The reference's files hold both towers too.
    torch.save(saved | {"model.vision_tower.vision_tower.x": torch.zeros(1)}, path)
    other = build_model(**base_models, **SIZES, seed=5)
    assert not torch.equal(other.model.mm_projector[0].weight, model.model.mm_projector[0].weight)
    load_adapter(other, path)
    for name, parameter in model.adapter_parameters().items():
        assert torch.equal(other.adapter_parameters()[name], parameter), name


def test_finetuned_round_trip_answers_the_same(model: MGMGemmaForCausalLM, base_models: dict, tmp_path: Path) -> None:
    folder = tmp_path / "MGM-2B-Finetune-x"
    save_finetuned(model, load_tokenizer(base_models["llm"]), folder)
    names = sorted(os.listdir(folder))
    assert "model-00001-of-00001.safetensors" in names
    assert "model.safetensors.index.json" in names
    weights = load_file(folder / "model-00001-of-00001.safetensors")
    assert "lm_head.weight" not in weights
    again = load_finetuned(folder, torch.float32)
    assert torch.equal(again(**pad([IMAGE]), **images(1)).logits, model(**pad([IMAGE]), **images(1)).logits)
    assert load_tokenizer(folder)("x").input_ids == load_tokenizer(base_models["llm"])("x").input_ids


def test_published_folder_without_sizes_or_aux_tower(
    model: MGMGemmaForCausalLM, base_models: dict, tmp_path: Path
) -> None:
    """A published config.json names the towers' folders only, and the aux weights may lie there alone."""
    save_finetuned(model, load_tokenizer(base_models["llm"]), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["vision_config"], config["vision_config_aux"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    shard = tmp_path / "model-00001-of-00001.safetensors"
    save_file({k: v for k, v in load_file(shard).items() if "vision_tower_aux" not in k}, shard)
    again = load_finetuned(tmp_path, torch.float32)
    assert torch.equal(again(**pad([IMAGE]), **images(1)).logits, model(**pad([IMAGE]), **images(1)).logits)


def test_fresh_adapter_follows_the_seed(base_models: dict[str, Path]) -> None:
    one, same, other = (build_model(**base_models, **SIZES, seed=seed) for seed in (1, 1, 2))
    weight = one.model.mm_projector[0].weight
    assert torch.equal(weight, same.model.mm_projector[0].weight)
    assert not torch.equal(weight, other.model.mm_projector[0].weight)
    # torch's default for a Linear of 16 inputs: uniform within 1 / sqrt(16).
    assert 0.2 < weight.abs().max() <= 0.25
    assert torch.equal(one.model.vlm_uni_val_projector[0].weight, torch.ones(40))


def test_lm_head_stays_tied(model: MGMGemmaForCausalLM) -> None:
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()


def test_refusals_name_the_file(model: MGMGemmaForCausalLM, base_models: dict, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_adapter(model, tmp_path / "absent.bin")
    hostile = tmp_path / "hostile.bin"
    hostile.write_bytes(pickle.dumps(os.system, protocol=2))
    with pytest.raises(UserError, match="not a plain state dict"):
        load_adapter(model, hostile)
    partial = tmp_path / "partial.bin"
    torch.save({"model.mm_projector.0.weight": torch.zeros(1)}, partial)
    with pytest.raises(UserError, match=r"mm_projector\.0\.weight"):
        load_adapter(model, partial)
    with pytest.raises(UserError, match="not an MGM-Gemma checkpoint"):
        load_finetuned(base_models["llm"], torch.float32)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no model weights"):
        build_model(**base_models | {"llm": _with_config(tmp_path / "empty", base_models["llm"])}, **SIZES, seed=1)


def _with_config(folder: Path, source: Path) -> Path:
    (folder / "config.json").write_bytes((source / "config.json").read_bytes())
    return folder
