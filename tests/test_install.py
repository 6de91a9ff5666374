"""install.sh with stand-ins for Python and pip, and how every command finds the Python that it installed into."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from toolkit.files import REPOSITORY

TOOLS = ("bash", "cat", "chmod", "cp", "dirname", "env", "grep", "mkdir", "rm", "sed", "sh", "tail")
PIN = next(line for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))
PATCH_LEVELS = ("3.10.6", "3.10.12", "3.11.2", "3.12.3", "3.12.11")

# `python -m pip`, as a module of a virtual environment: notes what it was called with and says what pip would say.
PIP = """
import os, pathlib, sys
words = sys.argv[1:]
with open(os.environ["PIP_LOG"], "a") as log:
    log.write(" ".join(words) + "\\n")
site = pathlib.Path(__file__).parents[1]
torch = next((word for word in words if word.startswith("torch==")), None)
if "uninstall" in words:
    (site / "torch-2.dist-info" / "METADATA").unlink()
elif "--no-index" in words:
    sys.exit(0 if (site / "rest-1.dist-info").exists() else 1)
elif "--index-url" in words and "down" in os.environ:
    print("Looking in indexes: https://download.pytorch.org/whl/cpu\\nThe conflict is caused by: noise")
    sys.exit("ERROR: No matching distribution found for torch")
elif "install" in words and "broken" in os.environ:
    print("Collecting torch")
    sys.exit("ERROR: Could not install packages due to an OSError:\\n[Errno 28] No space left on device")
elif "install" in words:
    print("Collecting torch\\n  Downloading torch-9-cp3.whl.metadata (29 kB)")
    print("Downloading https://host/torch-9-cp3.whl (190.0 MB)\\nDownloading six-1.whl (11 kB)")
    print("Installing collected packages: torch, six")
    (site / "torch-2.dist-info").mkdir(exist_ok=True)
    version = torch.partition("==")[2] + "+cpu" if torch else "9"
    if not (site / "torch-2.dist-info" / "METADATA").exists():
        (site / "torch-2.dist-info" / "METADATA").write_text("Name: torch\\nVersion: " + version + "\\n")
    (site / "torch-2.dist-info" / "INSTALLER").touch()
    (site / "torch-2.dist-info" / "RECORD").touch()
    if not torch:
        (site / "rest-1.dist-info").mkdir(exist_ok=True)
        (site / "rest-1.dist-info" / "INSTALLER").touch()
        (site / "rest-1.dist-info" / "RECORD").touch()
"""


def script(path: Path, text: str) -> Path:
    """An executable shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def base_python() -> str:
    """A Python of the tested version that has none of the kit's packages when a bare environment is made with it."""
    return os.path.realpath(sys.executable)


def make_venv(folder: Path) -> Path:
    """A virtual environment without packages or pip; its interpreter."""
    subprocess.run([base_python(), "-m", "venv", "--without-pip", folder], check=True)
    return folder / "bin" / "python"


def site_of(environment: Path) -> Path:
    """Its site-packages."""
    return next(environment.glob("lib/python*/site-packages"))


def add_pip(environment: Path) -> None:
    """Give an environment the stand-in for pip."""
    package = site_of(environment) / "pip"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(PIP)


