"""The readmes: every command exists, the cheap ones run, both languages say the same, figures are recomputed."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from solution.process import parse_analyze_arguments, parse_operators_arguments, parse_report_arguments
from tests.conftest import checkout
from toolkit.__main__ import COMMANDS
from toolkit.download.manifest import choose, load_manifest
from toolkit.files import REPOSITORY
from toolkit.presets import PRESETS, load_preset
from toolkit.training.memory import GIB, MGM_2B, best_fit

README, README_ZH = (REPOSITORY / name for name in ("README.md", "README_ZH.md"))
SOLUTION, SOLUTION_ZH = (REPOSITORY / "solution" / name for name in ("readme.md", "readme_zh.md"))
BASH_BLOCK = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:[A-Z_]+=\S+ )*(?:bash|better-synth|cd|git|python|torchrun) [^`]+)`")
INDENTED = re.compile(r"^    .*", re.MULTILINE)
SPAN = re.compile(r"`([^`\n]+)`")
COMMENT = re.compile(r"(^|\s+)#.*$")
ASSIGNMENT = re.compile(r"[A-Z_]+=.*")
VENV_5 = {".venv-5/bin/pip", ".venv-5/bin/python"}
# Scripts that take minutes, GPUs or downloads -> the test that runs them, whole or as far as it goes without those.
SCRIPTS_TESTED_BY = {
    "quickstart.sh": "tests/test_quickstart.py",
    "install.sh": "quickstart.sh",
    "run_tests.sh": ".ci/run",
    "download.sh": "tests/test_readme.py",
    "download_10k_baseline.sh": "tests/test_readme.py",
    "toolkit/train_mgm_2b_stage_1.sh": "tests/test_structure.py",
    "toolkit/train_mgm_mini_stage_1.sh": "quickstart.sh",
    "toolkit/eval/textvqa.sh": "tests/toolkit/eval/test_scripts.py",
    "toolkit/eval/mmbench.sh": "tests/toolkit/eval/test_scripts.py",
}


def commands(file: Path) -> list[str]:
    """The shell commands a README shows, blocks first; comments dropped, continued lines joined."""
    text = file.read_text(encoding="utf-8")
    blocks = "".join(BASH_BLOCK.findall(text)).replace("\\\n", " ")
    lines = [COMMENT.sub("", line).strip() for line in blocks.splitlines()]
    inline = INLINE.findall(BASH_BLOCK.sub("", text))
    return [" ".join(line.split()) for line in [*lines, *inline] if line]


def steps(command: str) -> Iterator[tuple[list[str], Path]]:
    """The simple commands of a line with the folder each runs in; settings in front are left out."""
    folder = REPOSITORY
    for part in re.split(r" && | 2>&1 \| ", command):
        words = shlex.split(part)
        while words and ASSIGNMENT.fullmatch(words[0]):
            words = words[1:]
        if words[:1] == ["cd"]:
            folder /= words[1].replace("better-synth", ".")  # the clone is this folder
        elif words:
            yield words, folder


def require_known(words: list[str], folder: Path) -> None:
    """Fail for a command, option, script or file that does not exist."""
    if "-m" in words and words[words.index("-m") + 1] == "toolkit":
        require_arguments(words[words.index("-m") + 2 :])
    elif words[0] == "bash":
        script = (folder / words[1]).resolve().relative_to(REPOSITORY).as_posix()
        tested_by = REPOSITORY / SCRIPTS_TESTED_BY[script]
        assert Path(script).name in tested_by.read_text()
        subprocess.run(["bash", "-n", REPOSITORY / script], check=True)
        if script.startswith("download"):
            require_arguments(["download", *words[2:]])
    elif words[:2] == ["python", "solution/process.py"]:
        require_recipe_arguments(words[2:])
    elif words[0] == "better-synth":
        require_front(words[1:])
    else:
        assert words[0] in {"git", "source", "mkdir", "cp", "tee", "python", *VENV_5}, words
        named = [word for word in words if word.startswith(("tests/", "toolkit/"))]
        assert all((folder / word).exists() for word in named), words


def require_arguments(words: list[str]) -> None:
    """Fail where `python -m toolkit WORDS` would refuse its arguments."""
    name, *rest = words
    if name == "--help":
        return
    assert name in COMMANDS
    parser = argparse.ArgumentParser(prog=name, allow_abbrev=False)
    importlib.import_module(f"toolkit.commands.{name}").add_arguments(parser)
    parser.parse_args(rest)


def require_front(words: list[str]) -> None:
    """Fail where `better-synth WORDS` would refuse its arguments."""
    name, *rest = words
    if name in ("process", "analyze", "report"):
        if rest:
            require_recipe_arguments(rest if name == "process" else words)
    elif (name, *rest) not in [("train", preset) for preset in PRESETS]:
        require_arguments(words)


def require_recipe_arguments(words: list[str]) -> None:
    """Fail where process.py would refuse its arguments, or the recipe is not there."""
    if words[0] == "report":
        parse_report_arguments(words[1:])
        return
    if words[0] == "analyze":
        parse_analyze_arguments(words[1:])
        return
    if words[0] == "operators":
        parse_operators_arguments(words[1:])
        return
    program = "import sys; from solution.process import parse_arguments; print(parse_arguments().recipe)"
    result = subprocess.run(
        [sys.executable, "-c", program, *words], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    recipe = result.stdout.strip()
    assert any((REPOSITORY / file).is_file() for file in (recipe, f"solution/recipes/{recipe}.yaml")), words


def run(command: str, folder: Path, **settings: str) -> str:
    """Run a command as a new user would; its output. Fails with what it said."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {key: value for key, value in os.environ.items() if key not in ("PRESET", "EXP_NAME")}
    result = subprocess.run(
        command,
        shell=True,
        executable="/bin/bash",
        cwd=folder,
        env=environment | {"PATH": path, "VIRTUAL_ENV": sys.prefix} | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-3000:]
    return result.stdout


