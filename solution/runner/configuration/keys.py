"""The keys that a recipe may have, read from Data-Juicer's own parser, and what each means here."""

import ast
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import pydantic

from solution.operators.common.captions import END_TOKEN, IMAGE_TOKENS

HONOURED = frozenset(
    (
        "project_name", "process", "np", "dataset_path", "dataset", "suffixes", "data_probe_ratio", "text_keys",
        "image_key", "image_special_token", "eoc_special_token", "executor_type", "ray_address",
        "custom_operator_paths", "export_path", "work_dir", "temp_dir", "keep_stats_in_res_ds", "skip_op_error",
        "max_failed",
    )
)  # fmt: skip
REFUSED = {
    "generated_dataset_config": "rows come from files here: name them with dataset_path",
    "hpo_config": "thresholds are not searched for here: give them in the recipe",
    "decrypt_after_reading": "encrypted data are not read here: decrypt the file first",
    "encrypt_before_export": "the result is not encrypted here: encrypt the file afterwards",
    "export_aws_credentials": "the result is a local file: copy it afterwards",
    "export_original_dataset": "is for dj-analyze",
}
_RESUMES = "an unfinished run resumes after its last operator, whatever they say"
_TRACED = "the audit says what became of every row"
_ONE_FILE = "the result is one file of JSON lines"
_AS_THE_KIT_DOES = {
    **dict.fromkeys(("open_tracer", "op_list_to_trace", "trace_num", "trace_keys"), _TRACED),
    **dict.fromkeys(("use_checkpoint", "use_cache", "ds_cache_dir", "cache_compress", "checkpoint"), _RESUMES),
    **dict.fromkeys(("checkpoint_dir", "job_id", "resume"), _RESUMES),
    **dict.fromkeys(("export_shard_size", "export_in_parallel", "export_extra_args"), _ONE_FILE),
    "validators": "every row is checked by the kit's own rules",
    "load_jsonl_lenient": "a faulty line costs itself alone, whatever it says",
}
# Of Data-Juicer 1.5.0's parser, and no longer of 1.6.1's.
_GONE = (
    "backup_count", "intermediate_storage", "max_log_size_mb", "max_partition_size_mb", "preserve_intermediate_data",
    "resource_optimization",
)  # fmt: skip
_TYPES = {
    **vars(typing),
    **{name: getattr(pydantic, name) for name in ("PositiveInt", "NonNegativeInt")},
    "ClosedUnitInterval": Annotated[float, pydantic.Field(ge=0, le=1)],
}


@dataclass(frozen=True)
class Key:
    """A key of Data-Juicer's parser: its type and its default."""

    kind: Any
    default: Any


# Keys that Data-Juicer does not have.
OWN = {"max_failed": Key(_TYPES["ClosedUnitInterval"], 0.05)}


@cache
def known_keys() -> dict[str, Key]:
    """Every key of the installed Data-Juicer and of ours; `partition.mode` is a key of a mapping, `partition`.

    The parser's source is read (0.05 s): importing its module takes 3 s.
    """
    spec = find_spec("data_juicer")
    assert spec is not None, "`begin` has looked for it"
    assert spec.origin is not None, "it is a package with an __init__"
    source = Path(spec.origin).with_name("config").joinpath("config.py").read_text(encoding="utf-8")
    found = {}
    for call in ast.walk(_function(source, "build_base_parser")):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument":
            name = ast.literal_eval(call.args[0]).removeprefix("--").replace("-", "_")
            found[name] = _key({word.arg: word.value for word in call.keywords})
    return {name: key for name, key in found.items() if name != "config"} | OWN


def _function(source: str, name: str) -> ast.AST:
    return next(node for node in ast.parse(source).body if getattr(node, "name", None) == name)


