"""A recipe: a Data-Juicer YAML, read and checked before anything is loaded."""

import difflib
import inspect
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from solution.missing import way_to
from solution.operators.common.captions import IMAGE_TOKENS
from solution.runner.errors import UserError
from solution.runner.files import ROOT, shown

KEYS = {
    "project_name": str,  # free text
    "dataset_path": str,  # the seed's jsonl
    "np": int,  # processes per operator
    "image_special_token": str,  # the image token that texts have while operators look at them
    "custom_operator_paths": list,  # files or packages with operators
    "process": list,  # the operators in order
}
OWN_OPERATORS = ROOT / "solution" / "operators"

# Data-Juicer checks no ranges; a similarity of 32 (meant: 0.32) would silently drop every row.
_STOCK_RANGES = {
    "image_text_similarity_filter": (-1.0, 1.0),
    "image_text_matching_filter": (0.0, 1.0),
    "image_aesthetics_filter": (0.0, 1.0),
    "image_nsfw_filter": (0.0, 1.0),
    "image_watermark_filter": (0.0, 1.0),
    "phrase_grounding_recall_filter": (0.0, 1.0),
    "alphanumeric_filter": (0.0, 1.0),
    "special_characters_filter": (0.0, 1.0),
    "character_repetition_filter": (0.0, 1.0),
    "word_repetition_filter": (0.0, 1.0),
    "flagged_words_filter": (0.0, 1.0),
    "stopwords_filter": (0.0, 1.0),
    "language_id_score_filter": (0.0, 1.0),
}


