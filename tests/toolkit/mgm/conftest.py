"""A tiny MGM with random weights, written and loaded as base-model folders."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.toolkit.mgm.tiny import write_tiny_base_models
from toolkit.mgm.checkpoint import build_model
from toolkit.mgm.model import MGMGemmaForCausalLM


@pytest.fixture
def base_models(tmp_path: Path) -> dict[str, Path]:
    """Folders by `build_model`'s argument names."""
    return write_tiny_base_models(tmp_path / "base")


@pytest.fixture
def model(base_models: dict[str, Path]) -> MGMGemmaForCausalLM:
    """Tiny MGM in evaluation mode: 9 tokens per image, 64 px aux input, 50 words."""
    model = build_model(**base_models, image_size_aux=48, max_length=64, dtype=torch.float32, seed=1024)
    return model.eval()