def _key(words: dict[str | None, ast.expr]) -> Key:
    """The type and default that the words of an `add_argument` give."""
    default = _default(words.get("default"))
    if "action" in words:  # store_true
        return Key(bool, False)
    if "nargs" in words:
        return Key(list[str] | str | None, default)
    kind: Any = eval(
        ast.unparse(words["type"]), {"__builtins__": {"str": str, "int": int, "float": float, "bool": bool}}, _TYPES
    )
    if "choices" in words:
        kind = typing.Literal.__getitem__(tuple(ast.literal_eval(words["choices"])))
    return Key(typing.Optional.__getitem__(kind) if default is None else kind, default)


def _default(node: ast.expr | None) -> Any:
    if isinstance(node, ast.Attribute):  # a special token
        return {"image": IMAGE_TOKENS[0], "eoc": END_TOKEN}.get(node.attr, f"<__dj__{node.attr}>")
    return None if node is None else ast.literal_eval(node)


def names() -> set[str]:
    """What may stand at the left margin of a recipe."""
    return {name.split(".")[0] for name in known_keys()}


def faults_of(content: dict[Any, Any]) -> Iterator[tuple[str, str]]:
    """(key, fault) for each key of a recipe that is known and has a value of a wrong type, or is not served here."""
    for key, value in content.items():
        known = known_keys()
        if key == "dataset_path" and isinstance(value, list):
            several = "several are named under dataset, configs: [{type: local, path: FILE}, ...]"
            yield key, f"expected one file or folder, found {short(value)}; {several}"
        elif key in REFUSED and value:
            yield key, REFUSED[key]
        elif key == "process":
            if not isinstance(value, list | None):
                yield key, f"expected a list of operators, found {short(value)}"
        elif key in known:
            if fault := _type_fault(value, known[key].kind):
                yield key, fault
        elif key in names():
            yield from _faults_of_part(key, value)


def _faults_of_part(key: str, value: Any) -> Iterator[tuple[str, str]]:
    """The same for a key that is a mapping of keys."""
    if not isinstance(value, dict):
        yield key, f"expected a mapping, found {short(value)}"
        return
    for part, inner in value.items():
        name = f"{key}.{part}"
        if name not in known_keys():
            yield name, "unknown key"
        elif fault := _type_fault(inner, known_keys()[name].kind):
            yield name, fault


def _type_fault(value: Any, kind: Any) -> str:
    try:
        pydantic.TypeAdapter(kind).validate_python(value, strict=True)
    except pydantic.ValidationError as error:
        message = error.errors()[0]["msg"]
        return f"{message[0].lower()}{message[1:]}, found {short(value)}"
    return ""


def short(value: Any, most: int = 80) -> str:
    """A value as a message shows it, however long it is."""
    return repr(clipped(value, most)) if isinstance(value, str) else clipped(repr(value), most)


def clipped(text: str, most: int = 80) -> str:
    """The text, or its beginning and its length."""
    return text if len(text) <= most else f"{text[: most - 20]} ... ({len(text):,} characters)"


def remarks_on(content: dict[Any, Any]) -> list[str]:
    """A line for each group of keys that have no effect here and another value than Data-Juicer's default."""
    groups: dict[str, list[str]] = {}
    for key, value in content.items():
        if key in _GONE:
            groups.setdefault("no key of today's Data-Juicer, and no effect here", []).append(key)
        elif key not in names() or key in HONOURED or key in REFUSED or key.startswith(("audio_", "video_")):
            continue
        elif not _is_usual(key, value):
            groups.setdefault(_AS_THE_KIT_DOES.get(key, "no effect here"), []).append(key)
    return [f"{', '.join(keys)}: {remark}" for remark, keys in groups.items()]


def _is_usual(key: str, value: Any) -> bool:
    """Whether a key, or every key of a mapping, has Data-Juicer's default."""
    known = known_keys()
    if key in known:
        return value == known[key].default
    return all(inner == known[f"{key}.{part}"].default for part, inner in value.items() if f"{key}.{part}" in known)


def is_known(key: Any) -> bool:
    """Whether Data-Juicer knows the key, or knew it once."""
    return key in names() or key in _GONE
