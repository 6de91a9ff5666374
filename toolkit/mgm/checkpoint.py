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

import json
import os
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import init_empty_weights
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from toolkit.errors import UserError
from toolkit.files import read_json, write_json
from toolkit.mgm.model import MGMConfig, MGMGemmaForCausalLM

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
        UserError: a folder or a weight is missing.
    """
    vision_config = _clip_fields(read_json(vision_tower / "config.json"))
    convnext = {f"{CONVNEXT_PREFIX}{name}": tensor for name, tensor in _convnext_weights(vision_tower_aux)}
    dims, depths = _convnext_sizes(convnext)
    config = MGMConfig(
        **{k: v for k, v in read_json(llm / "config.json").items() if k not in ("model_type", "architectures")},
        **PUBLISHED_FIELDS,
        vision_config=vision_config,
        vision_config_aux={"dims": dims, "depths": depths},
        image_size_aux=image_size_aux,
        tokenizer_model_max_length=max_length,
        mm_hidden_size=vision_config["hidden_size"],
        mm_hidden_size_aux=sum(dims),
        mm_vision_tower=os.path.relpath(vision_tower),
        mm_vision_tower_aux=os.path.relpath(vision_tower_aux),
    )
    config.name_or_path = os.path.relpath(llm)
    model = _empty_model(config)
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
    fields = read_json(folder / "config.json")
    if fields.pop("model_type", None) != MGMConfig.model_type:
        raise UserError(f"{folder}/config.json: not an MGM-Gemma checkpoint (model_type is not {MGMConfig.model_type})")
    weights = dict(read_weights(folder))
    if not any(name.startswith(CONVNEXT_PREFIX) for name in weights):
        # A published checkpoint may leave the frozen aux tower to its own folder.
        aux_folder = Path(fields["mm_vision_tower_aux"])
        weights |= {f"{CONVNEXT_PREFIX}{name}": tensor for name, tensor in _convnext_weights(aux_folder)}
    dims, depths = _convnext_sizes(weights)
    fields["vision_config_aux"] = {"dims": dims, "depths": depths}
    tower = Path(fields["mm_vision_tower"], "config.json")
    if "vision_config" not in fields and tower.is_file():
        fields["vision_config"] = _clip_fields(read_json(tower))
    model = _empty_model(MGMConfig(**fields))
    _fill(model, weights, dtype, str(folder), may_lack=set())
    return model.eval()


def save_finetuned(model: MGMGemmaForCausalLM, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a whole model as numbered safetensors shards with an index, its configuration and its tokenizer."""
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
    """Write `mm_projector.bin`: a plain state dict of exactly the 16 adapter tensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    torch.save({name: value.detach().cpu().clone() for name, value in model.adapter_parameters().items()}, temporary)
    os.replace(temporary, path)


def load_adapter(model: MGMGemmaForCausalLM, path: Path) -> None:
    """Read `mm_projector.bin` into a model; tower weights that published files also hold are ignored.

    Raises:
        UserError: the file is missing, no plain state dict, or lacks or misshapes a tensor.
    """
    saved = _read_pickle(path)
    for name, parameter in model.adapter_parameters().items():
        if name not in saved or saved[name].shape != parameter.shape:
            raise UserError(f"{path}: {name} is missing or not of shape {list(parameter.shape)}")
        parameter.data.copy_(saved[name])


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Gemma's tokenizer from a local folder.

    Raises:
        UserError: there is none.
    """
    if not (folder / "tokenizer_config.json").is_file():
        raise UserError(f"{folder}: no tokenizer there (tokenizer_config.json is missing)")
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def read_weights(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of a checkpoint folder: safetensors before pickles, shards by their index where there is one.

    Raises:
        UserError: the folder holds no weights.
    """
    for pattern, stem in (("*.safetensors", "model.safetensors"), ("*.bin", "pytorch_model.bin")):
        index = folder / f"{stem}.index.json"
        if index.is_file():
            files = sorted({folder / name for name in json.loads(index.read_text())["weight_map"].values()})
        else:
            files = sorted(path for path in folder.glob(pattern) if path.name not in ("training_args.bin",))
        for path in files:
            if path.suffix == ".bin":
                yield from _read_pickle(path).items()
            else:
                yield from _read_safetensors(path)
        if files:
            return
    raise UserError(f"{folder}: no model weights there (*.safetensors or *.bin)")


def _read_safetensors(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    if not path.is_file():
        raise UserError(f"{path}: listed in the index but missing")
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 (no mapping)
            yield name, file.get_tensor(name)


def _read_pickle(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError):
        raise UserError(f"{path}: not a plain state dict (read with weights_only; download it again)") from None


def _clip_fields(config: dict) -> dict:
    """The vision half of a CLIPModel's or CLIPVisionModel's config.json."""
    fields = config.get("vision_config", config)
    return {name: value for name, value in fields.items() if name not in ("transformers_version", "_name_or_path")}


def _convnext_weights(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    for name, tensor in read_weights(folder):
        match = re.fullmatch(r"(?:visual\.trunk\.)?(stem|stages)\.(.+)", name)
        if match:
            yield f"vision_{match[1]}.{match[2]}", tensor


def _convnext_sizes(weights: dict[str, torch.Tensor]) -> tuple[list[int], list[int]]:
    """(dims, depths), read off the layer scales: one a block."""
    dims: list[int] = []
    depths: list[int] = []
    for stage in range(len(weights)):
        blocks = [t for n, t in weights.items() if re.search(rf"vision_stages\.{stage}\.blocks\.\d+\.gamma$", n)]
        if not blocks:
            break
        dims.append(len(blocks[0]))
        depths.append(len(blocks))
    return dims, depths


def _empty_model(config: MGMConfig) -> MGMGemmaForCausalLM:
    """A model whose parameters take no memory yet; its buffers are real."""
    with init_empty_weights(include_buffers=False):
        return MGMGemmaForCausalLM(config)


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
