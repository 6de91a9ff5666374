"""Data-Juicer as this kit uses it: in this process, without ray, and never installing a package.

Everything in `solution/` beside the operators takes Data-Juicer's names from here, so that the precautions come first.
"""

import importlib.util
import sys
from types import ModuleType
from typing import NoReturn

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
from data_juicer.ops import OPERATORS, Deduplicator, Filter, Mapper, Selector, load_ops  # noqa: E402
from data_juicer.utils.constant import Fields  # noqa: E402

STATS = Fields.stats  # the column in which filters keep a row's scores

__all__ = ["OPERATORS", "STATS", "Deduplicator", "Filter", "Mapper", "NestedDataset", "Selector", "load_ops"]
