"""Data-Juicer as this kit uses it: in this process, without ray, and never installing a package.

Everything in `solution/` beside the operators takes Data-Juicer's names from here, so that the precautions come first.
"""

import importlib.util
import sys
from types import ModuleType
from typing import Any, NoReturn

from data_juicer.utils.lazy_loader import LazyLoader


def _refuse_install(package: str, *_: object) -> NoReturn:
    """Stands in for Data-Juicer's installer, which has no off switch and also installs from local caches."""
    raise ImportError(f"needs the package {package}; install it yourself (pip install '{package}') and run again")


LazyLoader._install_package = _refuse_install

if "data_juicer.core" not in sys.modules:
    # Its __init__ imports every executor and with them ray; an empty package of that name gives the parts without it.
    _core = ModuleType("data_juicer.core")
    _core.__path__ = list(importlib.util.find_spec("data_juicer.core").submodule_search_locations)
    sys.modules["data_juicer.core"] = _core

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


base_op.free_models = _free_models_if_any

_SIZE_ONLY = ("image_shape_filter", "image_aspect_ratio_filter")
_ORIENTATION = 0x0112  # the EXIF entry that says how a camera was held


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
    "read_headers_only",
]  # fmt: skip
