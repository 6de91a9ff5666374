"""Operators and their parameters, checked before anything is loaded: names, types, ranges."""

import inspect
import typing
from collections.abc import Iterator
from functools import cache
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from solution.runner.configuration.keys import clipped, short
from solution.runner.configuration.places import nearest
from solution.runner.errors import UserError
from solution.runner.files import shown
from solution.runner.recipe import Recipe

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
# Of Data-Juicer 1.0 to 1.5, and of no later one.
_GONE_OPERATORS = {
    "image_captioning_from_gpt4v_mapper": "image_captioning_mapper and mllm_mapper write captions with a local model",
}


def check_operators(recipe: Recipe, registry: dict[str, type]) -> list[dict[str, dict[str, Any]]]:
    """The recipe's operators as Data-Juicer's `load_ops` takes them, every name and value checked.

    ``registry`` maps operator names to classes. Raises UserError with all faults of the recipe, a line each: also an
    unknown operator or parameter, a value of the wrong type or outside its range, and a minimum above its maximum.
    """
    faults = list(recipe.faults)
    if not recipe.process and not faults:
        faults.append(f"recipe {shown(recipe.path)} has no operators: list them under `process`")
    checked = []
    for number, (name, params) in enumerate(recipe.process, start=1):
        where = f"recipe {shown(recipe.path)}, operator {number} ({clipped(name)})"
        if name not in registry:
            hint = f"; {_GONE_OPERATORS[name]}" if name in _GONE_OPERATORS else nearest(name, registry)
            faults.append(f"{where}: unknown operator{hint}")
            continue
        known = _parameters(registry[name])
        unknown = [str(key) for key in params if key not in known]
        faults += [f"{where}: unknown parameter '{clipped(key)}'{nearest(key, known)}" for key in unknown]
        values = {}
        for key, value in params.items():
            if key in known:
                try:
                    values[key] = _typed(value, known[key][0], f"{where}, {key}")
                except UserError as error:
                    faults.append(str(error))
        defaults = {key: default for key, (_, default) in known.items()}
        faults += _threshold_faults(defaults | values, _STOCK_RANGES.get(name), where)
        checked.append({name: values})
    if faults:
        raise UserError(*faults)
    return checked


def accepted(operator: type, parameter: str, value: Any) -> bool:
    """Whether a recipe may give an operator's parameter a value."""
    adapter = _adapter_of(operator, parameter)
    if adapter is None:
        return False
    try:
        adapter.validate_python(value)
    except ValidationError:
        return False
    return True


@cache
def _adapter_of(operator: type, parameter: str) -> TypeAdapter | None:
    known = _parameters(operator)
    return _adapter(known[parameter][0]) if parameter in known else None


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
        return _adapter(kind).validate_python(value)
    except ValidationError as error:
        raise UserError(f"{where}: {error.errors()[0]['msg']}, found {short(value)}") from None


def _adapter(kind: Any) -> TypeAdapter:
    try:
        return TypeAdapter(kind, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticUserError:  # dataclasses and models bring their own configuration and refuse another
        return TypeAdapter(kind)


def _threshold_faults(values: dict[str, Any], allowed: tuple[float, float] | None, where: str) -> Iterator[str]:
    """A line where min_x is above max_x, and where a threshold is outside the range of the operator's score."""
    for key, low in values.items():
        if not isinstance(low, int | float) or isinstance(low, bool):
            continue
        high = values.get("max_" + key.removeprefix("min_")) if key.startswith("min_") else None
        if isinstance(high, int | float) and low > high:
            yield f"{where}: {key} {low} is greater than max_{key.removeprefix('min_')} {high}: no row can pass"
        is_threshold = key.startswith(("min_", "max_")) and key.endswith(("_score", "_ratio", "_recall"))
        if allowed and is_threshold and not (allowed[0] <= low <= allowed[1] or abs(low) >= 1e9):
            yield f"{where}: {key} {low} is outside the score's range, {allowed[0]:g} to {allowed[1]:g}"
