"""What lies in a finetuned folder and in mm_projector.bin, against the reference's files."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open

from tests.parity.reference_weights import golden_model
from toolkit.mgm.checkpoint import load_tokenizer, save_adapter, save_finetuned

# transformers' own, which its later versions spell otherwise or leave out.
NOT_OURS = {"rope_theta", "transformers_version"}
# Set by the stage that saves, see tests/parity/test_training.py.
BY_STAGE = {"image_aspect_ratio", "tune_mm_mlp_adapter"}


def test_keys_and_config_fields(goldens: Path, tmp_path: Path) -> None:
    golden = json.loads((goldens / "artefacts.json").read_text())
    model = golden_model(goldens, tmp_path / "base")
    save_finetuned(model, load_tokenizer(goldens / "tiny_tokenizer"), tmp_path)
    with safe_open(tmp_path / "model-00001-of-00001.safetensors", framework="pt") as file:
        shapes = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no mapping)
    assert shapes == {name: shape for name, (_, shape) in golden["C"]["model_safetensors"].items()}

    ours, published = json.loads((tmp_path / "config.json").read_text()), golden["C"]["config_json"]
    assert set(published) - set(ours) - BY_STAGE - NOT_OURS == set()
    paths = {"_name_or_path", "mm_vision_tower", "mm_vision_tower_aux"}
    differing = {k for k in set(published) & set(ours) if ours[k] != published[k]} - paths - NOT_OURS
    assert differing == set()

    save_adapter(model, tmp_path / "mm_projector.bin")
    saved = torch.load(tmp_path / "mm_projector.bin", weights_only=True)
    adapter = {k: v for k, v in golden["A0"]["mm_projector_bin"].items() if "vision_tower" not in k}
    shapes = {name: list(tensor.shape) for name, tensor in saved.items()}
    assert shapes == {name: shape for name, (_, shape) in adapter.items()}