@dataclass(frozen=True)
class Recipe:
    """One recipe; `process` holds (operator, parameters) with model folders already absolute."""

    path: Path
    text: str
    dataset: Path
    processes: int
    operator_paths: tuple[Path, ...]
    process: tuple[tuple[str, dict[str, Any]], ...]
    image_token: str | None = None  # None: the data set's own

    @property
    def name(self) -> str:
        """The recipe's file name without its ending; it names the audit file."""
        return self.path.stem

    def models(self) -> dict[str, Path]:
        """Model parameter's text -> folder, for every model that is a local folder."""
        return {
            shown(Path(value)): Path(value)
            for _, params in self.process
            for key, value in params.items()
            if key.startswith("hf_") and isinstance(value, str) and Path(value).is_absolute()
        }


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?` where a known name is near, else `; known: ...` for a short list, else nothing."""
    known = sorted(known)
    match = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if match:
        return f"; did you mean {match[0]}?"
    return f"; known: {', '.join(known)}" if len(known) <= 20 else ""


def load_recipe(path: Path, dataset: Path | None) -> Recipe:
    """Read a recipe and check all that needs no Data-Juicer: keys, shape, data set and model folders.

    ``dataset`` replaces the recipe's own `dataset_path`. Raises UserError with one line on any fault.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
    except FileNotFoundError:
        there = sorted(shown(file) for file in (ROOT / "solution" / "recipes").glob("*.yaml"))
        raise UserError(f"recipe {path} is missing; there are: {', '.join(there)}") from None
    except yaml.YAMLError as error:
        raise UserError(f"recipe {path} is no valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"recipe {path} is empty or no mapping; expected keys: {', '.join(KEYS)}")
    for key, value in content.items():
        if key == "export_path":
            raise UserError(f"recipe {path}, key export_path: the output folder is given by --output; remove the key")
        if key not in KEYS:
            raise UserError(f"recipe {path}: unknown key '{key}'{nearest(str(key), KEYS)}")
        if not isinstance(value, KEYS[key]) or isinstance(value, bool):
            raise UserError(f"recipe {path}, key {key}: expected {KEYS[key].__name__}, found {value!r}")
    if content.get("np", 1) < 1:
        raise UserError(f"recipe {path}, key np: expected 1 or more processes, found {content['np']}")
    return Recipe(
        path,
        text,
        _dataset(path, dataset, content.get("dataset_path")),
        content.get("np", 1),
        tuple((ROOT / entry).resolve() for entry in content.get("custom_operator_paths", [])),
        tuple(_step(path, number, entry) for number, entry in enumerate(content.get("process") or [], start=1)),
        _image_token(path, content.get("image_special_token")),
    )


def _dataset(recipe: Path, given: Path | None, own: str | None) -> Path:
    """The data set's file. Raises UserError where none is named, or the file is missing."""
    if given:
        path = given.absolute()
    elif own is not None:
        path = ROOT / own
    else:
        raise UserError(f"recipe {recipe} has no dataset_path; add one or give --dataset FILE.jsonl")
    if path.exists() and not path.is_file():
        raise UserError(f"data set {shown(path)} is no regular file; expected a .jsonl (of a pipe, write it to a file)")
    if not path.is_file():
        raise UserError(
            f"data set {shown(path)} is missing; {way_to(path)}; another one is given with --dataset FILE.jsonl"
        )
    return path


def _image_token(recipe: Path, token: str | None) -> str | None:
    """The image token that the recipe names. Raises UserError for one that rows of the challenge never have."""
    if token is not None and token not in IMAGE_TOKENS:
        raise UserError(
            f"recipe {recipe}, key image_special_token: expected {' or '.join(IMAGE_TOKENS)}, found {token!r}"
        )
    return token


def _step(recipe: Path, number: int, entry: Any) -> tuple[str, dict[str, Any]]:
    """One entry of `process` as (operator, parameters); hf_... parameters become absolute where they are folders."""
    if isinstance(entry, str):
        entry = {entry: None}
    if not isinstance(entry, dict) or len(entry) != 1:
        raise UserError(
            f"recipe {recipe}, process entry {number}: expected `- operator: {{parameters}}`, found {entry!r}"
        )
    ((name, params),) = entry.items()
    if not isinstance(params, dict | None):
        raise UserError(f"recipe {recipe}, operator {number} ({name}): expected parameters, found {params!r}")
    resolved = dict(params or {})
    for key, value in resolved.items():
        if key.startswith("hf_") and isinstance(value, str):
            resolved[key] = _model(value, f"recipe {recipe}, operator {number} ({name}), {key}")
    return name, resolved


def _model(value: str, where: str) -> str:
    """A model folder's absolute path, or a hub name as it is. Raises UserError for a folder without a model."""
    folder = ROOT / value
    if any((folder / name).is_file() for name in ("config.json", "model_index.json")):
        return str(folder)
    if value.count("/") == 1 and not value.startswith((".", "/", "~")) and not (ROOT / value).parent.is_dir():
        return value  # a hub name such as openai/clip-vit-base-patch32
    fault = "has no config.json" if folder.is_dir() else "is missing"
    raise UserError(f"{where}: model folder {value} {fault}; {way_to(folder)}")


def check_operators(recipe: Recipe, registry: dict[str, type]) -> list[dict[str, dict[str, Any]]]:
    """The recipe's operators as Data-Juicer's `load_ops` takes them, every name and value checked.

    ``registry`` maps operator names to classes. Raises UserError for an unknown operator or parameter, a value of the
    wrong type or outside its range, and a minimum above its maximum.
    """
    if not recipe.process:
        raise UserError(f"recipe {recipe.path} has no operators: list them under `process`")
    checked = []
    for number, (name, params) in enumerate(recipe.process, start=1):
        where = f"recipe {recipe.path}, operator {number} ({name})"
        if name not in registry:
            raise UserError(f"{where}: unknown operator{nearest(name, registry)}")
        known = _parameters(registry[name])
        for key in params:
            if key not in known:
                raise UserError(f"{where}: unknown parameter '{key}'{nearest(key, known)}")
        values = {key: _typed(value, known[key][0], f"{where}, {key}") for key, value in params.items()}
        _check_thresholds(
            {key: default for key, (_, default) in known.items()} | values, _STOCK_RANGES.get(name), where
        )
        checked.append({name: values})
    return checked


def _parameters(operator: Any) -> dict[str, tuple[Any, Any]]:
    """Parameter -> (type, default) of an operator class and its bases, Data-Juicer's common ones included."""
    known = {
        key: (kind | None if kind and default is None else kind or Any, default)
        for key, (kind, default) in operator._BASE_PARAMS.items()
    }
    for base in reversed(operator.__mro__):
        if "__init__" in vars(base) and base is not object:
            hints = typing.get_type_hints(base.__init__, include_extras=True)
            for key, parameter in inspect.signature(base.__init__).parameters.items():
                if key != "self" and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                    default = None if parameter.default is parameter.empty else parameter.default
                    known[key] = (hints.get(key, Any), default)
    return known


def _typed(value: Any, kind: Any, where: str) -> Any:
    """The value as its declared type. Raises UserError where it is none."""
    try:
        adapter = TypeAdapter(kind, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticUserError:  # dataclasses and models bring their own configuration and refuse another
        adapter = TypeAdapter(kind)
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        raise UserError(f"{where}: {error.errors()[0]['msg']}, found {value!r}") from None


def _check_thresholds(values: dict[str, Any], allowed: tuple[float, float] | None, where: str) -> None:
    """Raise UserError where min_x is above max_x, or a threshold is outside the range of the operator's score."""
    for key, low in values.items():
        if not isinstance(low, int | float) or isinstance(low, bool):
            continue
        high = values.get("max_" + key.removeprefix("min_")) if key.startswith("min_") else None
        if isinstance(high, int | float) and low > high:
            raise UserError(
                f"{where}: {key} {low} is greater than max_{key.removeprefix('min_')} {high}: no row can pass"
            )
        is_threshold = key.startswith(("min_", "max_")) and key.endswith(("_score", "_ratio", "_recall"))
        if allowed and is_threshold and not (allowed[0] <= low <= allowed[1] or abs(low) >= 1e9):
            raise UserError(f"{where}: {key} {low} is outside the score's range, {allowed[0]:g} to {allowed[1]:g}")
