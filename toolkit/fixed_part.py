"""The fixed part: the files that decide training and scoring, with a hash of each and one over all.

Every log of a stage begins with the one hash, and the stage's record lists the files, so that a change of the referee
is noticed and its file named. Files count by content: a changed comment in the trainer is a change; a note, an
experiment, a backup or a module that nothing of the fixed part imports is not. It finds mistakes, not forgeries.

| what | found by |
|---|---|
| modules | the imports of `prepare`, `train`, `eval` and `score`, followed through the workspace as Python finds them |
| shell scripts | SCRIPTS |
| training scripts | TRAIN_SCRIPTS without their editable lines; the copy a run keeps is compared by `script_change` |
| presets | all of PRESETS, and a preset of the user's own that the stage was started with |

Models and data are not among them: a stage's record holds their hashes as inputs.
"""

from __future__ import annotations

import ast
import difflib
import functools
import hashlib
import importlib.util
import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.machinery import BYTECODE_SUFFIXES, EXTENSION_SUFFIXES, SOURCE_SUFFIXES
from pathlib import Path
from typing import Any

from toolkit.errors import UserError
from toolkit.files import REPOSITORY, display_path, sha256_of
from toolkit.presets import PRESETS

ENTRY_POINTS = (
    "toolkit.__main__",
    *(f"toolkit.commands.{command}" for command in ("prepare", "train", "eval", "score")),
)
SCRIPTS = (
    "toolkit/environment.sh",
    "toolkit/training/fixed_part.sh",
    "toolkit/training/settings.sh",
    "toolkit/training/steps.sh",
    "toolkit/training/keep_script.sh",
    *(f"toolkit/eval/{name}.sh" for name in ("answer", "textvqa", "mmbench")),
)
TRAIN_SCRIPTS = tuple(
    f"toolkit/train_mgm_{name}.sh" for name in ("2b_stage_1", "2b_stage_1_10k_baseline", "mini_stage_1")
)
# In the order in which Python prefers them.
MODULE_SUFFIXES = (*EXTENSION_SUFFIXES, *SOURCE_SUFFIXES, *BYTECODE_SUFFIXES)
LOG_LINE = "fixed part sha256: "
FILES_NAMED = 3  # in a message

BANNER_WIDTH = 76
EDITABLE_BEGINS = f"{' Editable Part Begins ':#^{BANNER_WIDTH}}"
EDITABLE_ENDS = f"{' Editable Part Ends ':#^{BANNER_WIDTH}}"


@dataclass(frozen=True)
class FixedPart:
    """The fixed part as it is on disk.

    Args:
        files: SHA-256 of each file by its path in the workspace.
        root: of the workspace.
    """

    files: dict[str, str]
    root: Path = field(default=REPOSITORY, compare=False)

    @property
    def sha256(self) -> str:
        """Hex SHA-256 over all files: of the lines that `sha256sum` would print for them."""
        lines = (f"{digest}  {name}\n" for name, digest in sorted(self.files.items()))
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def record(self) -> dict[str, Any]:
        """As a run's record holds it under `fixed_part`."""
        return {"sha256": self.sha256, "files": self.files}

    def changes(self, record: Mapping[str, Any]) -> str | None:
        """The files in which the fixed part of a record differs from this one, as a message names them.

        Args:
            record: of a stage, finished (`run.json`) or not (`plan.json`), or of an evaluation.

        Returns:
            None where it is the same.
        """
        part = record.get("fixed_part")
        files = part.get("files") if isinstance(part, dict) else None
        if not isinstance(files, dict):
            return "its record lists no files of the fixed part, as an older kit wrote it"
        missing = sorted(name for name in files if name not in self.files and not (self.root / name).is_file())
        changed, new, unused = [], [], []
        # Where a module is missing, what only it imports is not followed, but lies there all the same.
        for name in sorted({*files, *self.files}.difference(missing)):
            there = self.files.get(name) or (sha256_of(self.root / name) if missing else None)
            if files.get(name) != there:
                (new if name not in files else changed if there else unused).append(name)
        parts = (("missing here", missing), ("changed", changed), ("new here", new), ("not part of this kit", unused))
        return ", ".join(_named(names, state) for state, names in parts if names) or None


def _named(names: list[str], state: str) -> str:
    """`a.py, b.py changed`."""
    more = f" and {len(names) - FILES_NAMED} more" if len(names) > FILES_NAMED else ""
    be = "" if state == "changed" else "are " if len(names) > 1 else "is "
    return f"{', '.join(names[:FILES_NAMED])}{more} {be}{state}"


