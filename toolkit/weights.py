"""Files of weights and configurations as model folders hold them, read so that a damaged one is named in one line.

torch is imported by the functions that read weights: commands that only read configurations start without it.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from toolkit.errors import UserError
from toolkit.files import read_json, require_file

if TYPE_CHECKING:
    import torch

MESSAGE_LENGTH = 160  # characters of a library's message that are shown
AGAIN = "bring the file again, or remove the folder if a run made it, and run again"
TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json", "special_tokens_map.json", "added_tokens.json")


def read_config(folder: Path) -> dict[str, Any]:
    """A model folder's `config.json`.

    Raises:
        UserError: it is missing or damaged.
    """
    config = read_json(folder / "config.json")
    if not isinstance(config, dict) or not config:
        raise UserError(f"{folder / 'config.json'}: damaged, no JSON object with settings; {AGAIN}")
    return config


def read_clip_config(folder: Path) -> dict[str, Any]:
    """The vision half of a CLIPModel's or CLIPVisionModel's `config.json`.

    Raises:
        UserError: it is missing or damaged.
    """
    config = read_config(folder)
    fields = config.get("vision_config", config)
    if not isinstance(fields, dict):
        raise UserError(f"{folder / 'config.json'}: vision_config must be an object, found {fields!r:.80}")
    return {name: value for name, value in fields.items() if name not in ("transformers_version", "_name_or_path")}


def image_tokens_of(vision_tower: Path) -> int:
    """How many tokens an image takes (576 in MGM-2B), by the `config.json` of the main tower's folder.

    Raises:
        UserError: it is missing or damaged.
    """
    config = read_clip_config(vision_tower)
    pixels = [config.get(name) for name in ("image_size", "patch_size")]
    match pixels:
        case [int(image), int(patch)] if image >= patch > 0:
            return (image // patch) ** 2
    raise UserError(f"{vision_tower / 'config.json'}: image_size and patch_size must be whole numbers, found {pixels}")


def weight_files(folder: Path) -> list[Path]:
    """Files of a checkpoint folder's weights: safetensors before pickles, shards by their index where there is one.

    Raises:
        UserError: the folder holds no weights, the index is damaged, or a file that it lists is missing.
    """
    for pattern, stem in (("*.safetensors", "model.safetensors"), ("*.bin", "pytorch_model.bin")):
        index = folder / f"{stem}.index.json"
        if not index.is_file():
            files = sorted(path for path in folder.glob(pattern) if path.name not in ("training_args.bin",))
        else:
            content = read_json(index)
            shards = content.get("weight_map") if isinstance(content, dict) else None
            if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
                raise UserError(f"{index}: damaged, weight_map does not name files; {AGAIN}")
            files = sorted({folder / Path(name).name for name in shards.values()})
            for path in files:
                if not path.is_file():
                    raise UserError(f"{path}: listed in {index.name} but missing; {AGAIN}")
        if files:
            return files
    raise UserError(f"{folder}: no model weights there (*.safetensors or *.bin)")


def read_weights(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of a checkpoint folder.

    Raises:
        UserError: those of `weight_files`; a file is damaged.
    """
    for path in weight_files(folder):
        if path.suffix == ".bin":
            yield from read_pickle(path).items()
        else:
            yield from _read_safetensors(path)


def read_convnext(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Weights of a ConvNeXt folder in open_clip's names, or timm's, by those of the aux tower. As `read_weights`."""
    for name, tensor in read_weights(folder):
        match = re.fullmatch(r"(?:visual\.trunk\.)?(stem|stages)\.(.+)", name)
        if match:
            yield f"vision_{match[1]}.{match[2]}", tensor


def convnext_sizes(weights: dict[str, torch.Tensor]) -> tuple[list[int], list[int]]:
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


def require_tokenizer_files(folder: Path) -> None:
    """Refuse a folder whose tokenizer is missing or no JSON.

    Raises:
        UserError: names the file.
    """
    if not (folder / TOKENIZER_FILES[0]).is_file():
        raise UserError(f"{folder}: no tokenizer there ({TOKENIZER_FILES[0]} is missing)")
    for name in TOKENIZER_FILES:
        if (folder / name).is_file() and not isinstance(read_json(folder / name), dict):
            raise UserError(f"{folder / name}: damaged, no JSON object; {AGAIN}")


def require_finite(tensors: Mapping[str, torch.Tensor], where: str, meaning: str) -> None:
    """Raises UserError where a tensor holds NaN or infinity: `where` it is and what that means."""
    import torch

    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise UserError(f"{where}: {name} is not finite: {meaning}")


def look_at_weights(path: Path) -> None:
    """Read a weight file's header, which says whether the file is whole; of an old pickle, all of it.

    Raises:
        UserError: it is damaged.
    """
    if path.suffix == ".bin":
        read_pickle(path, lazily=zipfile.is_zipfile(path))
        return
    try:
        with safe_open(path, framework="pt") as file:
            file.keys()
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: damaged, no safetensors file ({first_line(error)}); {AGAIN}") from None


def read_pickle(path: Path, lazily: bool = False) -> dict[str, torch.Tensor]:
    """A plain state dict.

    Args:
        path: of the file.
        lazily: read tensors only when they are used.

    Raises:
        UserError: it is missing, damaged or something else.
    """
    import torch

    require_file(path)
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True, mmap=lazily)
    except Exception:  # damaged bytes make the unpickler raise nearly every kind
        saved = None
    if not isinstance(saved, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in saved.values()):
        raise UserError(f"{path}: not a plain state dict (read with weights_only), or damaged; {AGAIN}")
    return saved


def first_line(error: Exception) -> str:
    """What a library's exception says, cut to one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:MESSAGE_LENGTH]


def _read_safetensors(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (no mapping)
                yield name, file.get_tensor(name)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: damaged, no safetensors file ({first_line(error)}); {AGAIN}") from None
