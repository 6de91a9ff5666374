"""What changes the fixed part's hash and what does not; which script counts as a training script."""

from __future__ import annotations

import importlib.machinery
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from toolkit.errors import UserError
from toolkit.files import REPOSITORY
from toolkit.fixed_part import (
    EDITABLE_BEGINS,
    EDITABLE_ENDS,
    SCRIPTS,
    TRAIN_SCRIPTS,
    FixedPart,
    read_fixed_part,
    script_change,
)

OURS = read_fixed_part()
TRAINER = "toolkit/training/trainer.py"


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """The code of the toolkit, without models and data."""
    for path in (REPOSITORY / "toolkit").rglob("*"):
        name = path.relative_to(REPOSITORY)
        if path.suffix in (".py", ".sh", ".yaml") and not {"model_zoo", "data"} & set(name.parts):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tmp_path / name)
    return tmp_path


def changed(root: Path) -> str | None:
    """What a change of the workspace does to its fixed part, as messages name it."""
    found = read_fixed_part(root=root)
    changes = found.changes({"fixed_part": OURS.record()})
    assert (changes is None) == (found.sha256 == OURS.sha256)
    return changes


def write(root: Path, name: str, content: str | bytes) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def with_line(name: str, line: str) -> str:
    return (REPOSITORY / name).read_text() + line + "\n"


def test_equal_workspaces_have_equal_fixed_parts(workspace: Path) -> None:
    assert read_fixed_part(root=workspace) == OURS


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("toolkit/train_my_run.sh", with_line(TRAIN_SCRIPTS[0], "sleep 1")),
        ("toolkit/README", "a note"),
        ("toolkit/training/notes.md", "a note"),
        ("toolkit/training/notes.py", "import nothing"),
        ("toolkit/notes.yaml", "a: 1"),
        ("toolkit/presets/mine.yaml", "a: 1"),
        ("toolkit/mini/scenes.py", "changed"),
        ("toolkit/download/fetch.py", "changed"),
        ("toolkit/submission/layout.py", "changed"),
        ("toolkit/dataset/validation.py", "changed"),
        *((f"toolkit/commands/{name}.py", "changed") for name in ("check", "convert", "pack", "preflight", "batch")),
        ("toolkit/training/data/a.yaml", "downloaded"),
        ("toolkit/training/model_zoo/LLM/modeling.py", "downloaded"),
        ("toolkit/training/__pycache__/trainer.cpython-312.pyc", b"\x00"),
        ("toolkit/training/trainer.pyc", b"\x00"),
        ("toolkit/training/trainer.py~", "backup"),
        ("toolkit/training/.trainer.py.swp", "backup"),
        ("toolkit/training/#trainer.py#", "backup"),
        ("toolkit/training/trainer.py.orig", "backup"),
        ("experiments/lab/arms.py", "an experiment"),
        ("solution/operators/mine.py", "an operator"),
        ("my_notes.py", "a module that nothing imports"),
    ],
)
def test_what_decides_nothing_changes_nothing(workspace: Path, name: str, content: str | bytes) -> None:
    write(workspace, name, content)
    assert changed(workspace) is None


@pytest.mark.parametrize(
    "name",
    [
        TRAINER,
        "toolkit/mgm/model.py",
        "toolkit/eval/inference.py",
        "toolkit/eval/textvqa.py",
        "toolkit/eval/score.py",
        "toolkit/eval/answer.sh",
        "toolkit/commands/prepare.py",
        "toolkit/dataset/training_file.py",
        "toolkit/training/__init__.py",
        "toolkit/training/fixed_part.sh",
        "toolkit/presets/full.yaml",
        "toolkit/presets.py",
        *TRAIN_SCRIPTS,
    ],
)
def test_what_decides_is_named_when_it_changes(workspace: Path, name: str) -> None:
    """By content: a comment is a change, too."""
    write(workspace, name, with_line(name, "# a comment"))
    assert changed(workspace) == f"{name} changed"


def test_editable_lines_are_no_change(workspace: Path) -> None:
    name = TRAIN_SCRIPTS[0]
    text = (REPOSITORY / name).read_text()
    write(workspace, name, text.replace("EXP_NAME:-default", "EXP_NAME:-mine").replace("# pre-training", "# mine"))
    assert changed(workspace) is None
    write(workspace, name, text.replace("PRESET=full", "PRESET=mine"))
    assert changed(workspace) == f"{name} changed"


@pytest.mark.parametrize(
    "name",
    [
        # Packages come before modules, compiled modules before source, the workspace before installed libraries.
        "toolkit/training/data/__init__.py",
        "toolkit/eval/textvqa/__init__.py",
        f"toolkit/training/trainer{importlib.machinery.EXTENSION_SUFFIXES[0]}",
        "torch/__init__.py",
        "yaml.py",
        "random.py",
    ],
)
def test_a_module_slipped_in_before_another_is_named(workspace: Path, name: str) -> None:
    write(workspace, name, "")
    assert name in changed(workspace)


