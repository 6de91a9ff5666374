"""How commands start and end: the Python they find, Ctrl-C, closed pipes, full disks, narrow terminals."""

from __future__ import annotations

import ast
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_install import make_venv, script
from toolkit.files import REPOSITORY

COMMANDS = [
    ["-m", "toolkit", "check", "--help"],
    ["solution/process.py", "--help"],
    ["-m", "benchmarks.inference", "--help"],
    ["-m", "experiments.mini_world.recaptioning", "--help"],
    ["-m", "experiments.mini_world.image_value", "--help"],
]
SCRIPTS = ["run_tests.sh", "download.sh", "toolkit/train_mgm_mini_stage_1.sh", "toolkit/eval/textvqa.sh"]
OLD_PYTHONS = [
    found
    for version in ("2.7", "3.6", "3.8", "3.9")
    for found in (
        *Path("/usr/bin").glob(f"python{version}"),
        *Path.home().glob(f".pyenv/versions/{version}.*/bin/python"),
    )
]


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python of the right version without the kit's packages."""
    return make_venv(tmp_path_factory.mktemp("bare"))


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    """A checkout's code in a folder with a space, nothing installed."""
    folder = tmp_path / "the kit"
    for name in ("toolkit", "solution", "benchmarks", "experiments"):
        ignored = shutil.ignore_patterns("model_zoo", "data", "__pycache__")
        shutil.copytree(REPOSITORY / name, folder / name, ignore=ignored)
    for name in ("run_tests.sh", "download.sh"):
        shutil.copy(REPOSITORY / name, folder)
    return folder


