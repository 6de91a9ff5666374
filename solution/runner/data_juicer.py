"""The adapter to Data-Juicer: every point in which this kit runs it differently from `dj-process`.

`DEVIATIONS` lists the points, each with its reason and with the code of Data-Juicer that it was read against; a test
fails when that code changes. The other modules of `solution/runner` take Data-Juicer's names from here, so that the
patches are in effect before anything of it runs.
"""

import ast
import random
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import wraps
from importlib import import_module, metadata, reload
from importlib.util import module_from_spec, spec_from_file_location
from itertools import repeat
from pathlib import Path
from types import MethodType, ModuleType, SimpleNamespace
from typing import Any

import data_juicer
import numpy as np
from data_juicer.utils.lazy_loader import LazyLoader
from loguru import logger
from packaging.requirements import InvalidRequirement, Requirement

from solution.operators.common.faults import loading
from solution.operators.common.measures import SIZE, known_measure, upright_size
from solution.operators.common.rows import MEASURES, row_seed
from solution.runner.record import TESTED_DATA_JUICER

logger.remove()
logger.add(sys.stderr, level="WARNING")  # Data-Juicer's own takes INFO: a line for every plug-in
_FOLDER = Path(data_juicer.__file__).parent
_OPERATOR_PACKAGES = tuple(
    f"data_juicer.ops.{kind}"
    for kind in ("aggregator", "deduplicator", "filter", "grouper", "mapper", "pipeline", "selector")
)


@dataclass(frozen=True)
class Deviation:
    """One point in which this kit runs Data-Juicer differently from `dj-process`."""

    target: str  # what of Data-Juicer is concerned
    how: str  # patch (of its modules and classes), instance (of one operator), parameter, or call (other calls of ours)
    instead: str  # what happens here
    reason: str
    read: Mapping[str, str]  # Data-Juicer's code this relies on: dotted name -> start of its source's sha256
    version: str = TESTED_DATA_JUICER  # the Data-Juicer that was read


