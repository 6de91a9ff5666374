"""Files of MGM: base models in, adapters and finetuned models in and out, in the published layouts.

| file | content |
|---|---|
| Gemma folder | `model.*` in safetensors or .bin, sharded or not |
| CLIP folder | `vision_model.*` (a CLIPModel or CLIPVisionModel) |
| OpenCLIP ConvNeXt folder | `open_clip_pytorch_model.bin` or safetensors, timm's names under `visual.trunk.` |
| `mm_projector.bin` | the 16 adapter tensors; published files hold both towers too, which are ignored |
| MGM folder | `model-0000k-of-0000n.safetensors` with index, config.json, tokenizer |
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors.torch import save_file
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from toolkit.errors import UserError
from toolkit.files import write_json
from toolkit.mgm.model import MGMConfig, MGMGemmaForCausalLM
from toolkit.weights import (
    AGAIN,
    convnext_sizes,
    first_line,
    read_clip_config,
    read_config,
    read_convnext,
    read_pickle,
    read_weights,
    require_finite,
    require_tokenizer_files,
)

SHARD_BYTES = 5_000_000_000
CLIP_PREFIX = "model.vision_tower.vision_tower."
CONVNEXT_PREFIX = "model.vision_tower_aux."

# Fields of the published config.json that describe choices the challenge fixes.
PUBLISHED_FIELDS = {
    "freeze_mm_mlp_adapter": False,
    "image_global": False,
    "image_grid": 1,
    "image_grid_pinpoints": None,
    "mm_projector_lr": None,
    "mm_projector_type": "mlp2x_gelu",
    "mm_use_im_patch_token": False,
    "mm_use_im_start_end": False,
    "mm_vision_select_feature": "patch",
    "optimize_vision_tower": False,
    "optimize_vision_tower_aux": False,
    "tokenizer_padding_side": "right",
    "use_mm_proj": True,
}


def build_model(
    llm: Path,
    vision_tower: Path,
    vision_tower_aux: Path,
    image_size_aux: int,
    max_length: int,
    dtype: torch.dtype,
    seed: int,
) -> MGMGemmaForCausalLM:
    """MGM from its base models, with a new adapter.

    Args:
        llm, vision_tower, vision_tower_aux: folders, see the table above.
        image_size_aux: px of the aux tower's input.
        max_length: tokens of a sample after expansion.
        dtype: of all weights.
        seed: the adapter is initialised by torch's defaults after this seed.

    Raises:
        UserError: a folder or a weight is missing, or a file is damaged.
    """
    vision_config = read_clip_config(vision_tower)
    convnext = {f"{CONVNEXT_PREFIX}{name}": tensor for name, tensor in read_convnext(vision_tower_aux)}
    dims, depths = convnext_sizes(convnext)
    fields = {k: v for k, v in read_config(llm).items() if k not in ("model_type", "architectures")}
    fields |= PUBLISHED_FIELDS | {
        "vision_config": vision_config,
        "vision_config_aux": {"dims": dims, "depths": depths},
        "image_size_aux": image_size_aux,
        "tokenizer_model_max_length": max_length,
        "mm_hidden_size": vision_config.get("hidden_size"),
        "mm_hidden_size_aux": sum(dims),
        "mm_vision_tower": os.path.relpath(vision_tower),
        "mm_vision_tower_aux": os.path.relpath(vision_tower_aux),
    }
    model = _empty_model(fields, f"{llm / 'config.json'}, {vision_tower / 'config.json'}")
    model.config.name_or_path = os.path.relpath(llm)
    weights = dict(read_weights(llm)) | convnext
    for name, tensor in read_weights(vision_tower):
        if name.startswith("vision_model."):
            weights[CLIP_PREFIX + name] = tensor
    torch.manual_seed(seed)
    model.model.build_adapter()
    _fill(model, weights, dtype, f"{llm}, {vision_tower}, {vision_tower_aux}", may_lack=set(model.adapter_parameters()))
    return model


def load_finetuned(folder: Path, dtype: torch.dtype) -> MGMGemmaForCausalLM:
    """A finetuned or published MGM folder.

    Raises:
        UserError: the folder is no MGM checkpoint, or a weight is missing.
    """
    fields = read_config(folder)
    if fields.pop("model_type", None) != MGMConfig.model_type:
        raise UserError(f"{folder}/config.json: not an MGM-Gemma checkpoint (model_type is not {MGMConfig.model_type})")
    weights = dict(read_weights(folder))
    if not any(name.startswith(CONVNEXT_PREFIX) for name in weights):
        # A published checkpoint may leave the frozen aux tower to its own folder.
        aux_folder = Path(str(fields.get("mm_vision_tower_aux")))
        weights |= {f"{CONVNEXT_PREFIX}{name}": tensor for name, tensor in read_convnext(aux_folder)}
    dims, depths = convnext_sizes(weights)
    fields["vision_config_aux"] = {"dims": dims, "depths": depths}
    tower = Path(str(fields.get("mm_vision_tower")))
    if "vision_config" not in fields and (tower / "config.json").is_file():
        fields["vision_config"] = read_clip_config(tower)
    model = _empty_model(fields, str(folder / "config.json"))
    _fill(model, weights, dtype, str(folder), may_lack=set())
    return model.eval()


def save_finetuned(model: MGMGemmaForCausalLM, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a whole model as numbered safetensors shards with an index, its configuration and its tokenizer.

    Raises:
        UserError: a weight is not finite; nothing is written.
    """
    require_finite(model.state_dict(), str(folder), "training has failed, the model is not saved")
    folder.mkdir(parents=True, exist_ok=True)
    save_config(model, folder)
    model.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    shards: list[dict[str, torch.Tensor]] = [{}]
    size = 0
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":  # tied to the embedding
            continue
        if size + tensor.nbytes > SHARD_BYTES and shards[-1]:
            shards.append({})
            size = 0
        shards[-1][name] = tensor.detach().cpu().contiguous()
        size += tensor.nbytes
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        temporary = folder / f".{name}"
        save_file(shard, temporary, metadata={"format": "pt"})
        os.chmod(temporary, 0o644)  # safetensors makes private files
        os.replace(temporary, folder / name)
        weight_map |= dict.fromkeys(shard, name)
    total = sum(tensor.nbytes for shard in shards for tensor in shard.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    write_json(folder / "model.safetensors.index.json", index)


def save_config(model: MGMGemmaForCausalLM, folder: Path) -> None:
    """Write config.json with the published field names."""
    fields = model.config.to_dict()
    fields |= {
        "_name_or_path": model.config.name_or_path,
        "architectures": [type(model).__name__],
        "model_type": MGMConfig.model_type,
        "torch_dtype": str(model.dtype).removeprefix("torch."),
    }
    fields.pop("dtype", None)
    write_json(folder / "config.json", dict(sorted(fields.items())))


def save_adapter(model: MGMGemmaForCausalLM, path: Path) -> None:
    """Write `mm_projector.bin`: a plain state dict of exactly the 16 adapter tensors.

    Raises:
        UserError: one is not finite; nothing is written.
    """
    require_finite(model.adapter_parameters(), str(path), "training has failed, the adapter is not saved")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    torch.save({name: value.detach().cpu().clone() for name, value in model.adapter_parameters().items()}, temporary)
    os.replace(temporary, path)


def load_adapter(model: MGMGemmaForCausalLM, path: Path) -> None:
    """Read `mm_projector.bin` into a model; tower weights that published files also hold are ignored.

    Raises:
        UserError: the file is missing, no plain state dict, or lacks or misshapes a tensor, or one is not finite.
    """
    saved = read_pickle(path)
    require_finite(saved, str(path), "the training that made this adapter has failed; pre-train again")
    for name, parameter in model.adapter_parameters().items():
        if name not in saved or saved[name].shape != parameter.shape:
            raise UserError(f"{path}: {name} is missing or not of shape {list(parameter.shape)}")
        parameter.data.copy_(saved[name])


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Gemma's tokenizer from a local folder.

    Raises:
        UserError: there is none, or a file of it is damaged.
    """
    require_tokenizer_files(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if None in (tokenizer.pad_token_id, tokenizer.eos_token_id):
            raise ValueError("it lacks <pad> or <eos>")
    except Exception as error:  # tokenizers raises bare Exceptions, transformers nearly every other kind
        raise UserError(f"{folder}: its tokenizer is damaged ({first_line(error)}); {AGAIN}") from None
    return tokenizer


def _empty_model(fields: dict[str, Any], source: str) -> MGMGemmaForCausalLM:
    """A model whose parameters take no memory yet; its buffers are real."""
    try:
        with init_empty_weights(include_buffers=False):
            return MGMGemmaForCausalLM(MGMConfig(**fields))
    except Exception as error:  # a figure of a damaged configuration may stop any layer
        raise UserError(f"{source}: these settings make no model ({first_line(error)}); {AGAIN}") from None


def _fill(
    model: MGMGemmaForCausalLM, weights: dict[str, torch.Tensor], dtype: torch.dtype, source: str, may_lack: set[str]
) -> None:
    expected = model.state_dict()
    weights = {name: tensor.to(dtype) for name, tensor in weights.items() if name in expected}
    for name, tensor in weights.items():
        if tensor.shape != expected[name].shape:
            raise UserError(f"{source}: {name} is {list(tensor.shape)}, expected {list(expected[name].shape)}")
    if missing := set(expected) - set(weights) - may_lack - {"lm_head.weight"}:
        raise UserError(f"{source}: {len(missing)} weights are missing, such as {min(missing)}")
    weights.pop("lm_head.weight", None)
    model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()
    model.to(dtype)
