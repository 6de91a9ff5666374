"""Named, frozen settings of a run: `full`, `10k` and `mini` differ in nothing but these figures."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import math
import reprlib
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import yaml

from toolkit.errors import UserError
from toolkit.files import REPOSITORY

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")
PRESET_FOLDER = Path(__file__).resolve().parent / "presets"
PRESETS = ("full", "10k", "mini")

# Types of values, as messages call them.
WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    list: "a list, such as [first, second]",
    dict: "keys and values",
}

# Fixed for every preset: the challenge's training recipe.
WARMUP_RATIO = 0.03
INITIALISATION_SEED = 1024
SAMPLE_ORDER_SEED = 42


@dataclass(frozen=True)
class Stage:
    """Figures of one training stage; the comments of `presets/full.yaml` say what each means."""

    learning_rate: float
    global_batch: int
    image_aspect_ratio: Literal["square", "pad"]
    group_by_modality_length: bool


@dataclass(frozen=True)
class TextVQA:
    """Files and answer length of the TextVQA evaluation."""

    questions: Path
    images: Path
    annotations: Path
    max_new_tokens: int


@dataclass(frozen=True)
class MMBench:
    """File and answer length of the MMBench evaluation."""

    questions: Path
    max_new_tokens: int


@dataclass(frozen=True)
class Preset:
    """Everything a run needs to know that the participant may not change."""

    name: str
    run_name: str
    precision: Literal["bf16", "fp32"]
    needs_gpu: bool
    download: str
    llm: Path
    vision_tower: Path
    vision_tower_aux: Path
    image_size_aux: int
    max_length: int
    seed_images: Path
    questions: Path
    sample_cap: int
    sample_seed: int
    finetune_data: Path
    finetune_images: Path
    pretrain: Stage
    finetune: Stage
    textvqa: TextVQA
    mmbench: MMBench

    def stage(self, name: Literal["pretrain", "finetune"]) -> Stage:
        """The stage called `name`."""
        return {"pretrain": self.pretrain, "finetune": self.finetune}[name]

    def run_folder(self, stage: Literal["pretrain", "finetune"], experiment: str) -> str:
        """Name of a stage's output folder, such as `MGM-2B-Pretrain-default`."""
        return f"{self.run_name}-{stage.capitalize()}-{experiment}"


def load_preset(name: str) -> Preset:
    """Read a preset by name, or from the path of a YAML file with the same keys.

    Raises:
        UserError: no such preset; it is no YAML; a key is missing, unknown or of the wrong type.
    """
    path = PRESET_FOLDER / f"{name}.yaml" if name in PRESETS else Path(name)
    if not path.is_file():
        hint = "".join(f"; did you mean {near}?" for near in difflib.get_close_matches(name, PRESETS, n=1))
        raise UserError(
            f"no preset {name!r}; expected one of {', '.join(PRESETS)} or the path of a preset's YAML file{hint}"
        )
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise UserError(f"{path}: not a YAML document ({' '.join(str(error).split())[:200]})") from None
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise UserError(f"{path}: expected a preset's keys and values, as in {PRESET_FOLDER / 'mini.yaml'}")
    preset = build(Preset, {"name": path.stem, **values}, str(path))
    figures = {name: getattr(preset, name) for name in ("image_size_aux", "max_length", "sample_cap")}
    for part in ("textvqa", "mmbench"):
        figures[f"{part}: max_new_tokens"] = getattr(preset, part).max_new_tokens
    for part in ("pretrain", "finetune"):
        figures |= {f"{part}: {name}": getattr(preset.stage(part), name) for name in ("learning_rate", "global_batch")}
    for name, figure in figures.items():
        if not 0 < figure < math.inf:
            raise UserError(f"{path}: {name} must be above 0 and finite, found {figure}")
    return preset


def build(cls: type[T], values: dict[str, Any], where: str) -> T:
    """Make a dataclass of a YAML mapping; keys with a default may be left out.

    Args:
        cls: the dataclass; its fields are texts, numbers, paths (from the repository), Literals, dataclasses, and lists
            of these.
        values: the mapping as read.
        where: file and key, for messages.

    Raises:
        UserError: a key is unknown, missing or mistyped; names it.
    """
    if not isinstance(values, dict):
        raise UserError(f"{where}: expected keys and values, found {shown(values)}")
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1)
            raise UserError(f"{where}: unknown key {key!r}" + (f", did you mean {near[0]!r}?" if near else ""))
    built = {}
    for field in dataclasses.fields(cls):
        if field.name not in values:
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                raise UserError(f"{where}: key {field.name!r} is missing")
            continue
        built[field.name] = _convert(hints[field.name], values[field.name], f"{where}: {field.name}")
    return cls(**built)


def _convert(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return build(hint, value, where)
    if typing.get_origin(hint) is list:
        if not isinstance(value, list):
            raise UserError(f"{where} must be {WORDS[list]}, found {shown(value)}")
        (item,) = typing.get_args(hint)
        return [_convert(item, entry, f"{where}, entry {number},") for number, entry in enumerate(value, 1)]
    if hint is Path:
        if not isinstance(value, str) or not value or "\0" in value:
            raise UserError(f"{where} must be a path, found {shown(value)}")
        return REPOSITORY / value
    if typing.get_origin(hint) is Literal:
        names = [name for name in typing.get_args(hint) if name]  # an empty one stands for "not given"
        if value not in names:
            near = difflib.get_close_matches(str(value), names, n=1)
            raise UserError(
                f"{where} must be one of {', '.join(names)}, found {shown(value)}"
                + "".join(f"; did you mean {name}?" for name in near)
            )
        return value
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise UserError(f"{where} must be {WORDS[hint]}, found {shown(value)}{_without_quotes(hint, value)}")
    return value


def shown(value: Any) -> str:
    """A value of a YAML file in a message: short, and as YAML writes it."""
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    return reprlib.repr(value) if isinstance(value, str | list | dict) else str(value)[:60]


def _without_quotes(hint: Any, value: Any) -> str:
    """How a number is written that YAML has taken for a text, as it does with 1e-3."""
    if hint in (int, float) and isinstance(value, str):
        with contextlib.suppress(ValueError):
            number = hint(value)
            written = str(number) if hint is int else f"{number:.12f}".rstrip("0").rstrip(".")
            return f"; write {written}, without quotes" if math.isfinite(number) else ""
    return ""
