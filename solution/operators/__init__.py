"""Our Data-Juicer operators, each in the file of its name.

`process.py` registers only those that a recipe names, as the libraries of a model take seconds to load. Loaded any
other way (Data-Juicer's `custom_operator_paths: [solution/operators]`), the package registers them all.
"""

from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

_KINDS = ("_mapper", "_filter", "_deduplicator", "_selector")
NAMES = tuple(sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem.endswith(_KINDS)))


def register(names: Iterable[str] = NAMES) -> None:
    """Import the files of these operators, which registers them; names that are not ours are ignored."""
    for name in names:
        if name in NAMES:
            import_module(f".{name}", __name__)


if __name__ != "solution.operators":
    register()