def test_modules_that_a_changed_file_imports_belong_to_it(workspace: Path) -> None:
    write(workspace, "toolkit/training/faster.py", "from . import tricks\n")
    write(workspace, "toolkit/training/tricks.py", "")
    write(workspace, TRAINER, with_line(TRAINER, "def train():\n    from toolkit.training.faster import train\n"))
    assert changed(workspace) == (
        f"{TRAINER} changed, toolkit/training/faster.py, toolkit/training/tricks.py are new here"
    )


def test_a_missing_or_broken_file_is_named(workspace: Path) -> None:
    (workspace / "toolkit/eval/answer.sh").unlink()
    with pytest.raises(UserError, match=r"toolkit/eval/answer\.sh: this file of the fixed part is missing"):
        read_fixed_part(root=workspace)
    write(workspace, TRAINER, "def broken(:\n")
    with pytest.raises(UserError, match=r"trainer\.py:1: not Python"):
        read_fixed_part(root=workspace)


def test_a_preset_of_ones_own_is_part_of_it(tmp_path: Path) -> None:
    write(tmp_path, "mine.yaml", "a: 1")
    own = read_fixed_part(str(tmp_path / "mine.yaml"))
    assert OURS.changes({"fixed_part": own.record()}) == f"{tmp_path}/mine.yaml is not part of this kit"
    assert read_fixed_part(str(REPOSITORY / "toolkit/presets/mini.yaml")) == OURS


@pytest.mark.parametrize("record", [{}, {"fixed_part": "x"}, {"fixed_part": {"sha256": "x"}}])
def test_a_record_without_a_list_is_said_to_be_old(record: dict) -> None:
    assert "as an older kit wrote it" in OURS.changes(record)


def test_many_changed_files_are_counted() -> None:
    other = FixedPart({f"{number}.py": "0" for number in range(5)})
    assert FixedPart({}).changes({"fixed_part": other.record()}) == ("0.py, 1.py, 2.py and 2 more are missing here")


@pytest.mark.slow
def test_everything_that_runs_is_in_the_list() -> None:
    """The modules found by reading are those that Python loads."""
    modules = [name for name in OURS.files if name.endswith(".py") and name != "toolkit/__main__.py"]
    names = [name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in modules]
    program = f"""
import importlib, sys
for name in {names}: importlib.import_module(name)
print(*(name for name in sys.modules if name.split(".")[0] == "toolkit"))
"""
    loaded = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert sorted(loaded.stdout.split()) == sorted(names)


@pytest.mark.parametrize("name", TRAIN_SCRIPTS)
def test_a_copy_with_other_editable_lines_is_a_training_script(name: str) -> None:
    lines = (REPOSITORY / name).read_bytes().splitlines(keepends=True)
    begin, end = (
        next(number for number, line in enumerate(lines) if line.strip() == banner.encode())
        for banner in (EDITABLE_BEGINS, EDITABLE_ENDS)
    )
    assert script_change(b"".join([*lines[: begin + 1], b"EXP_NAME=mine\n", *lines[end:]])) is None
    assert script_change(b"".join(lines).rstrip()) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("PRESET=10k", "PRESET=mine"), "line 37 is `PRESET=mine` where"),
        (lambda text: text + "echo done\n", "line 42 is `echo done` where"),
        (lambda text: text[: text.index("PRESET")], "the script ends where"),
        (lambda text: text.replace(EDITABLE_ENDS, ""), "the script ends where"),
    ],
)
def test_a_script_with_other_fixed_lines_is_none(change: Callable[[str], str], message: str) -> None:
    name = "toolkit/train_mgm_2b_stage_1_10k_baseline.sh"
    text = (REPOSITORY / name).read_text()
    found = script_change(change(text).encode())
    assert found.startswith(message)
    assert name in found


def test_banners_are_those_of_the_training_scripts() -> None:
    assert {path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "toolkit").glob("train_mgm_*.sh")} == set(
        TRAIN_SCRIPTS
    )
    for script in TRAIN_SCRIPTS:
        lines = (REPOSITORY / script).read_text().splitlines()
        assert lines.count(EDITABLE_BEGINS) == lines.count(EDITABLE_ENDS) == 1


def test_scripts_that_fixed_scripts_source_are_fixed_too() -> None:
    sourced = re.compile(r"^\s*(?:\S+ )?(?:source|exec bash|bash) .*?(\w+\.sh)\b", re.MULTILINE)
    names = {Path(name).name for name in OURS.files if name.endswith(".sh")}
    found = {name for file in SCRIPTS for name in sourced.findall((REPOSITORY / file).read_text())}
    assert {"environment.sh", "answer.sh"} <= found
    assert found <= names