DEVIATIONS = (
    Deviation(
        "LazyLoader._install_package",
        "patch",
        "a missing package is an error that names it and the pip command",
        "Data-Juicer installs packages during a run, without an off switch, and may replace tested versions",
        {
            "data_juicer.utils.lazy_loader.LazyLoader._install_package": "7713a67862e6",
            "data_juicer.utils.lazy_loader.LazyLoader._load": "de269e2cc69c",
            "data_juicer.utils.lazy_loader.LazyLoader.__getattr__": "1c87fdf0ade7",
            "data_juicer.utils.lazy_loader.LazyLoader.check_packages": "969a6bcc261f",
        },
    ),
    Deviation(
        "the packages data_juicer.core and data_juicer.ops.*",
        "patch",
        "their __init__ runs only where all operators are needed; a name that it imports is imported alone",
        "each __init__ imports all of its package, ray and 200 operators: 4.8 s and 237 MB at start instead of 2.1 s "
        "and 173 MB",
        {"data_juicer.ops": "4968ab483755", "data_juicer.core": "7d67b2cbcb3c"},
    ),
    Deviation(
        "base_op.free_models",
        "patch",
        "does nothing while torch is not loaded",
        "it runs after every operator and imports torch to empty the cache of a GPU",
        {
            "data_juicer.utils.model_utils.free_models": "d6d901ccea11",
            "data_juicer.ops.base_op.Mapper.run": "443bd5d5c5c6",
        },
    ),
    Deviation(
        "model_utils.get_model",
        "patch",
        "a model that cannot be loaded ends the run",
        "the operator would raise for every row, and load the model again for each",
        {"data_juicer.utils.model_utils.get_model": "44e1b28e04ae"},
    ),
    Deviation(
        "model_utils.prepare_model",
        "patch",
        "a missing package or model is named first; a model in a hub's cache is given by its folder (`needs.py`)",
        "packages and models were missed when a row was worked on, after minutes of retries without a network",
        {
            "data_juicer.utils.model_utils.prepare_model": "5c18eb9ae635",
            "data_juicer.utils.model_utils.check_model_home": "66204f2787fc",
        },
    ),
    Deviation(
        "model_utils.update_sampling_params",
        "patch",
        "the model is looked for first",
        "without a network 23 s of retries for the settings of a model that is not there",
        {"data_juicer.utils.model_utils.update_sampling_params": "5992377f8001"},
    ),
    Deviation(
        "model_utils.check_model",
        "patch",
        "a file that cannot be loaded is left alone and named; a missing one is fetched if its host answers",
        "Data-Juicer removes the file and fetches it again, also where only a package was missing",
        {"data_juicer.utils.model_utils.check_model": "c3e50d45778d"},
    ),
    Deviation(
        "model_utils.ensure_nltk_resource",
        "patch",
        "does nothing; `needs.prepare_model` looks for NLTK's data and fetches what today's NLTK asks for",
        "Data-Juicer downloads at each start, though the data is there, and under names that NLTK no longer reads",
        {"data_juicer.utils.nltk_utils.ensure_nltk_resource": "3cc57e6d8e62"},
    ),
    Deviation(
        "asset_utils.load_words_asset",
        "patch",
        "a missing list of words is fetched if its host answers, else named with its place",
        "without a network the run ended in a connection pool's text",
        {"data_juicer.utils.asset_utils.load_words_asset": "f6a601c65e06"},
    ),
    Deviation(
        "NestedDataset.cleanup_cache_files",
        "patch",
        "keeps the files; a checkpoint removes them after the operator",
        "it removes all other files of the folder, among them those of the parts around a bad row",
        {
            "data_juicer.core.data.NestedDataset.cleanup_cache_files": "f22f60ac9871",
            "data_juicer.core.data.NestedDataset.__init__": "7c5a1bfe0c25",
            "data_juicer.core.data.NestedDataset.map": "cd2d1c9b6016",
            "data_juicer.core.data.NestedDataset.filter": "ff2525788e26",
        },
    ),
    Deviation(
        "Filter.compute_stats_batched, Filter.process_batched",
        "instance",
        "filters that inherit these two are called with whole rows and return whole rows",
        "Data-Juicer keeps nothing but a row's stats (the reason why a row failed is lost) and shows a decision "
        "nothing else; called row by row instead, a filter costs 0.3 ms more per row",
        {
            "data_juicer.ops.base_op.Filter.compute_stats_batched": "91e0c8579a74",
            "data_juicer.ops.base_op.Filter.process_batched": "844d6168c2d0",
            "data_juicer.ops.base_op.Filter.__init__": "ffe015891d9e",
        },
    ),
    Deviation(
        "image_shape_filter, image_aspect_ratio_filter",
        "instance",
        "they get sizes that are known since the seed was read, else images whose header alone was read, through "
        "Data-Juicer's `context`",
        "they ask for width and height, and Data-Juicer decodes every pixel for it",
        {
            "data_juicer.utils.mm_utils.load_image": "9cee25e3db21",
            "data_juicer.utils.mm_utils.load_data_with_context": "3c9318f64d9b",
            "data_juicer.ops.filter.image_shape_filter.ImageShapeFilter": "c75af4e1347d",
            "data_juicer.ops.filter.image_aspect_ratio_filter.ImageAspectRatioFilter": "a57d10ef0073",
        },
    ),
    Deviation(
        "PIL.ImageFile.LOAD_TRUNCATED_IMAGES",
        "parameter",
        "off while `operators/common/images.py` opens an image",
        "Data-Juicer sets it on import; a truncated JPEG then passes with its lower part grey",
        {"data_juicer": "24cd88825922"},
    ),
    Deviation(
        "OP parameters",
        "parameter",
        "skip_op_error: false, auto_op_parallelism: false, num_proc: none unless the recipe's np is above 1, "
        "batch_mode: true for filters (`pipeline.build_operators`)",
        "with skip_op_error one bad row silently loses its whole batch; two processes are started per operator, at "
        "seconds each",
        {
            "data_juicer.ops.base_op.catch_map_batches_exception": "4315ceda2f85",
            "data_juicer.ops.base_op.catch_map_single_exception": "e03a278fbd1b",
            "data_juicer.ops.base_op.OP.runtime_np": "5dad77fc99c5",
            "data_juicer.ops.base_op.OP.is_batched_op": "7cb96f920347",
            "data_juicer.ops.load.load_ops": "1b39639bafc6",
        },
    ),
    Deviation(
        "Filter.run",
        "call",
        "run with reduce=False on a stats column that is there already, then `process` (`pipeline.run_operator`)",
        "the audit needs the scores of dropped rows; Data-Juicer would add the column row by row",
        {"data_juicer.ops.base_op.Filter.run": "905afedcd11f", "data_juicer.ops.base_op.OP.run": "8967ab11c213"},
    ),
    Deviation(
        "Deduplicator.run",
        "call",
        "batched deduplicators: `compute_hash` in batches, then `process` (`pipeline.run_operator`)",
        "Data-Juicer passes no batch size and hashes rows one at a time",
        {
            "data_juicer.ops.base_op.Deduplicator.run": "88d3cb7aff00",
            "data_juicer.ops.base_op.Deduplicator.__init__": "d6c1b28517b0",
        },
    ),
    Deviation(
        "DJ_PRODUCED_DATA_DIR, save_dir",
        "parameter",
        "the folder of the unfinished run; `images/produced.py` takes the images from there",
        "Data-Juicer writes images into the seed's folder, under names of process and time: each run makes all again",
        {"data_juicer.utils.file_utils.transfer_filename": "82755d728257"},
    ),
    Deviation(
        "random numbers",
        "call",
        "`random`, numpy's and torch's generators start at a fixed seed for each operator (`seed_random`)",
        "operators draw (image_blur_mapper its rows), and a second or resumed run would draw other ones",
        {"data_juicer.ops.mapper.image_blur_mapper.ImageBlurMapper.process_single": "266274905c1a"},
    ),
)