class Machine:
    """A kit in a folder with a space, and all that is on PATH: some tools, and the Pythons that a test puts there."""

    def __init__(self, folder: Path) -> None:
        self.kit, self.bin, self.log = folder / "the kit", folder / "bin", folder / "pip.log"
        self.venv = self.kit / ".venv"
        self.kit.mkdir()
        self.bin.mkdir()
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool) or tool)
        for name in ("install.sh", "requirements.txt", "constraints.txt"):
            shutil.copy(REPOSITORY / name, self.kit)
        for name in ("toolkit/venv.sh", "toolkit/installed.py", "solution/requirements.txt"):
            if (REPOSITORY / name).exists():
                (self.kit / name).parent.mkdir(exist_ok=True)
                shutil.copy(REPOSITORY / name, self.kit / name)

    def add_python(self, name: str, version: str = "") -> Path:
        """A Python on PATH whose environments get the stand-in for pip; with a version, one that only names it."""
        stub = self.bin.parent / "pip_stub"
        stub.mkdir(exist_ok=True)
        (stub / "__init__.py").touch()
        (stub / "__main__.py").write_text(PIP)
        real = f'''case "$1 $2" in
    "-m venv")
        "{base_python()}" -m venv --without-pip "$3"
        for site in "$3"/lib/python3*/site-packages; do cp -r "{stub}" "$site/pip"; done;;
    *) exec "{base_python()}" "$@";;
esac'''
        return script(self.bin / name, f"echo {version}" if version else real)

    def install(self, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run install.sh."""
        self.log.unlink(missing_ok=True)
        return subprocess.run(
            ["bash", "install.sh"],
            cwd=self.kit,
            env={
                "PATH": str(self.bin),
                "HOME": str(self.kit.parent),
                "PIP_LOG": str(self.log),
                "PIP_NO_INDEX": "1",
                **settings,
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=40,
        )

    def pip_calls(self) -> list[str]:
        """What pip was called with by the last install."""
        return self.log.read_text().splitlines() if self.log.exists() else []

    def fetches(self) -> list[str]:
        """Those of the calls that may fetch something."""
        return [call for call in self.pip_calls() if " install " in f" {call} " and "--no-index" not in call]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine with a Python that suits, nothing installed, no GPU."""
    machine = Machine(tmp_path)
    machine.add_python("python3")
    return machine


def test_says_what_it_fetches_and_brings_the_cpu_build_where_no_gpu_is(machine: Machine) -> None:
    if Path("/proc/driver/nvidia/version").exists():
        pytest.skip("this machine has NVIDIA's driver")
    result = machine.install()
    assert result.returncode == 0, result.stderr
    assert "without CUDA, 0.2 GB; for an NVIDIA GPU: TORCH=cuda bash install.sh" in result.stdout
    assert "packages, 0.3 GB" in result.stdout
    assert "  torch-9-cp3.whl (190.0 MB)\n" in result.stdout
    assert "six" not in result.stdout
    first, second = machine.fetches()
    assert "--index-url https://download.pytorch.org/whl/cpu" in first
    assert first.endswith(PIN)
    assert "--no-deps" in first
    assert "--index-url" not in second
    assert "--constraint constraints.txt" in second


def test_a_second_run_fetches_nothing(machine: Machine) -> None:
    machine.install(TORCH="cpu")
    result = machine.install(TORCH="cpu")
    assert result.returncode == 0
    assert machine.fetches() == []
    assert "GB" not in result.stdout


def upgrade(machine: Machine) -> None:
    (site_of(machine.venv) / "rest-1.dist-info").rename(site_of(machine.venv) / "rest-2.dist-info")


def reinstall(machine: Machine) -> None:
    (site_of(machine.venv) / "rest-1.dist-info" / "REQUESTED").touch()


def need_more(machine: Machine) -> None:
    with (machine.kit / "solution" / "requirements.txt").open("a") as file:
        file.write("more\n")


@pytest.mark.parametrize("change", [upgrade, reinstall, need_more])
def test_pip_is_asked_only_where_something_has_changed(machine: Machine, change: Callable[[Machine], None]) -> None:
    machine.install(TORCH="cpu")
    first = machine.install(TORCH="cpu")
    assert machine.pip_calls() == []
    assert first.stdout.startswith(f"Installed into {machine.venv}, PyTorch ")
    change(machine)
    assert machine.install(TORCH="cpu").returncode == 0
    assert any("--no-index" in call for call in machine.pip_calls())
    assert machine.install(TORCH="cpu").returncode == 0
    assert machine.pip_calls() == []


def test_pip_is_asked_again_after_it_failed_and_for_another_build(machine: Machine) -> None:
    assert machine.install(TORCH="cpu", broken="1").returncode == 1
    assert machine.install(TORCH="cpu").returncode == 0
    assert len(machine.fetches()) == 2
    script(machine.bin / "nvidia-smi", "echo GPU 0")
    assert "is replaced by the build with CUDA" in machine.install().stdout


def test_an_installed_torch_is_not_fetched_for_another_package(machine: Machine) -> None:
    machine.install(TORCH="cpu")
    shutil.rmtree(site_of(machine.venv) / "rest-1.dist-info")
    result = machine.install(TORCH="cpu")
    (only,) = machine.fetches()
    assert "--index-url" not in only
    assert "without CUDA" not in result.stdout


def test_a_gpu_gets_the_build_with_cuda(machine: Machine) -> None:
    script(machine.bin / "nvidia-smi", "echo GPU 0")
    result = machine.install()
    assert "with CUDA, about 3 GB; without GPU: TORCH=cpu bash install.sh" in result.stdout
    assert len(machine.fetches()) == 1
    assert machine.install(TORCH="cpu").returncode == 0


def test_the_cpu_build_gives_way_to_cuda(machine: Machine) -> None:
    machine.install(TORCH="cpu")
    shutil.rmtree(site_of(machine.venv) / "rest-1.dist-info")
    assert "is replaced by the build with CUDA" in machine.install(TORCH="cuda").stdout
    assert any(call.startswith("--disable-pip-version-check --no-input uninstall") for call in machine.pip_calls())


def test_an_index_out_of_reach_is_one_line(machine: Machine) -> None:
    result = machine.install(TORCH="cpu", down="1")
    assert result.returncode == 0
    assert result.stdout.count("download.pytorch.org gave no") == 1
    assert "noise" not in result.stdout
    assert result.stderr == ""
    assert "--index-url" not in machine.fetches()[-1]


def test_what_pip_cannot_do_is_shown_whole(machine: Machine) -> None:
    result = machine.install(TORCH="cuda", broken="1")
    assert result.returncode == 1
    assert "due to an OSError:\n[Errno 28] No space left on device\n" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: pip could not install")


def test_a_mistyped_build_is_refused(machine: Machine) -> None:
    assert machine.install(TORCH="gpu").stderr == "error: TORCH=gpu: give cpu or cuda\n"


def dangling(venv: Path) -> None:
    (venv / "bin" / "python").unlink()
    (venv / "bin" / "python").symlink_to("/nowhere/python3")


def of_another_version(venv: Path) -> None:
    (venv / "bin" / "python").unlink()
    script(venv / "bin" / "python", 'case "$2" in *version_info*) echo 3.9;; esac')


def no_environment(venv: Path) -> None:
    (venv / "pyvenv.cfg").unlink()


def a_file(venv: Path) -> None:
    shutil.rmtree(venv)
    venv.touch()


@pytest.mark.slow
@pytest.mark.parametrize("damage", [dangling, of_another_version, no_environment, a_file])
def test_a_damaged_venv_is_made_again_once(machine: Machine, damage: Callable[[Path], None]) -> None:
    machine.install(TORCH="cpu")
    damage(machine.venv)
    result = machine.install(TORCH="cpu")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    (line,) = [line for line in result.stdout.splitlines() if line.startswith(".venv: ")]
    assert "it is made again with" in line
    again = machine.install(TORCH="cpu")
    assert again.returncode == 0
    assert ".venv: " not in again.stdout


@pytest.mark.slow
@pytest.mark.parametrize("helps", [True, False])
def test_a_venv_without_pip_gets_it_or_is_made_again(machine: Machine, tmp_path: Path, helps: bool) -> None:
    machine.install(TORCH="cpu")
    (site_of(machine.venv) / "pip").rename(tmp_path / "pip")
    module = f"if __name__ == '__main__':\n    import os; os.rename('{tmp_path}/pip', '{site_of(machine.venv)}/pip')\n"
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "ensurepip.py").write_text(module if helps else module + "    raise SystemExit(1)\n")
    if not helps:
        (tmp_path / "pip").rename(tmp_path / "gone")
    result = machine.install(TORCH="cpu", PYTHONPATH=str(tmp_path / "modules"))
    assert result.returncode == 0, result.stderr
    (line,) = [line for line in result.stdout.splitlines() if line.startswith(".venv: ")]
    assert line.startswith(".venv: pip is added" if helps else ".venv: it has no pip; it is made again with")