def run(words: list, kit: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the kit with a system's own PATH, nothing active."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(kit.parent), **settings}
    command = [str(word) for word in words]
    return subprocess.run(command, cwd=kit, env=environment, capture_output=True, text=True, check=False, timeout=100)


def working(kit: Path, note: str = "") -> Path:
    """A .venv whose Python has the packages: that of the tests."""
    return script(kit / ".venv/bin/python", f'{note}exec "{sys.executable}" "$@"')


def test_both_folders_have_the_same_entry() -> None:
    assert (REPOSITORY / "toolkit/entry.py").read_bytes() == (REPOSITORY / "solution/entry.py").read_bytes()


@pytest.mark.parametrize("name", ["toolkit/entry.py", "toolkit/__init__.py", "solution/process.py"])
def test_old_pythons_can_read_what_tells_them(name: str) -> None:
    ast.parse((REPOSITORY / name).read_text(encoding="utf-8"), feature_version=(3, 7))


@pytest.mark.parametrize(
    "command",
    [*COMMANDS[:2], *(pytest.param(command, marks=pytest.mark.slow) for command in COMMANDS[2:])],  # these import torch
    ids=" ".join,
)
def test_a_python_without_the_packages_hands_over_to_the_venv(command: list[str], kit: Path, bare: Path) -> None:
    result = run([bare, *command], kit)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: {bare} lacks the packages ")
    assert line.endswith(f"run this first: bash install.sh  (in {kit})")
    working(kit)
    result = run([bare, "-W", "ignore", *command], kit)
    assert result.returncode == 0, result.stderr
    assert "usage: " in result.stdout


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_say_what_to_type_where_nothing_is_installed(name: str, kit: Path, bare: Path) -> None:
    result = run(
        ["bash", name, *(["a", "b"] if name.endswith("vqa.sh") else [])], kit, PATH=f"{bare.parent}:/usr/bin:/bin"
    )
    assert result.returncode == 1
    assert result.stderr == f"error: no Python has the kit's packages; run this first: bash install.sh  (in {kit})\n"


def test_scripts_put_the_venv_first_wherever_they_are_called_from(kit: Path, bare: Path) -> None:
    found = working(kit)
    script_file = kit / "toolkit/environment.sh"
    words = ["bash", "-c", f'cd / && source "{script_file}" && echo "$KIT_PYTHON"']
    result = run(words, kit, PATH=f"{bare.parent}:/usr/bin:/bin", VIRTUAL_ENV=str(bare.parents[1]))
    assert Path(result.stdout.strip()) in (found, Path(sys.executable))


def test_the_active_environment_wins_where_it_has_the_packages(kit: Path) -> None:
    working(kit, "echo wrong; exit 1;")
    assert run([sys.executable, "-m", "toolkit", "--help"], kit).returncode == 0


def test_condas_base_does_not(kit: Path) -> None:
    working(kit, 'echo "the venv";')
    conda = {"CONDA_PREFIX": sys.prefix, "CONDA_DEFAULT_ENV": "base"}
    assert run([sys.executable, "-m", "toolkit", "--help"], kit, **conda).stdout.startswith("the venv\n")


@pytest.mark.parametrize("kind", ["incomplete", "no environment", "dangling", "not a program"])
def test_a_venv_that_cannot_help_ends_in_one_line(kind: str, kit: Path, bare: Path) -> None:
    python = kit / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    if kind == "incomplete":
        shutil.rmtree(kit / ".venv")
        make_venv(kit / ".venv")
    elif kind == "no environment":
        python.symlink_to(os.path.realpath(bare))
    elif kind == "dangling":
        python.symlink_to("/nowhere/python3")
    else:
        python.write_bytes(b"\x7fELF of another machine")
        python.chmod(0o755)
    result = run([bare, "-m", "toolkit", "--help"], kit, PYTHONNOUSERSITE="1")
    if kind != "no environment":  # that one may have the packages
        assert result.returncode == 1
        (line,) = result.stderr.splitlines()
        assert "run this first: bash install.sh" in line


@pytest.mark.parametrize("python", OLD_PYTHONS or [None], ids=str)
def test_an_old_python_says_so_or_hands_over(python: Path | None, kit: Path) -> None:
    if python is None:
        pytest.skip("no Python older than 3.10 here")
    (line,) = run([python, "-m", "toolkit", "--help"], kit).stderr.splitlines()
    assert "the kit needs Python 3.10 to 3.12" in line
    said = run([python, "solution/process.py", "--help"], kit).stderr
    assert "Traceback" not in said
    assert "the kit needs Python 3.10 to 3.12" in said or "Python 2 stops here: use python3" in said
    working(kit)
    assert "usage: " in run([python, "-m", "toolkit", "--help"], kit).stdout


def here(*words: str, **settings: str) -> subprocess.Popen[str]:
    """Start a command of this checkout; its output can be read bit by bit."""
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=REPOSITORY,
        env=os.environ | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", ["-m toolkit download --dry-run", "-m toolkit --help", "solution/process.py --help"])
def test_a_reader_that_left_ends_a_command_in_silence(words: str, unbuffered: str) -> None:
    process = here(*words.split(), PYTHONUNBUFFERED=unbuffered)
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) in (0, 141)


def test_another_broken_pipe_is_no_closed_output() -> None:
    program = "from toolkit.entry import run\ndef main(): raise BrokenPipeError(32, 'a worker')\nrun(main)"
    process = here("-c", program)
    assert "BrokenPipeError" in process.communicate(timeout=60)[1]
    assert process.returncode == 1


@pytest.mark.parametrize(
    "body",
    [
        # what `datasets` does: its clean-up after Ctrl-C raises an error of its own
        "try:\n  os.kill(os.getpid(), 2)\n finally: raise TimeoutError",
        "try:\n  os.kill(os.getpid(), 2)\n except BaseException: raise ValueError('a row') from None",
        # what numpy does: an import that Ctrl-C ended fails later, with an error that knows nothing of it
        "try:\n  os.kill(os.getpid(), 2)\n except BaseException: pass\n raise RecursionError",
        # what filelock does: Ctrl-C meets its hook of `fork`, which no error can leave
        "os.register_at_fork(before=lambda: os.kill(os.getpid(), 2)); os.fork() or os._exit(0); time.sleep(9)",
    ],
)
def test_ctrl_c_that_a_library_swallows_still_ends_the_command(body: str) -> None:
    process = here("-c", f"import os, time\nfrom toolkit.entry import run\ndef main():\n {body}\nrun(main)")
    assert process.communicate(timeout=60) == ("", "interrupted\n")
    assert process.returncode == 130


