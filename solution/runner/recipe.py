"""A recipe: a Data-Juicer YAML, read and checked before anything is loaded."""

import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from solution.missing import way_to
from solution.operators.common.captions import END_TOKEN, IMAGE_TOKENS
from solution.runner.configuration import keys
from solution.runner.configuration.dataset_files import files_in
from solution.runner.configuration.keys import clipped, short
from solution.runner.configuration.places import candidates, find, missing, nearest
from solution.runner.errors import UserError
from solution.runner.files import ROOT, sha256_of, shown

OWN_OPERATORS = ROOT / "solution" / "operators"
_MOST_BYTES = 1 << 20  # of a recipe
_LONGEST_NAME = 200  # bytes of a recipe's, which a temporary file's name adds to; file systems take 255
_MOST_VALUES = 100_000  # of a recipe, with what its anchors stand for written out

# Operators and parameters of Data-Juicer 1.0 to 1.5 that have other names today.
_RENAMED_OPERATORS = {"most_relavant_entities_aggregator": "most_relevant_entities_aggregator"}
_RENAMED_PARAMETERS = {
    "image_nsfw_filter": {"score_threshold": "max_score"},
    "video_nsfw_filter": {"score_threshold": "max_score"},
    "optimize_qa_mapper": {"hf_model": "api_or_hf_model"},
}
# Parameters that name a file which a command of the kit makes of the data set.
_MADE_OF_THE_DATASET = {
    ("image_value_filter", "values"): "python -m toolkit judge {dataset} --preset {preset} --out {file}"
}


@dataclass(frozen=True)
class Recipe:
    """One recipe; `process` holds (operator, parameters) with model folders already absolute.

    `faults` are those found so far; `check_operators` raises them together with those of the operators.
    """

    path: Path
    text: str
    datasets: tuple[Path, ...]  # the seed's files, in order
    processes: int
    operator_paths: tuple[Path, ...]
    process: tuple[tuple[str, dict[str, Any]], ...]
    image_token: str | None = None  # None: the data set's own
    text_key: str = "text"
    image_key: str = "images"
    ratio: float = 1.0  # of the rows that are read; below 1 for a trial
    executor: str = "local"  # or ray
    ray_address: str | None = None
    on_error: str = "skip"
    export_path: Path | None = None
    work_dir: Path | None = None
    temp_dir: Path | None = None
    keep_stats: bool = False
    max_failed: float = 0.05  # the largest share of its rows that a step may fail
    remarks: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The recipe's file name without its ending; it names the audit file."""
        return self.path.stem

    @property
    def dataset(self) -> Path:
        """The seed's first file."""
        return self.datasets[0]

    def models(self) -> dict[str, Path]:
        """Model parameter's text -> folder, for every model that is a local folder; and files made of the data set."""
        return {
            shown(Path(value)): Path(value)
            for name, params in self.process
            for key, given in params.items()
            if key.startswith("hf_") or (name, key) in _MADE_OF_THE_DATASET
            for value in (given if isinstance(given, list) else [given])
            if isinstance(value, str) and Path(value).is_absolute()
        }

    def settings(self) -> dict[str, Any]:
        """What, besides the operators, decides how rows are read: only what is not as usual."""
        given = {
            "image_special_token": self.image_token, "text_keys": self.text_key, "image_key": self.image_key,
            "data_probe_ratio": self.ratio, "datasets": [shown(file) for file in self.datasets],
        }  # fmt: skip
        usual = {"image_special_token": None, "text_keys": "text", "image_key": "images", "data_probe_ratio": 1.0}
        return {
            key: value
            for key, value in given.items()
            if (len(self.datasets) > 1 if key == "datasets" else value != usual[key])
        }


