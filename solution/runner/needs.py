"""What operators need beyond the kit: packages, models and word lists, found or named before a row is read.

Data-Juicer installs and downloads all of them while it works, without a limit of time and, for a file that it cannot
read, after removing it. The functions here take the place of its own (`solution/runner/data_juicer.py` says where).
"""

import ast
import inspect
import os
import re
import shlex
import socket
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import requests
from data_juicer.utils import asset_utils, model_utils
from data_juicer.utils.lazy_loader import LazyLoader
from huggingface_hub import constants, try_to_load_from_cache
from packaging.utils import canonicalize_name

from solution.runner.errors import SetupFault, one_line
from solution.runner.files import ROOT

_SECONDS = 5  # for a host to answer at all
_STALL = 60  # seconds that a transfer may stand still
_CONFIGURATIONS = ("config.json", "model_index.json")
_NLTK_INDEX = "https://raw.githubusercontent.com/nltk/nltk_data/gh-pages/index.xml"
_NLTK_DATA = {  # kind of model -> data that today's NLTK asks for, where Data-Juicer fetches the older names
    "nltk": ("tokenizers/punkt_tab",),
    "nltk_pos_tagger": ("tokenizers/punkt_tab", "taggers/averaged_perceptron_tagger_eng"),
}
# Packages that work without what they ask for: torchvision, of another build than the kit's torch, breaks transformers.
_WITHOUT_DEPENDENCIES = {"simple-aesthetics-predictor"}
# Packages that a kind of model needs and that its loader names in classes only.
OTHER_PACKAGES = {"api": "openai", "nltk_pos_tagger": "nltk"}

_prepare_model = model_utils.prepare_model
_check_model = model_utils.check_model
_update_sampling_params = model_utils.update_sampling_params
_load_words_asset = asset_utils.load_words_asset


# Rows


def check_subject(name: str, kind: type) -> None:
    """Raise SetupFault for an operator that rows of an image and a text can give nothing to."""
    if subject := subject_of(name, kind):
        raise SetupFault(f"it works {subject}, and rows here hold an image and a text in one process")


def subject_of(name: str, kind: Any) -> str:
    """What an operator works on that these rows are not, found in its name and in the keys that its module reads."""
    if not kind.__module__.startswith("data_juicer."):
        return ""
    code = inspect.getsource(sys.modules[kind.__module__])
    if "default" not in kind._supported_exec_modes:
        return "on a Ray cluster only"
    for medium in ("video", "audio"):
        if name.startswith(f"{medium}_") or (f"self.{medium}_key" in code and "self.image_key" not in code):
            return f"on {medium} files"
    for prefix, rows in (("agent_", "on logs of agents"), ("dialog_", "on dialogs"), ("latex_", "on LaTeX")):
        if name.startswith(prefix):
            return rows
    if "Fields.suffix" in code:
        return "on the endings of a data set's files"
    return "within dj-process's op_fusion" if "fused" in name else ""


# Packages


def install_command(package: str) -> str:
    """The pip command for a package: the kit's file of requirements that names it, else the package; tested versions.

    Paths are absolute unless the command would be typed in the repository's folder.
    """
    name = distribution(package)
    for file in sorted((ROOT / "solution").glob("requirements-*.txt")):
        if name in {distribution(line) for line in file.read_text(encoding="utf-8").splitlines()} - {""}:
            return f"pip install -r {_typed(file)} -c {_typed(ROOT / 'constraints.txt')}"
    options = "--no-deps " if name in _WITHOUT_DEPENDENCIES else ""
    return f"pip install {options}{shlex.quote(package)} -c {_typed(ROOT / 'constraints.txt')}"


def distribution(requirement: str) -> str:
    """The canonical name that a requirement begins with; empty for a comment or an address."""
    found = re.match(r"[A-Za-z0-9][\w.-]*", requirement.strip())
    return canonicalize_name(found[0]) if found and not requirement.startswith("git+") else ""


def _typed(path: Path) -> str:
    return shlex.quote(str(path.relative_to(ROOT) if Path.cwd() == ROOT else path))


