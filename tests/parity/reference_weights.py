"""Rebuilds the tiny model the goldens were measured with: its base-model folders, by the rule in manifest.json."""

from __future__ import annotations

import json
import shutil
import zlib
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from toolkit.mgm.checkpoint import build_model
from toolkit.mgm.model import MGMGemmaForCausalLM


def rule_tensor(key: str, shape: list[int], salt: str) -> torch.Tensor:
    """Weight of the golden model for one full state-dict name."""
    if key == "lm_head.weight":
        key = "model.embed_tokens.weight"
    seed = zlib.crc32((salt + key).encode()) & 0xFFFFFFFF
    z = torch.from_numpy(np.random.RandomState(seed).standard_normal(shape).astype(np.float32))
    gemma_norm = key.endswith((".input_layernorm.weight", ".post_attention_layernorm.weight"))
    if len(shape) >= 2:
        return 0.15 * z
    if key == "model.norm.weight" or gemma_norm:
        return 0.05 * z
    if key.endswith(".gamma"):
        return 0.5 * z
    if key.endswith(".weight"):
        return 1 + 0.05 * z
    return 0.02 * z


def rule_pixels(name: str, shape: list[int], salt: str) -> torch.Tensor:
    """Random image of the goldens, by name (`main0`, `aux0`, ...)."""
    seed = zlib.crc32((salt + "pixels:" + name).encode()) & 0xFFFFFFFF
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape).astype(np.float32))


def write_base_models(goldens: Path, folder: Path) -> dict[str, Path]:
    """Write the golden model's Gemma, CLIP and OpenCLIP ConvNeXt folders, as a participant would download them.

    Returns:
        paths by `build_model`'s argument names: llm, vision_tower, vision_tower_aux.
    """
    manifest = json.loads((goldens / "manifest.json").read_text())
    weights = {k: rule_tensor(k, s, manifest["salt"]) for k, s in manifest["state_dict_finetune"].items()}
    llm, clip, convnext = folder / "gemma", folder / "clip", folder / "convnext"
    shutil.copytree(goldens / "tiny_tokenizer", llm)
    for path, config in ((llm, manifest["lm_config"]), (clip, manifest["clip_config"])):
        path.mkdir(parents=True, exist_ok=True)
        (path / "config.json").write_text(json.dumps(config))
    convnext.mkdir()
    clip_prefix, aux_prefix = "model.vision_tower.vision_tower.", "model.vision_tower_aux."
    adapter = ("model.mm_projector", "model.vlm_uni")
    language = {k: v for k, v in weights.items() if not k.startswith(("model.vision_tower", "lm_head", *adapter))}
    save_file(language, llm / "model.safetensors", metadata={"format": "pt"})
    vision = {k.removeprefix(clip_prefix): v for k, v in weights.items() if k.startswith(clip_prefix)}
    save_file(vision, clip / "model.safetensors", metadata={"format": "pt"})
    trunk = {
        k.removeprefix(aux_prefix).replace("vision_", "visual.trunk.", 1): v
        for k, v in weights.items()
        if k.startswith(aux_prefix)
    }
    torch.save(trunk, convnext / "open_clip_pytorch_model.bin")
    return {"llm": llm, "vision_tower": clip, "vision_tower_aux": convnext}


def golden_model(goldens: Path, folder: Path) -> MGMGemmaForCausalLM:
    """The golden model in fp32, loaded through the real loading code, the adapter set by the rule."""
    manifest = json.loads((goldens / "manifest.json").read_text())
    model = build_model(
        **write_base_models(goldens, folder), image_size_aux=768, max_length=2048, dtype=torch.float32, seed=1024
    )
    for name, parameter in model.adapter_parameters().items():
        parameter.data.copy_(rule_tensor(name, list(parameter.shape), manifest["salt"]))
    return model