@wraps(LazyLoader._install_package.__func__)
def _refuse_install(_: type[LazyLoader], package: str, *_args: Any, **_kwargs: Any) -> None:
    """Raise ImportError naming the package, unless it is installed (under another name than its module's)."""
    error = sys.exc_info()[1]  # what the import raised, where it was tried under the module's own name
    is_installed = _is_installed(package)
    if isinstance(error, ImportError) and (is_installed or not isinstance(error, ModuleNotFoundError)):
        raise ImportError(f"the package {package} cannot be imported: {error}") from error
    if is_installed:
        return
    raise ImportError(needs.missing_package(package))


def _is_installed(package: str) -> bool:
    """Whether a distribution that meets the requirement is installed."""
    try:
        wanted = Requirement(package)
        return wanted.specifier.contains(metadata.version(wanted.name), prereleases=True)
    except (InvalidRequirement, metadata.PackageNotFoundError):
        return False


LazyLoader._install_package = classmethod(_refuse_install)


def _defer(name: str) -> None:
    """Put a package in `sys.modules` that imports each name of its __init__ when it is asked for."""
    folder = _FOLDER.joinpath(*name.split(".")[1:])
    spec = spec_from_file_location(name, folder / "__init__.py", submodule_search_locations=[str(folder)])
    assert spec is not None, "Python has a loader for every .py file"
    package = sys.modules[name] = module_from_spec(spec)
    statements = ast.parse((folder / "__init__.py").read_text(encoding="utf-8")).body
    module_of = {
        alias.name: node.module for node in statements if isinstance(node, ast.ImportFrom) for alias in node.names
    }

    def find(attribute: str) -> Any:
        if attribute not in module_of:
            raise AttributeError(f"module {name!r} has no attribute {attribute!r}")
        return getattr(import_module(f".{module_of[attribute]}", name), attribute)

    vars(package)["__getattr__"] = find  # PEP 562: called for names that the package lacks


def _run_init(package: ModuleType) -> None:
    """Run the __init__ of a deferred package."""
    if vars(package).pop("__getattr__", None):
        reload(package)


for _name in ("data_juicer.core", *_OPERATOR_PACKAGES):
    if _name not in sys.modules:
        _defer(_name)

# Its logging would import all of IPython, to ask whether this is a notebook.
_modules: dict[str, Any] = sys.modules
_modules.setdefault("IPython", None)
from data_juicer.core.data import NestedDataset  # noqa: E402
from data_juicer.ops import (  # noqa: E402
    OPERATORS,
    Deduplicator,
    Filter,
    Mapper,
    Selector,
    base_op,
    load_ops,
)
from data_juicer.utils import asset_utils, model_utils  # noqa: E402
from data_juicer.utils.constant import Fields  # noqa: E402
from data_juicer.utils.mm_utils import SpecialTokens, load_image  # noqa: E402
from PIL import Image  # noqa: E402

if _modules["IPython"] is None:
    del _modules["IPython"]

from solution.runner import needs  # noqa: E402

_get_model = model_utils.get_model


def _free_models() -> None:
    if "torch" in sys.modules:
        model_utils.free_models()