def check_packages(operator: Any) -> None:
    """Raise ImportError for a package that the operator's code uses in every case and that is not installed.

    Found in the source: the library's lazily imported modules by name, in all methods but the constructor (which has
    run) and under all conditions but those that the operator's own attributes decide.
    """
    for loader in lazy_modules(operator):
        require(loader)


def own_installs(kind: type) -> list[str]:
    """The packages that an operator's module has pip install by itself."""
    code = inspect.getsource(sys.modules[kind.__module__]) if kind.__module__.startswith("data_juicer.") else ""
    return re.findall(r'"pip", "install", "([\w.-]+)"', code)


def check_own_installs(kind: type) -> None:
    """Raise ImportError for a package that the operator's constructor would have pip install."""
    for package in own_installs(kind):
        try:
            metadata.version(package)
        except metadata.PackageNotFoundError:
            raise ImportError(missing_package(package)) from None


def require(loader: LazyLoader) -> None:
    """Raise ImportError, with the pip command, where a lazily imported module is not installed."""
    module = loader._module_name.split(".")[0]
    if find_spec(module) is None:
        package = loader._package_url or loader._package_name
        raise ImportError(missing_package(package if isinstance(package, str) else module))


def missing_package(package: str) -> str:
    """One line on a package that is not installed."""
    return f"needs the package {package}; install it ({install_command(package)}) and run again"


def lazy_modules(operator: Any) -> Iterator[LazyLoader]:
    """The lazily imported modules that an operator uses with its parameters, outside of its constructor."""
    for node, module in reached(type(operator), {"self": operator}, "__init__"):
        value = vars(module).get(node.id) if isinstance(node, ast.Name) else None
        if isinstance(value, LazyLoader):
            yield value


def loader_modules(load: FunctionType) -> Iterator[LazyLoader]:
    """The lazily imported modules that one of Data-Juicer's functions which load a model uses."""
    functions, _ = _definitions(model_utils)
    # Not of functions inside: they are what a loader hands out, not what it does.
    body = [node for node in functions[load.__name__].body if not isinstance(node, ast.FunctionDef)]
    for node in _reached(body, model_utils, {}):
        value = vars(model_utils).get(node.id) if isinstance(node, ast.Name) else None
        if isinstance(value, LazyLoader):
            yield value


def reached(kind: type, scope: dict[str, Any], but: str = "") -> Iterator[tuple[ast.AST, ModuleType]]:
    """All nodes of an operator's source, with their module, that conditions on the names in ``scope`` do not rule out.

    ``but`` is a method that is left out.
    """
    for base in kind.__mro__:
        if base.__module__.startswith("data_juicer.ops.") and not base.__module__.endswith(".base_op"):
            module = sys.modules[base.__module__]
            _, classes = _definitions(module)
            body = classes[base.__name__].body if base.__name__ in classes else []
            used = [node for node in body if not (isinstance(node, ast.FunctionDef) and node.name == but)]
            for node in _reached(used, module, scope):
                yield node, module


@cache
def _definitions(module: ModuleType) -> tuple[dict[str, ast.FunctionDef], dict[str, ast.ClassDef]]:
    body = ast.parse(inspect.getsource(module)).body
    functions = {node.name: node for node in body if isinstance(node, ast.FunctionDef)}
    return functions, {node.name: node for node in body if isinstance(node, ast.ClassDef)}


def _reached(nodes: Iterable[ast.AST], module: ModuleType, scope: dict[str, Any]) -> Iterator[ast.AST]:
    functions, _ = _definitions(module)
    waiting = list(nodes)
    seen: set[str] = set()
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and scope.keys() & _names(node.test):
            verdict = _decided(node.test, scope)
            waiting += [node.test, *(node.body if verdict else node.orelse if verdict is False else [])]
            continue
        yield node
        if isinstance(node, ast.Name) and node.id in functions and node.id not in seen:
            seen.add(node.id)
            waiting.append(functions[node.id])
        waiting += ast.iter_child_nodes(node)


