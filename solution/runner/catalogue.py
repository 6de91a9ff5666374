"""All of Data-Juicer's operators for rows, and what each needs to run here: the table in `docs/operators.md`.

Read from the operators' source and default parameters: nothing is built, loaded or fetched.
"""

import ast
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import packages_distributions
from types import SimpleNamespace
from typing import Any

from data_juicer.utils import model_utils
from data_juicer.utils.lazy_loader import LazyLoader
from packaging.utils import canonicalize_name

from solution.runner.data_juicer import OPERATORS, Deduplicator, Filter, Mapper, Selector, register_stock
from solution.runner.files import ROOT
from solution.runner.needs import OTHER_PACKAGES, distribution, loader_modules, own_installs, reached, subject_of
from solution.runner.record import TESTED_DATA_JUICER

KINDS = (Filter, Mapper, Deduplicator, Selector)
_HEAD = """# Data-Juicer's operators

What `solution/process.py` does with each Filter, Mapper, Deduplicator and Selector of Data-Juicer {version}. Made by

```bash
python solution/process.py operators --markdown > docs/operators.md
```

- *as stock*: the rows are those of `dj-process`, which `tests/solution/test_stock_operators.py` compares.
- *package*: not part of the kit. `pip install -r solution/requirements-stock.txt -c constraints.txt` brings the light
  ones, `solution/requirements-compiled.txt` those that need a compiler. Without it the run ends in one line with the
  command, before a row is read.
- *model*: a folder, a name that a hub's cache knows or, with a network, a name that the hub knows. Files of other kinds
  lie in `~/.cache/data_juicer/models`, lists of words in `~/.cache/data_juicer/assets`; `DATA_JUICER_CACHE_HOME` names
  another folder than `~/.cache/data_juicer`. What is missing is named in one line.
- Names are those of the default parameters; others may need other packages and models.

Groupers, aggregators and Ray pipelines make other rows out of rows, so that none could be traced to its seed: refused.

| operator | here | packages | models |
|---|---|---|---|
"""


@dataclass(frozen=True)
class Entry:
    """One operator of Data-Juicer."""

    name: str
    subject: str  # what it works on that rows here are not; empty where it can work
    packages: tuple[str, ...]  # beyond the kit's
    models: tuple[str, ...]  # with default parameters
    service: bool  # asks a language model behind an OpenAI-compatible address

    @property
    def verdict(self) -> str:
        """The operator's standing in a few words."""
        if self.subject:
            return f"not here: works {self.subject}"
        if self.service:
            return "needs a language model's service"
        needs = [word for word, things in (("package", self.packages), ("model", self.models)) if things]
        return f"as stock, with {' and '.join(needs)}" if needs else "as stock"


def entries() -> list[Entry]:
    """All stock operators of the four kinds, by name."""
    register_stock()
    return [
        _entry(name, kind)
        for name, kind in sorted(OPERATORS.modules.items())
        if issubclass(kind, KINDS) and kind.__module__.startswith("data_juicer.")
    ]


def markdown() -> str:
    """The text of `docs/operators.md`."""
    lines = [
        f"| `{entry.name}` | {entry.verdict} | {', '.join(entry.packages)} | {', '.join(entry.models)} |"
        for entry in entries()
    ]
    return _HEAD.format(version=TESTED_DATA_JUICER) + "\n".join(lines) + "\n"


def _entry(name: str, kind: type) -> Entry:
    subject = subject_of(name, kind)
    if subject:
        return Entry(name, subject, (), (), False)
    defaults = _defaults(kind)
    packages, models, types = set(own_installs(kind)), set(), set()
    for node, module in reached(kind, defaults | {"self": SimpleNamespace(**defaults)}):
        if isinstance(node, ast.Name) and isinstance(vars(module).get(node.id), LazyLoader):
            packages.add(_package(vars(module)[node.id]))
        elif part := _other_operator(node, name):
            packages.update(part.packages)
            models.update(part.models)
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called == "prepare_model":
                model_type = _model_type(node)
                types.add(model_type)
                models.update(_models(model_type, node, defaults))
                packages.update(_loader_packages(model_type))
            elif called == "load_words_asset":
                words = node.args[1] if len(node.args) > 1 else node.keywords[-1].value
                models.add(f"{_value(words, defaults)}.json")
            elif called == "LazyLoader.check_packages":
                packages.update(ast.literal_eval(node.args[0]))
    kept = sorted(package for package in packages - {""} if not _is_part_of_kit(package))
    service = bool(types & {"api", "vllm"})
    return Entry(name, "", tuple(kept), () if service else tuple(sorted(models)), service)