def remove(path: Path) -> None:
    path.unlink()


def cut_off(path: Path) -> None:
    path.write_text("wh")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("six-1.dist-info/INSTALLER", remove),
        ("six-1.dist-info/RECORD", remove),
        ("six.py", remove),
        ("six.py", cut_off),
    ],
)
def test_a_package_cut_off_is_installed_again(machine: Machine, name: str, damage: Callable[[Path], None]) -> None:
    machine.install(TORCH="cpu")
    site = site_of(machine.venv)
    info = site / "six-1.dist-info"
    info.mkdir()
    (site / "six.py").write_text("whole")
    (info / "INSTALLER").touch()
    (info / "RECORD").write_text("six.py,sha256=0,5\n__pycache__/six.pyc,,\nsix-1.dist-info/RECORD,,\n")
    (site / "~ix").mkdir()
    machine.install(TORCH="cpu")
    assert info.exists()
    assert not (site / "~ix").exists()
    damage(site / name)
    assert ".venv: six is incomplete and is installed again" in machine.install(TORCH="cpu").stdout
    assert not info.exists()


@pytest.mark.slow
def test_another_choice_of_python_makes_the_venv_again(machine: Machine) -> None:
    machine.install(TORCH="cpu")
    other = "3.12" if sys.version_info[:2] != (3, 12) else "3.11"
    script(machine.venv / "bin" / "other", f"echo {other}")
    (machine.venv / "bin" / "other").rename(machine.venv / "bin" / "python")
    result = machine.install(TORCH="cpu", PYTHON=str(machine.bin / "python3"))
    assert f".venv: it has Python {other}, not that of PYTHON={machine.bin}/python3; it is made again" in result.stdout
    assert ".venv: " not in machine.install(TORCH="cpu", PYTHON="python3").stdout