def _names(test: ast.expr) -> set[str]:
    return {node.id for node in ast.walk(test) if isinstance(node, ast.Name)}


def _decided(test: ast.expr, scope: dict[str, Any]) -> bool | None:
    """What a condition on nothing but the names in ``scope`` comes to; None for any other."""
    if not scope.keys() >= _names(test) or any(isinstance(node, ast.Call) for node in ast.walk(test)):
        return None
    try:
        return bool(eval(compile(ast.Expression(test), "", "eval"), {}, scope))
    except (AttributeError, TypeError):  # an attribute that is set later
        return None


# Models


@wraps(_prepare_model)
def prepare_model(model_type: str, **parameters: Any) -> Any:
    """In place of Data-Juicer's: raises where a package or the model is missing, before anything is loaded."""
    load = model_utils.MODEL_FUNCTION_MAPPING[model_type]
    for loader in loader_modules(load):
        require(loader)
    other = OTHER_PACKAGES.get(model_type)
    if other and parameters.get("api_backend") is None and find_spec(other) is None:
        raise ImportError(missing_package(other))
    key = next((key for key in ("pretrained_model_name_or_path", "model_path") if key in parameters), None)
    if key and ("from_pretrained" in inspect.getsource(load) or model_type == "vllm"):
        parameters[key] = _hub_model(str(parameters[key]))
    if model_type == "opencv_classifier" and not os.path.isfile(parameters["model_path"]):
        raise SetupFault(f"the classifier {parameters['model_path']} is no file; expected one of OpenCV's .xml files")
    _fetch_nltk_data(_NLTK_DATA.get(model_type, ()))
    with _no_stall():
        return _prepare_model(model_type, **parameters)


@wraps(_update_sampling_params)
def update_sampling_params(sampling_params: Any, pretrained_model_name_or_path: str, *args: Any, **options: Any) -> Any:
    """In place of Data-Juicer's, which asks the hub for the model's settings before anything else."""
    return _update_sampling_params(sampling_params, _hub_model(pretrained_model_name_or_path), *args, **options)


def _hub_model(name: str) -> str:
    """The folder of a model, from a cache where one has it; its name where it has to be fetched, and can be."""
    folder = model_utils.check_model_home(name)
    if os.path.isdir(folder):
        return folder
    if cached := _hugging_face_folder(name) or _modelscope_folder(name):
        return cached
    advice = "give the folder of a model in the recipe"
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise SetupFault(f"model {name} is neither a folder nor a hub's name; {advice}")
    address = f"{constants.ENDPOINT}/{name}"
    fault = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else unreachable(f"{address}/resolve/main/config.json")
    if fault:
        raise SetupFault(
            f"model {name} is neither a folder nor in the cache {constants.HF_HUB_CACHE}, and {fault}; fetch it where "
            f"there is a network (`hf download {name}`) and copy it to that cache, or {advice}"
        )
    return name


def _hugging_face_folder(name: str) -> str | None:
    """The newest snapshot of a model in Hugging Face's cache, where it holds more than a configuration."""
    try:
        found = [
            try_to_load_from_cache(name, configuration, cache_dir=constants.HF_HUB_CACHE)
            for configuration in _CONFIGURATIONS
        ]
    except ValueError:  # no name that a hub could have
        return None
    folders = [Path(file).parent for file in found if isinstance(file, str)]
    return next((str(folder) for folder in folders if len(list(folder.iterdir())) > 1), None)


def _modelscope_folder(name: str) -> str | None:
    """The folder of a model in ModelScope's cache, in any of the layouts that it has had."""
    home = Path(os.environ.get("MODELSCOPE_CACHE", "~/.cache/modelscope")).expanduser()
    owner, _, model = name.partition("/")
    for folder in (home / "hub" / "models", home / "models", home / "hub"):
        for spelling in (model, model.replace(".", "___")):
            if any((folder / owner / spelling / file).is_file() for file in _CONFIGURATIONS):
                return str(folder / owner / spelling)
    return None