@wraps(_get_model)
def _load_once(model_key: Any = None, rank: int | None = None, use_cuda: bool = False) -> Any:
    names = [str(value) for value in model_key.keywords.values() if isinstance(value, str)] if model_key else []
    with loading(" ".join(names[:1])):
        return _get_model(model_key, rank, use_cuda)


def _keep_files(self: NestedDataset) -> int:
    return 0


base_op.free_models = _free_models
model_utils.get_model = _load_once
model_utils.prepare_model = needs.prepare_model
model_utils.update_sampling_params = needs.update_sampling_params
model_utils.check_model = needs.check_model
model_utils.ensure_nltk_resource = needs.ensure_nltk_resource
asset_utils.load_words_asset = needs.load_words_asset
NestedDataset.cleanup_cache_files = _keep_files

STATS = Fields.stats  # the column in which filters keep a row's scores
_SIZE_FILTERS = ("image_shape_filter", "image_aspect_ratio_filter")


def register_stock(names: Collection[str] = ()) -> None:
    """Import Data-Juicer's operators of these names, which registers them; without names all.

    Names of other operators are ignored.
    """
    for name in names:
        for file in _FOLDER.glob(f"ops/*/{name}.py"):
            import_module(f"data_juicer.ops.{file.parent.name}.{name}")
    if not names:
        for package in _OPERATOR_PACKAGES:
            _run_init(sys.modules[package])


def load_operator(name: str, parameters: dict[str, Any]) -> Any:
    """Data-Juicer's operator object; a filter is one that keeps whole rows. Raises what the operator raises."""
    needs.check_subject(name, OPERATORS.modules[name])
    needs.check_own_installs(OPERATORS.modules[name])
    (operator,) = load_ops([{name: parameters}])
    needs.check_packages(operator)
    if isinstance(operator, Filter) and operator.is_batched_op():
        if type(operator).compute_stats_batched is Filter.compute_stats_batched:
            operator.compute_stats = MethodType(_score_rows, operator)
        if type(operator).process_batched is Filter.process_batched:
            operator.process = MethodType(_judge_rows, operator)
        if name in _SIZE_FILTERS:
            operator.compute_stats = MethodType(_score_headers, operator)
    return operator


def seed_random(key: str) -> None:
    """Start the random numbers that an operator may draw; ``key`` decides which."""
    number = row_seed(0, key)
    random.seed(number)
    np.random.seed(number % 2**32)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(number)


def _columns(samples: Any) -> dict[str, list[Any]]:
    """A batch as a plain dict; Data-Juicer's own iterates over values."""
    return {key: samples[key] for key in samples.keys()}  # noqa: SIM118


def _rows(samples: Any) -> list[dict[str, Any]]:
    columns = _columns(samples)
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _score_rows(operator: Filter, samples: Any, *args: Any) -> dict[str, list[Any]]:
    rows = [operator.compute_stats_single(row, *args) for row in _rows(samples)]
    return {key: [row[key] for row in rows] for key in rows[0]}


def _judge_rows(operator: Filter, samples: Any) -> list[bool]:
    return [operator.process_single(row) for row in _rows(samples)]


def _score_headers(operator: Filter, samples: Any) -> dict[str, list[Any]]:
    columns = _columns(samples)
    measures = columns.get(MEASURES) or repeat(None)
    columns[Fields.context] = [
        {path: _sized(path, text) for path in paths or ()}
        for paths, text in zip(columns[operator.image_key], measures, strict=False)
    ]
    scored = operator.compute_stats_batched(columns, context=True)
    return {key: values for key, values in scored.items() if key != Fields.context}


def _sized(path: str, measures: str | None) -> Any:
    """An image, or what stands for it, with `width` and `height`."""
    if size := known_measure(measures, path, SIZE):
        return SimpleNamespace(width=size[0], height=size[1])
    return _header(path)


def _header(path: str) -> Image.Image:
    """An image with its size known; one that EXIF rotates is loaded whole, as Data-Juicer turns it."""
    with Image.open(path) as image:
        return image if upright_size(image) else load_image(path)


__all__ = [
    "DEVIATIONS", "OPERATORS", "STATS", "Deduplicator", "Deviation", "Filter", "Mapper", "NestedDataset", "Selector",
    "SpecialTokens", "load_operator", "register_stock", "seed_random",
]  # fmt: skip
