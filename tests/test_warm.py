"""tests/warm.py: a command in a fork says, writes and ends as in a Python of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import warm

PROGRAM = """
import atexit, os, sys
print(sys.argv[1:], os.getcwd(), os.environ["WORD"], __name__)
print("transformers" in sys.modules, file=sys.stderr)
atexit.register(print, "at the end")
if sys.argv[1] == "raise":
    raise ValueError("raised")
sys.exit(int(sys.argv[1]) if sys.argv[1].isdigit() else sys.argv[1])
"""


@pytest.mark.parametrize("word", ["0", "3", "error: said on leaving"])
def test_a_fork_is_like_a_python_of_its_own(tmp_path: Path, word: str) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    command, settings = [sys.executable, str(tmp_path / "program.py"), word], {"WORD": "x"}
    expected = subprocess.run(command, cwd=tmp_path, env=settings, capture_output=True, text=True)
    assert "at the end" in expected.stdout
    found = warm.run(command, tmp_path, settings)
    assert (found.returncode, found.stdout, found.stderr) == (expected.returncode, expected.stdout, expected.stderr)


def test_an_exception_ends_it_with_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    done = warm.run([sys.executable, str(tmp_path / "program.py"), "raise"], tmp_path, {"WORD": "x"})
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ValueError: raised" in done.stderr


def test_one_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("import time; time.sleep(600)")
    with pytest.raises(subprocess.TimeoutExpired):
        warm.run([sys.executable, str(tmp_path / "program.py")], tmp_path, timeout=1)