def read_fixed_part(preset: str = "full", root: Path = REPOSITORY) -> FixedPart:
    """Hash the fixed part.

    Args:
        preset: name or path, as `load_preset` takes it; a file outside `toolkit/presets/` is one more file of the part.
        root: of the workspace.

    Raises:
        UserError: a file is missing, or a module is no Python.
    """
    files = {path.relative_to(root).as_posix(): sha256_of(path) for path in _modules(root)}
    for name in (*SCRIPTS, *TRAIN_SCRIPTS, *(f"toolkit/presets/{preset}.yaml" for preset in PRESETS)):
        if not (root / name).is_file():
            raise UserError(f"{root / name}: this file of the fixed part is missing; restore it (git checkout {name})")
        content = (root / name).read_bytes()
        if name in TRAIN_SCRIPTS:
            content = b"".join(line for _, line in _fixed_lines(content))
        files[name] = hashlib.sha256(content).hexdigest()
    if preset not in PRESETS and display_path(Path(preset)) not in files:
        files[display_path(Path(preset))] = sha256_of(Path(preset))
    return FixedPart(dict(sorted(files.items())), root)


def script_change(script: bytes, root: Path = REPOSITORY) -> str | None:
    """The first difference, outside the editable lines, between a script and the most similar training script.

    Returns:
        None where there is none: the script is one of TRAIN_SCRIPTS, perhaps under another name.
    """
    lines = _comparable(script)
    if not lines:
        return "it is empty"
    texts = [text for _, text in lines]
    originals = {name: [text for _, text in _comparable((root / name).read_bytes())] for name in TRAIN_SCRIPTS}
    if texts in originals.values():
        return None
    name = max(originals, key=lambda name: difflib.SequenceMatcher(None, texts, originals[name]).ratio())
    pairs = itertools.zip_longest(lines, originals[name], fillvalue=None)
    line, expected = next((line, expected) for line, expected in pairs if not line or line[1] != expected)
    found = f"line {line[0]} is `{line[1]}`" if line else "the script ends"
    return f"{found} where {name} {'ends' if expected is None else f'has `{expected}`'}"


def _comparable(script: bytes) -> list[tuple[int, str]]:
    """(number, text) of a script's fixed lines, without line ends and empty lines at its end."""
    lines = [(number, line.decode("utf-8", errors="replace").rstrip()) for number, line in _fixed_lines(script)]
    while lines and not lines[-1][1]:
        lines.pop()
    return lines


def _fixed_lines(script: bytes) -> Iterator[tuple[int, bytes]]:
    """(number from 1, line) of a script without the lines between its two banners; the banners stay."""
    editable = False
    for number, line in enumerate(script.splitlines(keepends=True), 1):
        text = line.strip()
        if text == EDITABLE_ENDS.encode():
            editable = False
        if not editable:
            yield number, line
        if text == EDITABLE_BEGINS.encode():
            editable = True


def _modules(root: Path) -> list[Path]:
    """Files of the workspace that the entry points import, also where they shadow an installed library."""
    found: dict[str, Path | None] = {}
    waiting = list(ENTRY_POINTS)
    names_in = functools.cache(_names_in)  # most imports are libraries', and hundreds of looks at the disk take a while
    while waiting:
        _add(waiting.pop(), root, found, waiting, names_in)
    return [path for path in found.values() if path]


def _names_in(folder: Path) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder))
    except OSError:  # there is none
        return frozenset()


def _add(
    name: str,
    root: Path,
    found: dict[str, Path | None],
    waiting: list[str],
    names_in: Callable[[Path], frozenset[str]],
) -> bool:
    """Find a module and what it imports; False, and None in `found`, where the workspace does not hold it."""
    if name in found:
        return found[name] is not None
    parent = name.rpartition(".")[0]
    found[name] = None
    if parent and not _add(parent, root, found, waiting, names_in):
        return False
    base = root.joinpath(*name.split("."))
    files = [base / f"__init__{suffix}" for suffix in MODULE_SUFFIXES if base.name in names_in(base.parent)]
    files += [base.with_name(base.name + suffix) for suffix in MODULE_SUFFIXES]
    path = next((path for path in files if path.name in names_in(path.parent) and path.is_file()), None)
    if path is None:
        return False
    found[name] = path
    if path.suffix in SOURCE_SUFFIXES:
        waiting += _imports(path, name if path.parent == base else parent)
    return True


def _imports(path: Path, package: str) -> tuple[str, ...]:
    try:
        return _imports_of(path.read_bytes(), package)
    except SyntaxError as error:
        raise UserError(f"{path}:{error.lineno}: not Python ({error.msg})") from None


@functools.cache
def _imports_of(source: bytes, package: str) -> tuple[str, ...]:
    """Full names of everything a module imports, inside functions too; `from a import b` gives a and a.b."""
    names: list[str] = []
    for node in _statements(ast.parse(source).body):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return tuple(names)


def _statements(nodes: list[Any]) -> Iterator[ast.AST]:
    """Statements of a body and of all bodies in them: what `ast.walk` finds of them, without the expressions."""
    for node in nodes:
        yield node
        for part in ("body", "orelse", "finalbody", "handlers", "cases"):
            yield from _statements(getattr(node, part, []))
