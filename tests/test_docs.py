"""The documents: every path, test, command and link that they name exists."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from toolkit.__main__ import COMMANDS
from toolkit.files import REPOSITORY
from toolkit.fixed_part import read_fixed_part

CONTRIBUTING = REPOSITORY / "CONTRIBUTING.md"
DOCUMENTS = sorted(
    [
        REPOSITORY / "README.md",
        REPOSITORY / "README_ZH.md",
        REPOSITORY / "CHANGELOG.md",
        CONTRIBUTING,
        REPOSITORY / "solution" / "readme.md",
        REPOSITORY / "solution" / "readme_zh.md",
        *(REPOSITORY / "docs").glob("*.md"),
    ]
)
BASH_BLOCK = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
SOURCE = re.compile(r"[\w./*-]+\.(?:py|sh|md|yaml|toml|css|ipynb|txt)")
FOLDERS = ("solution/", "toolkit/", "experiments/", "tests/", "benchmarks/", "docs/", "input/", ".ci/")
# Written by a run, brought by download.sh or made by the reader: no part of the repository.
NOT_OURS = re.compile(
    r"output/|input/(?!mini)|toolkit/training/(model_zoo|data)/(?!mini)|.*(NAME|EXP|FILE|_commas_|train\.sh)|DIR/"
)
NAMES = {path.name for path in REPOSITORY.rglob("*") if path.is_file() and ".git" not in path.parts}


def missing(text: str, folder: Path) -> list[str]:
    """What a document names and nobody has: paths and tests in backticks, commands, links.

    Args:
        text: of the document.
        folder: it lies in; paths may start there or at the repository's root.
    """
    found = []
    for span in SPAN.findall(FENCED.sub("", text)):
        for word in span.split():
            path, _, test = word.strip("(),;:").partition("::")
            is_path = SOURCE.fullmatch(path) or path.startswith(FOLDERS)
            if is_path and not NOT_OURS.match(path) and not re.search(r"[<>${}=…]", path):
                found += [] if exists(path, folder, test) else [word]
    found += [
        f"python -m toolkit {name}" for name in re.findall(r"-m toolkit ([a-z]\w*)", text) if name not in COMMANDS
    ]
    modules = re.findall(r"-m ((?:benchmarks|experiments)\.[\w.]+)", text)
    found += [name for name in modules if not importlib.util.find_spec(name)]
    for target in LINK.findall(text):
        if "://" not in target:
            file, _, heading = target.partition("#")
            found += [] if has_heading(folder / file if file else text, heading) else [target]
    return found


def exists(path: str, folder: Path, test: str) -> bool:
    """Whether a path, or a pattern, fits a file here, and the file holds the test."""
    if "/" not in path:
        return path in NAMES or "*" in path
    files = [file for start in (REPOSITORY, folder) for file in start.glob(path.rstrip("/"))]
    return bool(files) and (not test or f"def {test}(" in files[0].read_text(encoding="utf-8"))


def has_heading(document: Path | str, heading: str) -> bool:
    """Whether a document exists and has the heading that a link's fragment names."""
    if isinstance(document, Path):
        if not document.exists() or not heading:
            return document.exists()
        document = document.read_text(encoding="utf-8")
    titles = re.findall(r"^#+ (.+)$", FENCED.sub("", document), re.MULTILINE)
    return heading in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_what_a_document_names_exists(document: Path) -> None:
    assert missing(document.read_text(encoding="utf-8"), document.parent) == []


@pytest.mark.parametrize(
    "text",
    ["`toolkit/none.py`", "see `tests/test_docs.py::test_none`.", "`nothing_of_that_name.py`", "`solution/recipez/`",
     "`python -m toolkit chekc`", "```bash\npython -m toolkit chekc\n```", "`python -m benchmarks.none`",
     "[a](docs/none.md)", "[a](README.md#no-such-heading)", "[a](#no-such-heading)", "`toolkit/*/none_*.py`"],
)  # fmt: skip
def test_what_does_not_exist_would_be_noticed(text: str) -> None:
    assert len(missing(text, REPOSITORY)) == 1


def test_what_exists_is_found() -> None:
    text = (
        "`toolkit/mgm/` `tests/test_docs.py::test_what_exists_is_found` `order.py` `a/b` [a](README.md#tests) `b.json`"
    )
    assert missing(text, REPOSITORY) == []


def change_table() -> list[list[str]]:
    """Rows of "Where do I change X?": question, answer, what to look for, test."""
    section = CONTRIBUTING.read_text(encoding="utf-8").partition("## Where do I change")[2].partition("\n## ")[0]
    return [line.split("|")[1:-1] for line in section.splitlines() if line.startswith("|")][2:]


def test_where_do_i_change_gives_one_path_and_what_to_look_for() -> None:
    """The table answers at least twenty questions, each with one file or folder that has the names to look for."""
    rows = change_table()
    assert len(rows) >= 20
    wrong = []
    for question, answer, names, _ in rows:
        (path,) = SPAN.findall(answer)
        files = [REPOSITORY / path] if path[-1] != "/" else sorted((REPOSITORY / path).glob("*.*"))
        text = "".join(file.read_text(encoding="utf-8") for file in files)
        wrong += [(question, name) for name in SPAN.findall(names) if name not in text and name not in NAMES]
    assert wrong == []


def test_the_change_table_marks_what_belongs_to_the_fixed_part() -> None:
    files = read_fixed_part().files
    wrong = [
        question for question, answer, *_ in change_table() if ("*" in question) != (SPAN.findall(answer)[0] in files)
    ]
    assert wrong == []


def test_bash_blocks_name_scripts_that_exist() -> None:
    blocks = "".join(block for path in DOCUMENTS for block in BASH_BLOCK.findall(path.read_text(encoding="utf-8")))
    scripts = set(re.findall(r"\bbash ([\w/]+\.sh)", blocks))
    assert {"run_tests.sh", "quickstart.sh"} <= scripts
    assert {name for name in scripts if not any((REPOSITORY / at / name).is_file() for at in ("", "toolkit"))} == set()