def shown(beginning: str) -> str:
    """The one README command that begins so; fails when the README no longer has it."""
    (found,) = {command for command in commands(README) if command.startswith(beginning)}
    return found


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean checkout."""
    return checkout(tmp_path_factory.mktemp("readme") / "better-synth")


def test_commands_are_found() -> None:
    found = commands(README)
    assert len(found) > 30
    assert "bash quickstart.sh" in found
    assert "python -m toolkit verify submit.zip" in found
    assert sum(command.startswith("torchrun") for command in found) == 2


@pytest.mark.parametrize("command", dict.fromkeys(commands(README)))
def test_every_command_exists(command: str) -> None:
    for words, folder in steps(command):
        require_known(words, folder)


@pytest.mark.parametrize(
    "command",
    ["python -m toolkit chekc x", "python -m toolkit score --besaline raw", "bash nothing.sh", "bash download.sh --dry",
     "python solution/process.py --recipe solution/recipes/none.yaml", "make", "cp toolkit/none.sh x"],
)  # fmt: skip
def test_a_command_that_does_not_exist_would_be_noticed(command: str) -> None:
    ((words, folder),) = steps(command)
    with pytest.raises((AssertionError, KeyError, SystemExit, subprocess.CalledProcessError)):
        require_known(words, folder)


def table_rows(text: str) -> list[list[str]]:
    """What each table row shows in backticks, in its first cell."""
    cells = re.findall(r"^\| *((?:\\\||[^|\n])*?) *\|", text, re.MULTILINE)
    return [SPAN.findall(cell) for cell in cells]


@pytest.mark.parametrize(
    ("english_file", "chinese_file"), [(README, README_ZH), (SOLUTION, SOLUTION_ZH)], ids=["README", "solution"]
)
def test_both_languages_show_the_same(english_file: Path, chinese_file: Path) -> None:
    assert commands(chinese_file) == commands(english_file)
    english, chinese = (file.read_text(encoding="utf-8") for file in (english_file, chinese_file))
    for pattern in (r"^#+ ", r"^\|", r"^```", r"\]\([^)]+\)", r"\n\n"):
        assert len(re.findall(pattern, english, re.MULTILINE)) == len(re.findall(pattern, chinese, re.MULTILINE)), (
            pattern
        )
    for file in re.findall(r"\]\(([^)#]+)\)", english + chinese):
        assert (english_file.parent / file).exists(), file
    indented = [[COMMENT.sub("", line) for line in INDENTED.findall(text)] for text in (english, chinese)]
    assert indented[0] == indented[1]
    assert table_rows(english) == table_rows(chinese)
    # Names and figures are the same, wherever the sentence puts them.
    for pattern in (SPAN, r"\d[\d,.]*\d|\d"):
        found = [set(re.findall(pattern, BASH_BLOCK.sub("", text))) for text in (english, chinese)]
        assert found[0] == found[1]


@pytest.mark.parametrize("file", [SOLUTION, SOLUTION_ZH], ids=lambda file: file.name)
def test_tables_hold_every_option_recipe_and_operator(file: Path) -> None:
    folder = REPOSITORY / "solution"
    shown_names = [name for row in table_rows(file.read_text(encoding="utf-8")) for name in row]
    options = set(re.findall(r"^  (--[\w-]+)", run("python solution/process.py --help", REPOSITORY), re.MULTILINE))
    recipes = {path.stem for path in (folder / "recipes").glob("*.yaml")} | {"mini/..."}
    operators = {path.stem for path in (folder / "operators").glob("[a-z]*.py")}
    assert len(shown_names) == len(set(shown_names))
    assert {name.split()[0] for name in shown_names} == options | recipes | operators


@pytest.mark.parametrize("file", [README, README_ZH], ids=lambda file: file.name)
def test_largest_batches_are_those_of_the_memory_estimate(file: Path) -> None:
    rows = re.findall(
        r"^\| (\d+) GB \| (.+) \| (.+) \| (.+) \| (.+) \|$", file.read_text(encoding="utf-8"), re.MULTILINE
    )
    assert [row[0] for row in rows] == ["24", "40", "80"]
    for memory, *cells in rows:
        plans = [(stage, gpus) for gpus in (1, 8) for stage in ("pretrain", "finetune")]
        for (stage, gpus), cell in zip(plans, cells, strict=True):
            share = load_preset("full").stage(stage).global_batch // gpus
            batches = [batch for batch in range(1, 33) if share % batch == 0]
            # A card shows about 2 % less than its name says.
            fit = best_fit(MGM_2B, stage, gpus, int(0.98 * int(memory) * GIB), batches)
            assert (str(fit.batch), fit.offload) == (re.match(r"\d+", cell).group(), not cell.isdigit()), (memory, cell)
            assert not fit.checkpointing


def test_the_mini_worlds_figures_are_its_presets() -> None:
    preset = load_preset("mini")
    text, chinese = (file.read_text(encoding="utf-8") for file in (README, README_ZH))
    assert f"({preset.pretrain.global_batch} and {preset.finetune.global_batch} in the mini world)" in text
    assert f"（迷你世界为 {preset.pretrain.global_batch} 和 {preset.finetune.global_batch}）" in chinese
    assert f"({preset.sample_cap:,} in the mini world)" in text
    assert f"（迷你世界为 {preset.sample_cap:,} 条）" in chinese


@pytest.mark.parametrize("file", [README, README_ZH], ids=lambda file: file.name)
@pytest.mark.parametrize("kit", ["10k", "full"])
def test_disk_figures_are_those_of_the_manifest(file: Path, kit: str) -> None:
    (row,) = re.findall(rf"^\| {kit} \|.*", file.read_text(encoding="utf-8"), re.MULTILINE)
    resources = choose(load_manifest(), kit, [], "")
    fetched, unpacking = re.findall(r"(\d+) GB", row.split("|")[4])
    assert int(fetched) == round(sum(resource.fetch_gb for resource in resources))
    operators = sum(resource.fetch_gb for resource in choose(load_manifest(), "operators", [], ""))
    assert f"{operators:.0f} GB" in file.read_text(encoding="utf-8").partition("--kit operators")[0]
    assert int(unpacking) == round(sum(resource.disk_bytes for resource in resources) / 1e9)


def test_downloads_say_what_they_would_do(workspace: Path) -> None:
    said = run(shown("bash download.sh --dry-run"), workspace)
    assert "gemma-2b-it" in said
    assert re.search(r"^0 of \d+ complete; about [\d.]+ GB to fetch", said, re.MULTILINE)
    assert "blip2-opt-2.7b" in run(shown("bash download_10k_baseline.sh") + " --dry-run", workspace)
    assert "qwen2-vl" in run(shown("python -m toolkit download --kit operators --dry-run"), workspace)
    assert "  verify " in run(shown("python -m toolkit --help"), workspace)


@pytest.mark.slow
def test_check_and_convert_run_as_shown(workspace: Path) -> None:
    processed = workspace / "output" / "processed_data"
    processed.mkdir(parents=True)
    shutil.copy(workspace / "input/mini/mgm_pretrain_mini.jsonl", processed / "processed_data.jsonl")
    assert "faults       none" in run(shown("python -m toolkit check"), workspace)
    assert (workspace / "output/fixes.jsonl").is_file()
    (workspace / "input/llava").mkdir()
    convert = shown("python -m toolkit convert llava-to-dj")
    shutil.copy(workspace / "input/mini/stage_1.json", workspace / shlex.split(convert)[5])
    assert "2,400 written" in run(convert, workspace)
