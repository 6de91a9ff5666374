"""Data-Juicer as this kit uses it: in this process, without ray, and never installing a package.

Everything in `solution/` beside the operators takes Data-Juicer's names from here, so that the precautions come first.
"""

import sys
from collections.abc import Iterable
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import data_juicer
from data_juicer.utils.lazy_loader import LazyLoader


def _refuse_install(package: str, *_: object) -> NoReturn:
    """Stands in for Data-Juicer's installer, which has no off switch and also installs from local caches."""
    raise ImportError(f"needs the package {package}; install it yourself (pip install '{package}') and run again")


LazyLoader._install_package = _refuse_install

_FOLDER = Path(data_juicer.__file__).parent
# Packages whose __init__ imports all that is in them: every executor and with them ray, 200 operators.
_CROWDED = (
    "data_juicer.core", "data_juicer.ops.aggregator", "data_juicer.ops.deduplicator", "data_juicer.ops.filter",
    "data_juicer.ops.grouper", "data_juicer.ops.mapper", "data_juicer.ops.pipeline", "data_juicer.ops.selector",
)  # fmt: skip
_waiting: dict[str, ModuleType] = {}  # those of them whose __init__ has not been run

for _name in _CROWDED:
    # Its modules can be imported one by one from a package that is there but was not run.
    if _name not in sys.modules:
        _folder = _FOLDER.joinpath(*_name.split(".")[1:])
        _spec = spec_from_file_location(_name, _folder / "__init__.py", submodule_search_locations=[str(_folder)])
        _waiting[_name] = sys.modules[_name] = module_from_spec(_spec)

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
from data_juicer.utils import model_utils  # noqa: E402
from data_juicer.utils.constant import Fields  # noqa: E402
from data_juicer.utils.mm_utils import load_image  # noqa: E402
from PIL import Image  # noqa: E402


def _free_models_if_any() -> None:
    """Stands in for what Data-Juicer calls behind every operator, which loads torch to empty its cache."""
    if "torch" in sys.modules:
        model_utils.free_models()


def _keep_files(self: NestedDataset) -> int:
    """Stands in for what removes all other files of a folder, among them the other halves around a bad row."""
    return 0


base_op.free_models = _free_models_if_any
NestedDataset.cleanup_cache_files = _keep_files

_SIZE_ONLY = ("image_shape_filter", "image_aspect_ratio_filter")
_ORIENTATION = 0x0112  # the EXIF entry that says how a camera was held


def _each_row(samples: Any) -> list[dict[str, Any]]:
    """A batch's rows."""
    columns = {key: samples[key] for key in samples.keys()}  # noqa: SIM118  it is no dict and iterates over values
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _score_each(self: Filter, samples: Any, *args: Any) -> dict[str, list[Any]]:
    """Stands in for a method that keeps nothing but the stats of a row."""
    rows = [self.compute_stats_single(row, *args) for row in _each_row(samples)]
    return {key: [row[key] for row in rows] for key in rows[0]}


def _judge_each(self: Filter, samples: Any) -> list[bool]:
    """Stands in for a method that shows nothing but the stats of a row."""
    return [self.process_single(row) for row in _each_row(samples)]


# So that every filter can be called with many rows at once (`batch_mode`): one by one costs 0.3 ms a row and call.
Filter.compute_stats_batched, Filter.process_batched = _score_each, _judge_each


def register_stock(names: Iterable[str] = ()) -> None:
    """Import Data-Juicer's operators of these names, which registers them; without names all.

    Names that are none of Data-Juicer's are passed over.
    """
    try:
        for name in names:
            for file in _FOLDER.glob(f"ops/*/{name}.py"):
                import_module(f"data_juicer.ops.{file.parent.name}.{name}")
    except ImportError:  # it takes another operator out of its package
        names = ()
    if not names:
        for package in [name for name in _waiting if name != "data_juicer.core"]:
            module = _waiting.pop(package)
            module.__spec__.loader.exec_module(module)


def read_headers_only(operator: Any) -> None:
    """Let a stock filter that asks for width and height alone read a picture's header instead of all its pixels."""
    if operator._name in _SIZE_ONLY:
        sys.modules[type(operator).__module__].load_image = _header


def _header(path: str) -> Image.Image:
    """A picture with its size known; one that EXIF turns round is loaded whole, as Data-Juicer turns it."""
    with Image.open(path) as picture:
        return picture if picture.getexif().get(_ORIENTATION, 1) == 1 else load_image(path)


STATS = Fields.stats  # the column in which filters keep a row's scores

__all__ = [
    "OPERATORS", "STATS", "Deduplicator", "Filter", "Mapper", "NestedDataset", "Selector", "load_ops",
    "read_headers_only", "register_stock",
]  # fmt: skip