def load_recipe(path: Path, dataset: list[Path] | Path | None) -> Recipe:
    """Read a recipe and check all that needs no Data-Juicer: keys, shape, data set and model folders.

    ``dataset`` replaces the recipe's own `dataset_path`. The faults found are in the recipe, a line each. Raises
    UserError for a file that is no YAML mapping.
    """
    path = _recipe_file(path)
    text, content = _content(path)
    faults = [
        f"unknown key '{clipped(key)}'{nearest(str(key), keys.names())}" for key in content if not keys.is_known(key)
    ]
    wrong = dict(keys.faults_of(content))
    faults += [f"key {key}: {fault}" for key, fault in wrong.items()]
    content = {key: value for key, value in content.items() if key not in wrong}
    remarks = keys.remarks_on(content)
    reader = _Reader(content, faults, remarks)
    given = [dataset] if isinstance(dataset, Path) else dataset
    reader.found = list(reader.datasets(given))
    recipe = Recipe(
        path,
        text,
        tuple(reader.found),
        content.get("np") or 1,
        tuple(reader.operator_paths()),
        tuple(reader.process()),
        reader.token("image_special_token", IMAGE_TOKENS),
        reader.first("text_keys", "text"),
        content.get("image_key") or "images",
        content.get("data_probe_ratio", 1.0),
        "local" if content.get("executor_type", "default") == "default" else "ray",
        reader.ray_address(),
        "skip" if content.get("skip_op_error", True) else "stop",
        reader.export_path(),
        reader.folder("work_dir"),
        reader.folder("temp_dir"),
        content.get("keep_stats_in_res_ds", False),
        content.get("max_failed", 0.05),
    )
    reader.token("eoc_special_token", (END_TOKEN,))
    if recipe.ratio == 0:
        faults.append("key data_probe_ratio: expected a share above 0, found 0")
    where = f"recipe {shown(path)}"
    return replace(
        recipe,
        remarks=tuple(f"{where}, {remark}" for remark in remarks),
        faults=tuple(
            f"{where}, {fault}" if fault.startswith(("key", "operator")) else f"{where}: {fault}" for fault in faults
        ),
    )


def _recipe_file(path: Path) -> Path:
    """The recipe's file, also by the bare name of one of the kit's. Raises UserError where it is missing."""
    folder = ROOT / "solution" / "recipes"
    bare = folder / f"{path}.yaml"
    found = find(str(path), also=[bare] if not path.suffix else [])
    if found is None:
        there = [str(file.relative_to(folder).with_suffix("")) for file in sorted(folder.rglob("*.yaml"))]
        near = nearest(path.stem, there) if len(there) else ""
        raise UserError(
            f"recipe {clipped(str(path), 300)} is missing{near if 'did you mean' in near else ''}; there are",
            *(f"  {shown(folder / f'{name}.yaml')}" for name in there),
        )
    if not found.is_file():
        raise UserError(f"recipe {shown(found)} is a folder; expected a YAML file in it")
    if len(os.fsencode(found.stem)) > _LONGEST_NAME:
        raise UserError(
            f"recipe {clipped(shown(found), 300)}: its name is too long, as files of its run begin with it (at most "
            f"{_LONGEST_NAME} bytes); rename it"
        )
    return found


def _content(path: Path) -> tuple[str, dict[Any, Any]]:
    """A recipe's text and its mapping. Raises UserError for what is no YAML mapping of a recipe's size."""
    where = f"recipe {shown(path)}"
    try:
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise UserError(f"{where} has {size:,} bytes; expected a short YAML file (the data set goes to --dataset)")
        text = path.read_text(encoding="utf-8-sig")
        content = yaml.safe_load(text)
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(
            f"{where}, line {line}: not UTF-8 (byte {error.object[error.start]:#x}); "
            f"`iconv -f LATIN1 -t UTF-8 {path.name}` converts a Latin-1 file"
        ) from None
    except OSError as error:
        raise UserError(f"{where} cannot be read: {error.strerror}") from None
    except RecursionError:
        raise UserError(f"{where} is nested too deeply; expected keys such as dataset_path and process") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date or number that is none
        raise UserError(f"{where} is no valid YAML: {clipped(' '.join(str(error).split()), 300)}") from None
    if not isinstance(content, dict):
        raise UserError(f"{where} is empty or no mapping; expected keys such as dataset_path and process")
    if _values(content, {}) > _MOST_VALUES:
        raise UserError(f"{where} stands for more than {_MOST_VALUES:,} values: its anchors repeat each other")
    return text, content