def test_another_python_on_the_path_is_used_and_named(machine: Machine) -> None:
    machine.add_python("python3", "3.13")
    machine.add_python("python3.11")
    result = machine.install(TORCH="cpu")
    assert result.returncode == 0, result.stderr
    assert f"{machine.bin}/python3.11 is used" in result.stdout


@pytest.mark.parametrize("settings", [{}, {"PYTHON": "python3.13"}])
def test_no_python_that_suits_is_one_line(machine: Machine, settings: dict[str, str]) -> None:
    machine.add_python("python3", "3.13")
    machine.add_python("python3.13", "3.13")
    result = machine.install(TORCH="cpu", **settings)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert "needs Python 3.10 to 3.12" in line
    assert "is 3.13" in line
    (machine.bin / "python3").unlink()
    assert "there is no python3" in machine.install(TORCH="cpu").stderr


def test_debian_without_venv_names_the_package(machine: Machine) -> None:
    script(machine.bin / "python3", f'case "$2" in *ensurepip*) exit 1;; *) exec "{base_python()}" "$@";; esac')
    (line,) = machine.install(TORCH="cpu").stderr.splitlines()
    assert f"apt install python3.{sys.version_info[1]}-venv" in line


def test_condas_base_is_not_the_kits_environment_but_a_named_one_is(machine: Machine, tmp_path: Path) -> None:
    make_venv(tmp_path / "conda")
    add_pip(tmp_path / "conda")
    conda = {"CONDA_PREFIX": str(tmp_path / "conda"), "TORCH": "cpu"}
    result = machine.install(CONDA_DEFAULT_ENV="base", **conda)
    assert f"Installed into {machine.venv}, " in result.stdout
    shutil.rmtree(machine.venv)
    result = machine.install(CONDA_DEFAULT_ENV="mine", **conda)
    assert f"Installed into {tmp_path}/conda, " in result.stdout
    assert not machine.venv.exists()


def test_an_active_environment_of_another_version_is_one_line(machine: Machine, tmp_path: Path) -> None:
    script(tmp_path / "old" / "bin" / "python", "echo 3.9")
    (line,) = machine.install(VIRTUAL_ENV=str(tmp_path / "old")).stderr.splitlines()
    assert f"the active environment {tmp_path}/old has Python 3.9" in line
    assert machine.install(VIRTUAL_ENV="/gone", TORCH="cpu").returncode == 0


def test_the_one_command_is_installed_and_serves_the_checkout_it_is_called_in(machine: Machine) -> None:
    machine.install(TORCH="cpu")
    other = machine.kit.parent / "other" / "folder"
    other.mkdir(parents=True)
    for kit in (machine.kit, other.parent):
        script(kit / "better-synth", f'echo "{kit}: $*"')
    (machine.kit / "toolkit" / "eval").mkdir()
    for folder, kit in (
        (Path("/"), machine.kit),
        (machine.kit / "toolkit" / "eval", machine.kit),
        (other, other.parent),
    ):
        words = [machine.venv / "bin" / "better-synth", "a b", "c"]
        result = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True)
        assert result.stdout == f"{kit}: a b c\n"


@pytest.mark.slow
@pytest.mark.parametrize("version", PATCH_LEVELS)
def test_the_pins_resolve(version: str, tmp_path: Path) -> None:
    """For the Pythons of Ubuntu 22.04 (first and last), Debian 12, Ubuntu 24.04 and the newest."""
    files = ["requirements.txt", *map(str, sorted(Path("solution").glob("requirements*.txt")))]
    command = ["uv", "pip", "compile", "--quiet", "--python-version", version, "--constraint", "constraints.txt"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {key: value for key, value in os.environ.items() if key != "UV_OFFLINE"} | {"PATH": path}
    result = subprocess.run(
        [*command, *files, "--output-file", tmp_path / "pins.txt"],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if any(word in result.stderr for word in ("error sending request", "Failed to fetch", "dns error")):
        pytest.skip(f"the package index cannot be reached: {result.stderr.strip().splitlines()[0]}")
    assert result.returncode == 0, result.stderr
