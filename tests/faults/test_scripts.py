"""Every shell script with each of its steps failing ends there, with a status and a line; shellcheck finds nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.test_structure import SCRIPTS
from toolkit.files import REPOSITORY

# Stands for Python and the tools below: writes down how it is called, and fails where the call is $FAILS.
STAND_IN = """#!/usr/bin/env bash
name=${0##*/}
if [[ $name == python && $1 == -c ]]; then  # scripts ask which Python has the packages, and its version
    [[ $2 == *version_info* ]] && echo 3.11 || echo "$0"
    exit
fi
printf '%s\\n' "$name $*" >>"$CALLS"
if [[ "$name $*" == "$FAILS" ]]; then
    echo "error: of this step" >&2
    exit 3
fi
[[ $* != "toolkit/installed.py state "* ]] || printf '%s\n' "${0%/bin/python}" of-this-kit
case $name in
    python | ruff | ty) ;;
    *) PATH=${PATH#*:} exec "$name" "$@" ;;
esac
"""
TOOLS = ("python", "ruff", "ty", "cp", "mv", "mkdir", "tee")
# Tried first; where it fails, what is missing gets installed.
ALLOWED = "python -m pip --disable-pip-version-check --no-input install --quiet --no-index"
# What others source, and what takes words that `test_scripts.py` of its folder gives.
STARTED = [
    path
    for path in SCRIPTS
    if path.name
    not in ("environment.sh", "venv.sh", "fixed_part.sh", "keep_script.sh", "settings.sh", "steps.sh", "answer.sh")
]


class Kit:
    """A copy of the scripts, and stand-ins for what they call."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.words: list[str] = []  # on the command line, where a script takes any
        for pattern in ("*.sh", "*.txt", "toolkit/**/*.sh", "toolkit/presets/*.yaml", "solution/*.txt"):
            for file in REPOSITORY.glob(pattern):
                target = folder / file.relative_to(REPOSITORY)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, target)
        (folder / "venv/bin").mkdir(parents=True)
        for name in TOOLS:
            (folder / "venv/bin" / name).write_text(STAND_IN)
            (folder / "venv/bin" / name).chmod(0o755)

    def run(self, script: Path, fails: str = "") -> tuple[subprocess.CompletedProcess[str], list[str]]:
        """Run a script of the copy from the start; returns its outcome and the calls of stand-ins."""
        shutil.rmtree(self.folder / "output", ignore_errors=True)
        # What steps would have left for later ones.
        for stage in ("Pretrain", "Finetune"):
            for run in ("MGM-Mini", "MGM-2B"):
                for name in ("default", "raw", "recipe"):
                    (self.folder / f"output/training_dirs/{run}-{stage}-{name}").mkdir(parents=True)
        calls = self.folder / "calls"
        calls.write_text("")
        environment = {name: value for name, value in os.environ.items() if name in ("HOME", "LANG", "TMPDIR")} | {
            "PATH": f"{self.folder}/venv/bin:{os.environ['PATH']}",
            "VIRTUAL_ENV": f"{self.folder}/venv",
            "TORCH": "cpu",
            "INFER_CUDA_IDX": "cpu",
            "CALLS": str(calls),
            "FAILS": fails,
        }
        words = self.words or (["MODEL", "OUT"] if script.parent.name == "eval" else [])
        copy = self.folder / script.relative_to(REPOSITORY)
        done = subprocess.run(
            ["bash", str(copy), *words], cwd=self.folder, env=environment, capture_output=True, text=True, timeout=60
        )
        return done, calls.read_text().splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("script", STARTED, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_a_failing_step_ends_the_script_with_a_status_and_a_line(script: Path, tmp_path: Path) -> None:
    kit = Kit(tmp_path / "a 'quoted' $kit")
    whole, calls = kit.run(script)
    assert whole.returncode == 0, whole.stderr
    steps = [call for call in dict.fromkeys(calls) if not call.startswith(ALLOWED)]
    if script.name == "quickstart.sh":  # those of the scripts that it calls are tried with them
        steps = [step for step in steps if " ".join(step.split()[:4]) in script.read_text()]
    assert steps
    for step in steps:
        failed, made = kit.run(script, fails=step)
        assert failed.returncode != 0, step
        # What a stage says goes through its log to stdout.
        assert (failed.stdout + failed.stderr).count("error: of this step") == 1, (step, failed.stderr)
        assert failed.stderr.count("\n") <= 2, (step, failed.stderr)  # the script may say what to do next
        in_turn = [call for call in calls if not call.startswith("tee ")]
        after = in_turn[in_turn.index(step) + 1 :] if step in in_turn else []
        ran = [call for call in made if not call.startswith("tee ")]
        if script.name == "quickstart.sh":  # its two trainings run at the same time; what follows them must not run
            last = [call for call in steps if any(word in call for word in (" pack ", " lab page ", " --baseline "))]
            after, in_turn = [], []
            ran = [call for call in ran if call in last[last.index(step) + 1 if step in last else 0 :]]
        assert len(ran) + len(after) <= len(in_turn), f"steps ran after {step}: {ran}"


NASTY = ["it's", 'a "b"', "$HOME `id` $(id)", "a\nb", "裙子 é", " *?[a]{b}~", "-x;y|z&\\", "!!#%"]


@pytest.mark.parametrize(
    "name", ["toolkit/eval/textvqa.sh", "toolkit/eval/mmbench.sh", "download.sh", "download_10k_baseline.sh"]
)
def test_any_word_reaches_python_as_it_was_typed(name: str, tmp_path: Path) -> None:
    """What users may put into training scripts is tried in `tests/toolkit/training/test_scripts.py`."""
    kit = Kit(tmp_path / "a 'quoted' $kit\nof two lines")
    stand_in = kit.folder / "venv/bin/python"
    stand_in.write_text(STAND_IN.replace('"$name $*"', '"$name" "$@"', 1))
    for word in NASTY:
        kit.words = [word, f"{word}/out"] if "eval" in name else ["--only", word]
        done, calls = kit.run(REPOSITORY / name)
        assert done.returncode == 0, done.stderr
        made = "\n".join(["", *calls, ""])
        assert all(f"\n{given}\n" in made for given in kit.words), made


def test_shellcheck_finds_nothing() -> None:
    files = [
        path.relative_to(REPOSITORY).as_posix()
        for path in [*SCRIPTS, REPOSITORY / ".ci/run", REPOSITORY / "better-synth"]
    ]
    found = subprocess.run(["shellcheck", *files], cwd=REPOSITORY, capture_output=True, text=True)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")