@wraps(_check_model)
def check_model(model_name: str, force: bool = False) -> str:
    """In place of Data-Juicer's: the path of a model file, fetched where it is missing and its host can be reached.

    ``force`` says that the file could not be loaded: it stays where it is, and that is the fault.
    """
    place = model_utils.DJMC
    folders = [*filter(None, map(str.strip, (model_utils.DJEMH or "").split(os.pathsep))), place]
    found = next((path for path in ("", *folders) if os.path.exists(os.path.join(path, model_name))), None)
    if found is not None and not force:
        return os.path.join(found, model_name)
    if found is not None:
        error = sys.exc_info()[1]
        reason = f" ({one_line(error)})" if error else ""
        raise SetupFault(
            f"model {os.path.join(found, model_name)} cannot be loaded{reason}; place a good one there"
        ) from error
    backup = model_utils.get_backup_model_link(model_name)
    addresses = [
        base if base.endswith(model_name) else base.rstrip("/") + f"/{model_name}"
        for base in (model_utils.MODEL_LINKS, backup)
        if base
    ]
    faults = [unreachable(address) for address in addresses]
    if all(faults):
        raise SetupFault(
            f"model {model_name} is neither in {place} nor in a folder of DATA_JUICER_EXTERNAL_MODELS_HOME, and "
            f"{faults[-1]}; place it in {place} ({addresses[-1]})"
        )
    with _no_stall():
        return _check_model(model_name, force=True)


@wraps(_load_words_asset)
def load_words_asset(words_dir: str, words_type: str) -> dict[str, list[str]]:
    """In place of Data-Juicer's: the words by language, from the folder's files, else fetched once."""
    folder = Path(words_dir)
    there = [file for file in folder.glob("*.json") if words_type in file.name] if folder.is_dir() else []
    address = asset_utils.ASSET_LINKS.get(words_type, "")
    fault = unreachable(address) if not there else ""
    if fault:
        raise SetupFault(
            f"no file *{words_type}*.json in {words_dir}, and {fault}; place one there, a JSON object of language: "
            f"list of words ({address})"
        )
    try:
        with _no_stall():
            return _load_words_asset(words_dir, words_type)
    except (ValueError, TypeError, AttributeError) as error:
        raise SetupFault(
            f"a file *{words_type}*.json in {words_dir} is no JSON object of language: list of words: {error}"
        ) from error


def ensure_nltk_resource(resource_path: str, fallback_package: str | None = None) -> bool:
    """In place of Data-Juicer's, which downloads first and looks afterwards: `prepare_model` has looked."""
    return True


def _fetch_nltk_data(paths: Collection[str]) -> None:
    """Fetch what NLTK lacks. Raises SetupFault, naming all of it, where its server cannot be reached."""
    if not paths:
        return
    import nltk

    missing = []
    for path in paths:
        try:
            nltk.data.find(path)
        except LookupError:
            missing.append(path.split("/")[1])
    if missing and (fault := unreachable(_NLTK_INDEX)):
        raise SetupFault(
            f"NLTK's data {' and '.join(missing)} is in no folder of NLTK_DATA ({nltk.data.path[0]} and others), and "
            f"{fault}; fetch it where there is a network (`python -m nltk.downloader {' '.join(missing)}`) and copy it "
            "there"
        )
    with _no_stall():
        for name in missing:
            nltk.download(name, quiet=True)


# Network


@cache
def unreachable(address: str) -> str:
    """Why an address cannot be fetched from, in a few words; empty where it can. Asked once per run, within seconds."""
    host = address.split("/")[2] if "//" in address else address
    try:
        answer = requests.head(address, timeout=_SECONDS, allow_redirects=True)
    except requests.RequestException:
        return f"{host} cannot be reached"
    if answer.status_code in (401, 403):
        return f"{host} asks for a login or a licence (HF_TOKEN)"
    return f"{host} does not have it" if answer.status_code in (404, 410) else ""


@contextmanager
def _no_stall() -> Iterator[None]:
    """A limit on how long a download that Data-Juicer starts may stand still."""
    usual = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_STALL)
    try:
        yield
    finally:
        socket.setdefaulttimeout(usual)
