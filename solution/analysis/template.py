"""A recipe's text with places for thresholds, so that a page can give it back with other ones, comments included."""

from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from solution.runner.recipe import Recipe

Slot = tuple[int, str]  # an operator's number, from 1, and a parameter
Segment = str | dict[str, Any]
_PROBE = 918273.5  # unlike any threshold


def template_of(recipe: Recipe, slots: Sequence[Slot]) -> list[Segment]:
    """The recipe's text as segments: texts, and places that depend on which of ``slots`` have another value.

    A place has the `slots` (indices), their `names`, the `text` where none is changed, and what is around the changed
    ones else: `before`, `join`, `after`; without `names` it is the value alone. Where the text cannot be edited (values
    shared by anchors, old names) it is written anew, without comments.
    """
    content = yaml.safe_load(recipe.text)
    wanted = _with_values(_process_of(content), slots)
    segments = list(_segments(recipe.text, slots))
    if _is_right(segments, slots, wanted, recipe):
        return segments
    content["process"] = [{name: params or None} for name, params in recipe.process]
    return list(_segments(yaml.dump(content, Dumper=_Plain, sort_keys=False, allow_unicode=True), slots))


class _Plain(yaml.SafeDumper):
    """Writes everything out."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _process_of(content: dict[str, Any]) -> list[dict[str, Any]]:
    """The operators of a recipe with their parameters."""
    entries = [{entry: None} if isinstance(entry, str) else entry for entry in content["process"]]
    return [{name: dict(params or {}) for name, params in entry.items()} for entry in entries]


def _with_values(process: list[dict[str, Any]], slots: Sequence[Slot]) -> list[dict[str, Any]]:
    for index, (number, name) in enumerate(slots):
        for params in process[number - 1].values():
            params[name] = _PROBE + index
    return process


def _is_right(segments: list[Segment], slots: Sequence[Slot], wanted: list[dict[str, Any]], recipe: Recipe) -> bool:
    """Whether the text comes back unchanged, and with all values changed is the recipe with these values."""
    names = [
        {name: set(params) for name, params in entry.items()} for entry in _process_of(yaml.safe_load(recipe.text))
    ]
    today = [{name: set(params)} for name, params in recipe.process]
    if names != today or filled(segments, {}) != recipe.text:
        return False
    text = filled(segments, {index: str(_PROBE + index) for index in range(len(slots))})
    try:
        return _process_of(yaml.safe_load(text)) == wanted
    except yaml.YAMLError:
        return False


def filled(segments: Sequence[Segment], values: dict[int, str]) -> str:
    """The text with some slots' values; the page's script does the same."""
    parts = []
    for segment in segments:
        if isinstance(segment, str):
            parts.append(segment)
            continue
        changed = [(place, slot) for place, slot in enumerate(segment["slots"]) if slot in values]
        if not changed:
            parts.append(segment["text"])
        elif "names" in segment:
            pairs = [f"{segment['names'][place]}: {values[slot]}" for place, slot in changed]
            parts.append(segment["before"] + segment["join"].join(pairs) + segment["after"])
        else:
            parts.append(values[changed[0][1]])
    return "".join(parts)


def _segments(text: str, slots: Sequence[Slot]) -> Iterator[Segment]:
    """The text cut at the places of the slots."""
    root = yaml.compose(text, yaml.SafeLoader)
    process = next(value for key, value in root.value if key.value == "process")
    places: list[tuple[int, int, dict[str, Any]]] = []
    for number in dict.fromkeys(number for number, _ in slots):
        own = {name: index for index, (other, name) in enumerate(slots) if other == number}
        places += _places_of(text, process.value[number - 1], own)
    end = 0
    for start, stop, place in sorted(places, key=lambda found: found[:2]):
        if start < end:
            return  # shared by an anchor: what is left does not give the text
        yield text[end:start]
        yield place | {"text": text[start:stop]}
        end = stop
    yield text[end:]


def _places_of(text: str, entry: yaml.Node, own: dict[str, int]) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """(start, end, place) of one operator's parameters; ``own`` is parameter -> slot."""
    if isinstance(entry, yaml.ScalarNode):  # `- operator`
        assert entry.end_mark is not None, "a node that was read from a text has its places"
        yield entry.end_mark.index, entry.end_mark.index, _place(own, ": {", ", ", "}")
        return
    params = entry.value[0][1]
    if isinstance(params, yaml.ScalarNode):  # `- operator:` or `- operator: null`
        start, end = params.start_mark.index, params.end_mark.index
        yield start, end, _place(own, " {" if text[start - 1 : start] == ":" else "{", ", ", "}")
        return
    written = {key.value: value for key, value in params.value}
    for name in own.keys() & written:
        yield written[name].start_mark.index, written[name].end_mark.index, {"slots": [own[name]]}
    absent = {name: slot for name, slot in own.items() if name not in written}
    if not absent:
        return
    if params.flow_style or not params.value:
        start = params.start_mark.index + 1
        yield start, start, _place(absent, "", ", ", ", " if params.value else "")
    else:
        start = params.value[0][0].start_mark
        line = "\n" + " " * start.column
        yield start.index, start.index, _place(absent, "", line, line)


def _place(own: dict[str, int], before: str, join: str, after: str) -> dict[str, Any]:
    return {"slots": list(own.values()), "names": list(own), "before": before, "join": join, "after": after}
