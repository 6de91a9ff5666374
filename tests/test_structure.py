"""The house rules that a reader counts on: who imports whom, how long files get, how scripts begin."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from toolkit.files import REPOSITORY

FORBIDDEN = {"torchvision", "timm", "open_clip"}
# Ours, not what is installed or downloaded below it.
FOLDERS = ("solution", "toolkit", "experiments", "tests", "benchmarks")
MODULES = sorted(path for folder in FOLDERS for path in (REPOSITORY / folder).rglob("*.py"))
SCRIPTS = sorted(
    [*REPOSITORY.glob("*.sh"), *(path for folder in FOLDERS for path in (REPOSITORY / folder).rglob("*.sh"))]
)
TRAIN_SCRIPTS = sorted((REPOSITORY / "toolkit").glob("train_*.sh"))
EDITABLE = [
    "EXP_NAME",
    "PRETRAIN_DATASET",
    "PRETRAIN_DATASET_IMAGE_PATH",
    "PRETRAIN_BATCH_SIZE_PER_GPU",
    "PRETRAIN_GRADIENT_ACCUMULATION_STEPS",
    "PRETRAIN_DATALOADER_NUM_WORKERS",
    "FINETUNE_BATCH_SIZE_PER_GPU",
    "FINETUNE_GRADIENT_ACCUMULATION_STEPS",
    "FINETUNE_DATALOADER_NUM_WORKERS",
    "LOGGING_STEP",
    "CKPT_SAVE_STEPS",
    "TOTAL_SAVE_CKPT_LIMIT",
    "INFER_CUDA_IDX",
]


def module_name(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[str]:
    """Full names of everything a module imports, inside functions too; `from a import b` gives a and a.b."""
    package = module_name(path) if path.name == "__init__.py" else module_name(path).rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *base.split(".")]).rstrip(".")
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def find_circle(graph: dict[str, set[str]]) -> list[str] | None:
    """A way through the graph that comes back to where it began."""
    done: set[str] = set()

    def walk(name: str, way: list[str]) -> list[str] | None:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return None
        for other in sorted(graph[name]):
            if circle := walk(other, [*way, name]):
                return circle
        done.add(name)
        return None

    return next((circle for name in sorted(graph) if (circle := walk(name, []))), None)


def test_the_tree_is_seen():
    assert {"toolkit.commands.check", "toolkit.mgm.model", "tests.test_structure"} <= {
        module_name(path) for path in MODULES
    }
    assert len(TRAIN_SCRIPTS) == 3


BASE = (
    "toolkit.weights toolkit.presets toolkit.files toolkit.errors toolkit.processes toolkit.attempts toolkit.allocator "
    "toolkit.terminal"
)
# Who may import what of ours, by folder or, where a module lies in no folder of its own, by module.
DIRECTIONS = {
    "solution.process": "solution.report solution.analysis solution.runner solution.arguments solution.entry "
    "solution.processes solution.attempts solution.terminal",
    "solution.arguments": "",
    "solution.entry": "",
    "solution.terminal": "",
    "solution.processes": "",
    "solution.attempts": "solution.entry solution.processes",
    "solution.missing": "",
    "solution.report": "solution.runner solution.operators.common solution.terminal",
    "solution.analysis": "solution.report solution.runner solution.operators.common solution.terminal",
    "solution.runner": "solution.missing solution.entry solution.terminal solution.processes solution.attempts "
    "solution.operators solution.operators.common",
    "solution.operators": "solution.operators.common",
    "solution.operators.common": "",
    "toolkit.__main__": "toolkit.commands toolkit.arguments toolkit.errors toolkit.entry toolkit.processes",
    "toolkit.toolkit": "",
    "toolkit.commands": "toolkit.judge toolkit.contamination toolkit.export toolkit.submission toolkit.training "
    "toolkit.eval toolkit.download toolkit.mini "
    f"toolkit.dataset toolkit.fixed_part {BASE}",
    "toolkit.judge": f"toolkit.training toolkit.mgm toolkit.dataset {BASE}",
    "toolkit.submission": f"toolkit.dataset toolkit.fixed_part {BASE}",
    "toolkit.contamination": f"toolkit.eval toolkit.dataset {BASE}",
    "toolkit.export": f"toolkit.dataset {BASE}",
    "toolkit.training": f"toolkit.training.speed toolkit.mgm toolkit.dataset toolkit.fixed_part {BASE}",
    "toolkit.training.speed": "toolkit.mgm",
    "toolkit.eval": f"toolkit.mgm toolkit.dataset toolkit.fixed_part {BASE}",
    "toolkit.download": f"toolkit.dataset {BASE}",
    "toolkit.mini": f"toolkit.mgm toolkit.dataset {BASE}",
    "toolkit.mgm": f"toolkit.dataset {BASE}",
    "toolkit.dataset": BASE,
    "toolkit.fixed_part": BASE,
    "toolkit.weights": "toolkit.files toolkit.errors",
    "toolkit.presets": "toolkit.files toolkit.errors",
    "toolkit.files": "toolkit.errors toolkit.processes",
    "toolkit.arguments": "",
    "toolkit.errors": "toolkit.terminal",
    "toolkit.entry": "",
    "toolkit.terminal": "",
    "toolkit.processes": "",
    "toolkit.attempts": "toolkit.entry toolkit.processes",
    "toolkit.allocator": "",
    "toolkit.installed": "",
    "experiments.mini_world": f"experiments.lab toolkit.mini {BASE}",
    "experiments.lab": "toolkit.mini toolkit.eval toolkit.training toolkit.mgm toolkit.dataset toolkit.fixed_part "
    f"toolkit.entry {BASE}",
}


def room(name: str) -> str | None:
    """The entry of DIRECTIONS that a module, or a name in it, belongs to."""
    return max((entry for entry in DIRECTIONS if f"{name}.".startswith(f"{entry}.")), key=len, default=None)


def test_imports_run_one_way():
    """Folder by folder, as docs/architecture.md draws it; `solution` and `toolkit` import nothing of each other."""
    wrong = {
        f"{module_name(path)} imports {room(name)}"
        for path in MODULES
        if (own := room(module_name(path)))
        for name in imports(path)
        if room(name) not in (None, own, *DIRECTIONS[own].split())
    }
    assert wrong == set()


def test_every_module_has_its_room():
    """A new folder needs an entry in DIRECTIONS."""
    ours = [module_name(path) for path in MODULES if path.name != "__init__.py"]
    assert [
        name for name in ours if name.split(".")[0] in ("solution", "toolkit", "experiments") and not room(name)
    ] == []


def test_no_folder_holds_too_much():
    count = Counter(path.parent.relative_to(REPOSITORY).as_posix() for path in MODULES if path.name != "__init__.py")
    programs = {name: number for name, number in count.items() if name.split("/")[0] in ("solution", "toolkit")}
    assert {name: number for name, number in programs.items() if number > 17 and "operators" not in name} == {}


def test_commands_are_thin():
    """A command is `add_arguments` and `run`; arguments are read nowhere else, and libraries do not print."""
    for path in (REPOSITORY / "toolkit" / "commands").glob("[a-z]*.py"):
        nodes = ast.parse(path.read_text(encoding="utf-8")).body
        assert not [node for node in nodes if isinstance(node, ast.ClassDef)], path
        functions = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
        assert {name for name in functions if not name.startswith("_")} == {"add_arguments", "run"}, path
    readers = {room(module_name(path)) for path in MODULES if "argparse" in imports(path)}
    assert {name for name in readers if name and name.startswith("toolkit.")} == {
        "toolkit.__main__",
        "toolkit.commands",
        "toolkit.arguments",
        "toolkit.errors",  # a type of argument that commands share
    }
    printing = {
        room(module_name(path))
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    assert printing.isdisjoint(
        {
            "toolkit.dataset",
            "toolkit.mgm",
            "toolkit.submission",
            "toolkit.fixed_part",
            "toolkit.presets",
            "toolkit.files",
        }
    )


def test_the_circle_finder_finds_one():
    assert find_circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert find_circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None


@pytest.mark.parametrize("folder", ["toolkit", "solution"])
def test_no_module_imports_itself_by_a_detour(folder):
    modules = {module_name(path): path for path in MODULES if path.is_relative_to(REPOSITORY / folder)}
    graph = {name: set(imports(path)) & set(modules) - {name} for name, path in modules.items()}
    assert find_circle(graph) is None


def test_libraries_we_do_without():
    used = [
        f"{module_name(path)} imports {name}"
        for path in MODULES
        for name in imports(path)
        if name.split(".")[0] in FORBIDDEN
    ]
    assert used == []


def code_lines(path: Path) -> int:
    """Lines that do something: no blank ones, no comments, no docstrings."""
    text = path.read_text(encoding="utf-8")
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docstrings = {
        number
        for node in ast.walk(ast.parse(text))
        if isinstance(node, documented) and ast.get_docstring(node)
        for number in range(node.body[0].lineno, node.body[0].end_lineno + 1)
    }
    return sum(
        bool(line.strip()) and not line.strip().startswith("#") and number not in docstrings
        for number, line in enumerate(text.splitlines(), 1)
    )


def test_the_model_can_be_read_in_one_sitting():
    files = [path for path in (REPOSITORY / "toolkit" / "mgm").rglob("*.py") if path.name != "__init__.py"]
    lines = {path.name: code_lines(path) for path in files}
    assert 0 < len(files) <= 5
    assert 0 < sum(lines.values()) <= 600, lines


def test_source_files_are_short():
    long = {module_name(path): len(path.read_text().splitlines()) for path in MODULES}
    assert {name: lines for name, lines in long.items() if lines > 450} == {}


def passed_over(text: str) -> list[int]:
    """Lines of a module that take every fault and say nothing of it: no comment why, and none is raised again."""
    lines, found = text.splitlines(), []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else "BaseException"
            idle = all(isinstance(step, ast.Pass | ast.Continue) for step in node.body)
            handled = any(isinstance(step, ast.Raise) for below in node.body for step in ast.walk(below)) and not idle
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "suppress":
            caught, handled = ast.unparse(ast.Tuple([*node.args], ast.Load())), False
        else:
            continue
        bare = isinstance(node, ast.ExceptHandler) and node.type is None
        if bare or (re.search(r"\b(Base)?Exception\b", caught) and not handled and "#" not in lines[node.lineno - 1]):
            found.append(node.lineno)
    return found


def test_no_fault_is_passed_over_in_silence():
    ours = [path for path in MODULES if module_name(path).split(".")[0] != "tests"]
    found = {module_name(path): lines for path in ours if (lines := passed_over(path.read_text(encoding="utf-8")))}
    assert found == {}
    for handler in ("except:", "except Exception:", "except (ValueError, BaseException) as error:"):
        assert passed_over(f"try:\n    work()\n{handler}\n    pass\n") == [3]
    assert passed_over("with contextlib.suppress(Exception):\n    work()\n") == [1]
    assert passed_over("try:\n    work()\nexcept Exception:\n    undo()\n    raise\n") == []


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_scripts_stop_at_the_first_error_and_are_short(script):
    lines = script.read_text().splitlines()
    # The training scripts look at their own line ends first: nothing works with Windows' own.
    code = [line for line in lines[1:] if line.strip() and not line.startswith(("#", "! grep -q $'\\r'"))]
    assert lines[0] == "#!/usr/bin/env bash"
    assert code[0] == "set -euo pipefail"
    assert len(lines) <= 80


@pytest.mark.parametrize("script", TRAIN_SCRIPTS, ids=lambda path: path.name)
def test_the_editable_part_stands_between_its_banners(script):
    lines = script.read_text().splitlines()
    begin, end = (lines.index(f" Editable Part {word} ".center(76, "#")) for word in ("Begins", "Ends"))
    assert all(lines[near] == "#" * 76 for near in (begin - 1, begin + 1, end - 1, end + 1))
    editable = [line for line in lines[begin + 2 : end - 1] if line and not line.startswith("#")]
    names = [line.partition("=")[0] for line in editable]
    assert names == EDITABLE
    assert all(line.startswith(f"{name}=${{{name}:-") for name, line in zip(names, editable, strict=True))


@pytest.mark.parametrize(
    ("script", "batches", "gpus", "expected"),
    [
        ("train_mgm_2b_stage_1.sh", ("8", "4", "8", "2"), 8, (256, 128)),
        ("train_mgm_2b_stage_1_10k_baseline.sh", ("4", "64", "4", "32"), 1, (256, 128)),
    ],
)
def test_default_batches_give_the_fixed_products(script, batches, gpus, expected):
    text = (REPOSITORY / "toolkit" / script).read_text()
    found = [
        re.search(rf"^{stage}_{name}=\$\{{\w+:-(\d+)\}}", text, re.MULTILINE).group(1)
        for stage in ("PRETRAIN", "FINETUNE")
        for name in ("BATCH_SIZE_PER_GPU", "GRADIENT_ACCUMULATION_STEPS")
    ]
    assert tuple(found) == batches
    pretrain, accumulation, finetune, finetune_accumulation = map(int, found)
    assert (pretrain * accumulation * gpus, finetune * finetune_accumulation * gpus) == expected