def _values(value: Any, known: dict[int, float]) -> float:
    """How many values a YAML value has with its anchors written out; infinite where it holds itself."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = float("inf")
        parts = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_values(part, known) for part in parts)
    return known[id(value)]


class _Reader:
    """Reads the keys of one recipe; adds a line to ``faults`` for each fault and to ``remarks`` for what is noted."""

    def __init__(self, content: dict[str, Any], faults: list[str], remarks: list[str]) -> None:
        self.content = content
        self.faults = faults
        self.remarks = remarks
        self.found: list[Path] = []  # the data set's files

    def datasets(self, given: list[Path] | None) -> Iterator[Path]:
        """The data set's files."""
        if given:
            entries = [(str(path), "--dataset") for path in given]
        elif self.content.get("dataset_path"):  # Data-Juicer prefers it as well
            entries = [(name, "key dataset_path") for name in _paths_of(self.content["dataset_path"])]
        elif self.content.get("dataset"):
            entries = list(self._configs(self.content["dataset"]))
        elif not any(fault.startswith("key dataset") for fault in self.faults):
            self.faults.append("has no dataset_path; add one or give --dataset FILE.jsonl")
            return
        else:
            return
        suffixes = self.content.get("suffixes") or []
        for name, where in entries:
            found = find(name)
            if found is None:
                self.faults.append(f"{where}: data set {missing(name)}; another one is given with --dataset FILE.jsonl")
            elif found.is_dir():
                files = files_in(found, [suffixes] if isinstance(suffixes, str) else suffixes)
                if not files:
                    self.faults.append(f"{where}: folder {shown(found)} has no .jsonl, .json or .parquet file")
                yield from files
            elif found.is_file():
                yield found
            else:
                self.faults.append(
                    f"{where}: data set {shown(found)} is no regular file; expected a .jsonl "
                    "(of a pipe, write it to a file)"
                )

    def _configs(self, dataset: Any) -> Iterator[tuple[str, str]]:
        """The local files of `dataset.configs`."""
        configs = dataset.get("configs") if isinstance(dataset, dict) else None
        if not isinstance(configs, list) or not configs:
            self.faults.append("key dataset: expected `configs: [{type: local, path: FILE}]`")
            return
        if dataset.get("max_sample_num"):
            self.faults.append(
                "key dataset.max_sample_num: rows are not sampled while reading; random_selector draws, "
                "--limit N and data_probe_ratio try a recipe"
            )
        for number, config in enumerate(configs, start=1):
            where = f"key dataset.configs, entry {number}"
            if not isinstance(config, dict) or not isinstance(config.get("path"), str):
                self.faults.append(f"{where}: expected {{type: local, path: FILE}}, found {short(config)}")
            elif config.get("type", "local") != "local":
                self.faults.append(
                    f"{where}: expected type local, found {short(config['type'])}: download the data and name the file"
                )
            else:
                yield config["path"], where

    def operator_paths(self) -> Iterator[Path]:
        """The files and packages of `custom_operator_paths`."""
        given = self.content.get("custom_operator_paths") or []
        for name in [given] if isinstance(given, str) else given:
            found = find(name)
            if found is None:
                self.faults.append(f"key custom_operator_paths: {missing(name)}")
            else:
                yield found.resolve()

    def process(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Each entry of `process` as (operator, parameters); model folders become absolute."""
        for number, entry in enumerate(self.content.get("process") or [], start=1):
            entry = {entry: None} if isinstance(entry, str) else entry
            name, params = next(iter(entry.items())) if isinstance(entry, dict) and len(entry) == 1 else (None, None)
            if not isinstance(name, str):
                self.faults.append(f"operator {number}: expected `- operator: {{parameters}}`, found {short(entry)}")
                continue
            where = f"operator {number} ({clipped(name)})"
            if not isinstance(params, dict | None):
                self.faults.append(f"{where}: expected parameters, found {short(params)}")
                continue
            yield self._today(where, name, dict(params or {}))

    def _today(self, where: str, name: str, params: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """An operator under the names of today, with the folders of its models."""
        if name in _RENAMED_OPERATORS:
            self.remarks.append(f"{where}: is called {_RENAMED_OPERATORS[name]} today")
            name = _RENAMED_OPERATORS[name]
        for old, new in _RENAMED_PARAMETERS.get(name, {}).items():
            if old in params and new not in params:
                self.remarks.append(f"{where}: {old} is called {new} today")
                params[new] = params.pop(old)
        if params.get("endpoint") and params.get("hf_captioner"):
            self.faults.append(f"{where}: endpoint and hf_captioner exclude each other: give one of them")
            del params["hf_captioner"]  # nothing more to say of it
        for key, value in params.items():
            if isinstance(key, str) and key.startswith("hf_") and isinstance(value, str):
                params[key] = self._model(value, f"{where}, {key}")
            elif (name, key) in _MADE_OF_THE_DATASET:
                given = value if isinstance(value, list) else [value]
                if all(isinstance(file, str) for file in given):
                    params[key] = self._made(given, _MADE_OF_THE_DATASET[name, key], f"{where}, {key}")
        return name, params

    def _made(self, names: list[str], command: str, where: str) -> list[str]:
        """The absolute paths of files that a command makes of the data set, one for each of its files."""
        files = [find(name) or candidates(name)[-1] for name in names]
        for number, file in enumerate(files):
            dataset = self.found[min(number, len(self.found) - 1)] if self.found else Path("SEED.jsonl")
            if not file.exists():
                self.faults.append(f"{where}: {shown(file)} is missing; `{_typed(command, dataset, file)}` makes it")
        if all(file.exists() for file in files):
            self.remarks += [
                f"{where}: made of other files than {shown(dataset)}: rows of it that are not in them fail; "
                f"`{_typed(command, dataset, files[0])} --overwrite` makes one"
                for dataset in _not_judged(files, self.found)
            ]
        return [str(file.absolute()) for file in files]

    def _model(self, value: str, where: str) -> str:
        """A model folder's absolute path, or a hub name as it is."""
        tried = candidates(value)
        for folder in tried if find(value) else ():
            if any((folder / name).is_file() for name in ("config.json", "model_index.json")):
                return str(folder)
        is_hub_name = value.count("/") == 1 and not value.startswith((".", "/", "~"))
        if is_hub_name and not any(path.parent.is_dir() for path in tried):
            return value  # such as openai/clip-vit-base-patch32
        there = find(value)
        fault = f"{shown(there)} has no config.json; {way_to(there)}" if there else missing(value)
        self.faults.append(f"{where}: model folder {fault}")
        return value

    def token(self, key: str, allowed: tuple[str, ...]) -> str | None:
        """A special token of the rows."""
        token = self.content.get(key)
        if token is not None and token not in allowed:
            self.faults.append(
                f"key {key}: expected {' or '.join(allowed)}, as the challenge's rows have, found {short(token)}"
            )
        return token

    def first(self, key: str, default: str) -> str:
        """The first of the names that a key holds, as Data-Juicer takes it."""
        value = self.content.get(key) or default
        return value if isinstance(value, str) else value[0]

    def ray_address(self) -> str | None:
        """The address of a cluster; `auto` is Data-Juicer's default and starts Ray here."""
        address = self.content.get("ray_address")
        if address == "auto" and self.content.get("executor_type", "default") != "default":
            self.remarks.append("ray_address: Ray starts on this machine; --ray-address auto joins a running cluster")
        return None if address in (None, "auto") else address

    def export_path(self) -> Path | None:
        """The result's file, as Data-Juicer reads it: from the working directory."""
        value = self.content.get("export_path")
        kind = self.content.get("export_type") or "jsonl"
        if value and ("://" in value or not value.endswith(".jsonl") or kind != "jsonl"):
            self.faults.append(
                f"key export_path: the result is a local file of JSON lines; expected NAME.jsonl, found {short(value)}"
            )
            return None
        path = Path(value).expanduser().absolute() if value else None
        if path and path.is_dir():
            self.faults.append(f"key export_path: {shown(path)} is a folder; expected NAME.jsonl")
        return path

    def folder(self, key: str) -> Path | None:
        """A folder that need not be there yet."""
        value = self.content.get(key)
        path = Path(value.replace("{job_id}", "").rstrip("/")).expanduser().absolute() if value else None
        if path and path.exists() and not path.is_dir():
            self.faults.append(f"key {key}: {shown(path)} is a file; expected a folder")
        return path


def _typed(command: str, dataset: Path, file: Path) -> str:
    """A command of `_MADE_OF_THE_DATASET` as a user types it."""
    preset = "mini" if "mini" in dataset.parts else "full"
    return command.format(dataset=shlex.quote(shown(dataset)), preset=preset, file=shlex.quote(shown(file)))


def _not_judged(files: list[Path], datasets: list[Path]) -> list[Path]:
    """The data set's files that no file of image values was made of."""
    from solution.operators.common.image_values import about_values  # takes a second

    try:
        judged = {about_values(file)["seed"]["id"] for file in files}
    except ValueError:  # no such file: the operator says so
        return []
    return [dataset for dataset in datasets if sha256_of(dataset) not in judged]


def _paths_of(text: str) -> list[str]:
    """The paths of a `dataset_path`: one, or several, each with a weight in front where one likes."""
    if find(text):
        return [text]
    try:
        words = shlex.split(text)
    except ValueError:
        return [text]
    paths = [word for word in words if not _is_number(word)]
    return paths if len(paths) > 1 or len(words) > len(paths) else [text]


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
