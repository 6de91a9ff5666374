"""What presets and recipes need on disk, which of it is there, and the command that brings the rest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from toolkit.download.manifest import Resource, load_manifest
from toolkit.errors import UserError
from toolkit.files import REPOSITORY, display_path
from toolkit.presets import Preset

WEIGHTS = ("*.safetensors", "*.bin")


@dataclass(frozen=True)
class Need:
    """A file or folder that a run reads.

    Args:
        what: it is, for a person.
        path: where it must be.
        is_model: a folder that must hold a config.json or model_index.json.
        has_weights: whether weights must lie in that folder itself.
    """

    what: str
    path: Path
    is_model: bool = False
    has_weights: bool = False

    @property
    def is_there(self) -> bool:
        """Whether something usable lies at the path; `download --verify` reads it."""
        if self.has_weights and not any(any(self.path.glob(pattern)) for pattern in WEIGHTS):
            return False
        if self.is_model:
            return any((self.path / name).is_file() for name in ("config.json", "model_index.json"))
        return any(self.path.iterdir()) if self.path.is_dir() else self.path.is_file()


def needs_of_preset(preset: Preset) -> list[Need]:
    """What check, training, and evaluation of a preset read, the participant's own rows left out."""
    return [
        Need("language model", preset.llm, is_model=True, has_weights=True),
        Need("vision tower", preset.vision_tower, is_model=True, has_weights=True),
        Need("second vision tower", preset.vision_tower_aux, has_weights=True),
        Need("seed's questions", preset.questions),
        Need("finetuning set", preset.finetune_data),
        Need("finetuning images", preset.finetune_images),
        Need("TextVQA questions", preset.textvqa.questions),
        Need("TextVQA images", preset.textvqa.images),
        Need("MMBench questions", preset.mmbench.questions),
    ]


def needs_of_recipe(path: Path) -> list[Need]:
    """The seed and the model folders that a recipe names; hub names are left out.

    Raises:
        UserError: the file is no recipe.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a recipe ({' '.join(str(error).split())[:200]})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a recipe (expected keys and values)")
    dataset = content.get("dataset_path")
    needs = [Need("seed", REPOSITORY / dataset)] if isinstance(dataset, str) else []
    folders = dict.fromkeys(value for value in _model_names(content.get("process")) if _is_folder(value))
    return needs + [Need(Path(value).name, REPOSITORY / value, is_model=True) for value in folders]


def commands_for(needs: list[Need]) -> list[str]:
    """The commands that bring what is missing; a sentence where no command does."""
    resources = load_manifest()
    names: dict[str, None] = {}
    commands = {}
    for need in needs:
        if "mini" in need.path.parts:
            commands["python -m toolkit mini build"] = None
        elif resource := _resource_at(need.path, resources):
            names[resource.name] = None
        else:
            commands[f"put {need.what} into {display_path(need.path)} by hand: the kit does not fetch it"] = None
    if names:
        commands[f"python -m toolkit download --only {','.join(names)}"] = None
    return list(commands)


def _resource_at(path: Path, resources: list[Resource]) -> Resource | None:
    """The resource that brings a path: of several for one folder the one that expects it."""
    found = [resource for resource in resources if path.is_relative_to(REPOSITORY / resource.destination)]
    for resource in found:
        inside = path.relative_to(REPOSITORY / resource.destination).as_posix()
        patterns = [pattern for expectation in resource.expect for pattern in expectation.path]
        if any(pattern == inside or pattern.startswith(f"{inside}/") for pattern in patterns):
            return resource
    return found[0] if found else None


def _model_names(value: Any) -> Iterator[str]:
    """The values of all keys that begin with hf_, at any depth."""
    if isinstance(value, list):
        for entry in value:
            yield from _model_names(entry)
    elif isinstance(value, dict):
        for key, entry in value.items():
            if isinstance(key, str) and key.startswith("hf_") and isinstance(entry, str):
                yield entry
            yield from _model_names(entry)


def _is_folder(value: str) -> bool:
    """Whether a model is named by a folder, not by its name on a hub."""
    return value.count("/") != 1 or value.startswith((".", "/", "~")) or (REPOSITORY / value).parent.is_dir()