@pytest.mark.slow
def test_ctrl_c_is_one_line(tmp_path: Path) -> None:
    words = ["solution/process.py", "--recipe", "solution/recipes/mini.yaml", "--output", str(tmp_path / "out")]
    process = here(*words)
    assert process.stderr
    first = process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert "Traceback" not in first + said
    assert said.splitlines()[-1] == "interrupted"
    # 130 in a shell either way: Python ends by the signal itself where Ctrl-C met a string that it was executing.
    assert process.returncode in (130, -signal.SIGINT)
    assert not (tmp_path / "out" / "processed_data.jsonl").exists()


@pytest.mark.parametrize("words", [["-m", "toolkit", "download", "--dry-run"], ["-m", "toolkit", "--help"]])
def test_a_full_disk_is_one_line(words: list[str]) -> None:
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [sys.executable, *words],
            cwd=REPOSITORY,
            env=os.environ | {"PYTHONUNBUFFERED": ""},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert result.stderr == "error: <stdout>: No space left on device; make room, then run the same command again\n"
    assert result.returncode == 1


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "gbk"])
@pytest.mark.parametrize("form", ["-m toolkit check {} --images .", "solution/process.py --recipe {}"])
def test_a_terminal_without_the_characters_gets_numbers(form: str, encoding: str, tmp_path: Path) -> None:
    words = form.format("/nowhere/日本é😀.yaml").split()
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    command = [sys.executable, *words]
    result = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, check=False)
    assert result.returncode == 1
    line, *further = result.stderr.decode(encoding).splitlines()
    assert all(name.startswith("  solution/recipes/") for name in further)
    assert "\\U0001f600.yaml" in line


def test_a_c_locale_takes_names_in_utf_8(tmp_path: Path) -> None:
    folder = tmp_path / "é中"
    folder.mkdir()
    with (REPOSITORY / "input/mini/mgm_pretrain_mini.jsonl").open() as seed:
        (folder / "rows.jsonl").write_text(next(seed))
    words = [
        sys.executable,
        "-m",
        "toolkit",
        "convert",
        "dj-to-llava",
        folder / "rows.jsonl",
        "--out",
        folder / "l.json",
    ]
    strict = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    result = run(words, REPOSITORY, **strict)
    assert result.returncode == 0, result.stderr
    assert str(folder / "l.json") in (folder / "l.run.json").read_text(encoding="utf-8")


def test_ctrl_c_while_modules_are_imported_is_one_line() -> None:
    program = (
        "import os, signal, toolkit.entry as entry\n"
        "entry.begin(())\n"
        "class Field:\n    def __set_name__(self, owner, name): os.kill(os.getpid(), signal.SIGINT)\n"
        "class Owner:\n    field = Field()\n"
    )
    result = run([sys.executable, "-c", program], REPOSITORY)
    assert (result.returncode, result.stderr) == (130, "interrupted\n")


@pytest.mark.parametrize("body", ["os.replace('/etc/hostname', '/tmp')", "open('/etc')", "os.mkdir('/etc/hostname/a')"])
def test_a_file_that_the_system_refuses_is_one_line(body: str) -> None:
    process = here("-c", f"import os\nfrom toolkit.entry import run\ndef main():\n {body}\nrun(main)")
    _, said = process.communicate(timeout=60)
    assert re.fullmatch(r"error: /\S+: .*\n", said)
    assert process.returncode == 1
