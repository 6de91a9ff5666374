"""Our Data-Juicer operators, each in the file of its name.

The folder goes by three names. `process.py` imports `solution.operators` and registers only those that a recipe names,
as the libraries of a model take seconds to load. Data-Juicer's commands register all: as `better_synth_operators` where
`pip install .` has installed them (entry point group `data_juicer.ops`), as `operators` where a recipe says
`custom_operator_paths: [solution/operators]`. Of several copies one is registered: that of `process.py`, else the one
that a recipe names, else the installed one; if they differ, a line says so.
"""

import hashlib
import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

PLUG_IN = "better_synth_operators"
_HERE = Path(__file__).resolve().parent
_KINDS = ("_mapper", "_filter", "_deduplicator", "_selector")
NAMES = tuple(sorted(path.stem for path in _HERE.glob("*.py") if path.stem.endswith(_KINDS)))


def register(names: Iterable[str] = NAMES) -> None:
    """Import the files of these operators, which registers them in place of any other copy's.

    Names that are not ours are ignored.
    """
    from data_juicer.ops.base_op import OPERATORS

    for name in names:
        if name in NAMES and f"{__name__}.{name}" not in sys.modules:
            OPERATORS.modules.pop(name, None)
            import_module(f".{name}", __name__)


def _join() -> None:
    """Register all, unless another copy has the first right to."""
    others = [name for name in ("solution.operators", PLUG_IN, "operators") if name in sys.modules and name != __name__]
    if not others:
        register()
        return
    other = Path(sys.modules[others[0]].__file__ or "").resolve().parent
    if _content(other) == _content(_HERE):
        return
    used, unused = other, _HERE
    if others[0] == PLUG_IN:  # a recipe names this one
        register()
        used, unused = unused, used
    print(
        f"note: the operators in {used} are used, not those in {unused}, which differ; `pip install .` in the checkout "
        "installs its own",
        file=sys.stderr,
    )


def _content(folder: Path) -> str:
    """A hash of a copy's code."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


if __name__ != "solution.operators":
    _join()