def _other_operator(node: ast.AST, name: str) -> Entry | None:
    """The operator that an operator is made of, where a node is its name or its class."""
    if (
        isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value in OPERATORS.modules
        and node.value != name
    ):
        return _entry(node.value, OPERATORS.modules[node.value])
    own = OPERATORS.modules[name]
    for other, kind in OPERATORS.modules.items():
        if isinstance(node, ast.Name) and kind.__name__ == node.id and not issubclass(own, kind):
            return _entry(other, kind)
    return None


def _defaults(kind: type) -> dict[str, Any]:
    """Parameter -> default of an operator and its bases."""
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if "__init__" in vars(base) and base is not object:
            for key, parameter in inspect.signature(base.__init__).parameters.items():
                if parameter.default is not parameter.empty:
                    found[key] = parameter.default
    return found


def _model_type(call: ast.Call) -> str:
    given = call.args[0] if call.args else next(word.value for word in call.keywords if word.arg == "model_type")
    return ast.literal_eval(given)


def _models(model_type: str, call: ast.Call, defaults: dict[str, Any]) -> Iterator[str]:
    """The model of one `prepare_model` call: what the call names, else what its loader does."""
    given = {word.arg: _value(word.value, defaults) for word in call.keywords if word.arg}
    loader = model_utils.MODEL_FUNCTION_MAPPING.get(model_type)
    own = {key: item.default for key, item in inspect.signature(loader).parameters.items()} if loader else {}
    name = given.get("pretrained_model_name_or_path") or given.get("model_path") or own.get("model_name")
    pattern = own.get("name_pattern")
    if model_type == "opencv_classifier":  # comes with OpenCV
        return
    if model_type in ("nltk", "nltk_pos_tagger"):
        yield "NLTK's punkt_tab" if model_type == "nltk" else "NLTK's averaged_perceptron_tagger_eng"
    elif pattern:
        yield pattern.format(given.get("lang") or "{lang}") + (".tar.gz" if model_type == "spacy" else "")
    elif isinstance(name, str) and name:
        yield name


def _value(node: ast.expr, defaults: dict[str, Any]) -> Any:
    """A literal, or the default of a parameter."""
    if isinstance(node, ast.Constant):
        return node.value
    return defaults.get(ast.unparse(node).removeprefix("self."))


def _loader_packages(model_type: str) -> set[str]:
    found = {_package(loader) for loader in loader_modules(model_utils.MODEL_FUNCTION_MAPPING[model_type])}
    return found | {OTHER_PACKAGES.get(model_type, "")}


@cache
def _distributions() -> Mapping[str, list[str]]:
    """Module -> installed packages that bring it."""
    return packages_distributions()


def _package(loader: LazyLoader) -> str:
    """A lazily imported module's package; empty where one of the kit's brings the module."""
    module = loader._module_name.split(".")[0]
    if any(_is_part_of_kit(name) for name in _distributions().get(module, ())):
        return ""
    package = loader._package_url or loader._package_name
    return package.partition("@")[0].strip() if isinstance(package, str) else module


@cache
def _is_part_of_kit(package: str) -> bool:
    """Whether `constraints.txt` pins it and no file of extras asks for it."""
    name = distribution(package)
    pinned = {distribution(line) for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()}
    extras = {
        distribution(line)
        for file in (ROOT / "solution").glob("requirements-*.txt")
        for line in file.read_text(encoding="utf-8").splitlines()
    }
    return canonicalize_name(name) in pinned - extras
