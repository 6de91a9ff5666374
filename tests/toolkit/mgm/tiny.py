"""Base-model folders of a tiny MGM with random weights, for tests that need the code and not the world."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModel, GemmaConfig, GemmaForCausalLM

from toolkit.mgm.vision import ConvNeXtTower

TOKENIZER = Path(__file__).parents[2] / "parity" / "goldens" / "tiny_tokenizer"


def write_tiny_base_models(folder: Path) -> dict[str, Path]:
    """Write Gemma (2 layers x 32, vocabulary 600), CLIP (24 px, patch 8) and ConvNeXt (4 stages of 4..16 channels).

    Returns:
        paths by `build_model`'s argument names.
    """
    torch.manual_seed(7)
    llm, clip, convnext = folder / "gemma", folder / "clip", folder / "convnext"
    shutil.copytree(TOKENIZER, llm)
    gemma = GemmaForCausalLM(
        GemmaConfig(
            vocab_size=600,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
            initializer_range=0.2,
        )
    )
    gemma.save_pretrained(llm)
    tower_config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=24,
        patch_size=8,
        projection_dim=16,
    )
    tower = CLIPVisionModel(tower_config)
    clip.mkdir()
    (clip / "config.json").write_text(json.dumps(tower_config.to_dict()))
    inner = getattr(tower, "vision_model", tower)
    names = {f"vision_model.{name}": tensor for name, tensor in inner.state_dict().items()}
    save_file(names, clip / "model.safetensors", metadata={"format": "pt"})
    trunk = ConvNeXtTower(dims=[4, 8, 12, 16], depths=[1, 1, 2, 1])
    with torch.no_grad():
        for name, parameter in trunk.named_parameters():
            if name.endswith("gamma"):  # layer scale starts near zero, which would hide the blocks
                parameter.fill_(0.5)
    convnext.mkdir()
    state = {name.replace("vision_", "visual.trunk.", 1): tensor for name, tensor in trunk.state_dict().items()}
    torch.save(state, convnext / "open_clip_pytorch_model.bin")
    return {"llm": llm, "vision_tower": clip, "vision_tower_aux": convnext}
