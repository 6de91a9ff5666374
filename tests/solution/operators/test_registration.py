"""One registered operator per file, under the file's name, however the folder is loaded."""

import ast
import re
import subprocess
import sys

import pytest

from solution import operators
from solution.runner.data_juicer import OPERATORS
from tests.solution.conftest import ROOT

FOLDER = ROOT / "solution" / "operators"
FILES = sorted(path for path in FOLDER.glob("*.py") if path.name != "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_holds_the_operator_of_its_name(path):
    module = f"solution.operators.{path.stem}"
    assert [name for name, kind in OPERATORS.modules.items() if kind.__module__ == module] == [path.stem]


def test_every_file_is_found_by_its_ending():
    assert tuple(path.stem for path in FILES) == operators.NAMES


def test_common_registers_nothing():
    assert not [name for name, kind in OPERATORS.modules.items() if ".common" in kind.__module__]
    assert not [path.name for path in (FOLDER / "common").glob("*.py") if "register_module" in path.read_text("utf-8")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_operators_do_not_import_each_other(path):
    relative = [
        node.module
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert all(module.startswith("common.") for module in relative)
    assert "import solution" not in path.read_text("utf-8")


@pytest.mark.slow
def test_operators_load_the_way_data_juicer_loads_them():
    """`custom_operator_paths: [solution/operators]` imports the folder as a package of its own, without `solution`."""
    program = """
import sys
import tomllib
from data_juicer.config.config import load_custom_operators
from data_juicer.ops import OPERATORS
load_custom_operators(["solution/operators"])
assert "solution" not in sys.modules
print(*sorted(name for name, kind in OPERATORS.modules.items() if kind.__module__.startswith("operators.")))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].split() == [path.stem for path in FILES]


def test_the_plug_in_asks_for_what_the_operators_import():
    """Packages of the optional requirements are imported inside functions, or looked for."""
    wanted = re.search(r"^dependencies = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text("utf-8"), re.M | re.S)[1]
    names = {"pillow": "PIL", "py-data-juicer": "data_juicer"}
    used = {
        name.split(".")[0]
        for path in FOLDER.rglob("*.py")
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, ast.Import | ast.ImportFrom) and not getattr(node, "level", 0)
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    required = set(re.findall(r'"([\w-]+)', wanted)) - {"sniffio"}  # httpcore looks for it
    assert {names.get(name, name) for name in required} == used - set(sys.stdlib_module_names)
