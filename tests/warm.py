"""Commands in processes of their own that need not import torch again: each is a fork of one process that has.

Not for a test of what a command imports, of PYTHONPATH, or of a process that is killed: those start Python.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from subprocess import CompletedProcess, TimeoutExpired

_forks = multiprocessing.get_context("forkserver")
# What takes long to import and reads no setting of the kit's: `transformers` and Hugging Face's hub do, when imported.
_forks.set_forkserver_preload(
    [
        "torch",
        "torch._dynamo",
        "torch.distributed.fsdp",
        "pandas",
        "pyarrow.dataset",
        "scipy.optimize",
        "aiohttp",
        "PIL.Image",
    ]
)


def run(
    command: Sequence[str], cwd: Path, env: dict[str, str] | None = None, timeout: float = 300
) -> CompletedProcess[str]:
    """As `subprocess.run(command, cwd, env, capture_output=True, text=True)`, for a command of this Python.

    Args:
        command: `[sys.executable, "-m", module, words ...]` or `[sys.executable, script, words ...]`.

    Raises:
        TimeoutExpired: it is still at work after `timeout` seconds; it is killed.
    """
    assert command[0] == sys.executable
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        fork = _forks.Process(
            target=_become, args=(command[1:], str(cwd), dict(os.environ if env is None else env), str(out), str(err))
        )
        fork.start()
        fork.join(timeout)
        if fork.exitcode is None:
            fork.kill()
            fork.join()
            raise TimeoutExpired(command, timeout, out.read_text(), err.read_text())
        return CompletedProcess(command, fork.exitcode, out.read_text(), err.read_text())


def _become(words: list[str], cwd: str, env: dict[str, str], out: str, err: str) -> None:
    """Turn this fork into the command."""
    for number, name in ((1, out), (2, err)):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.path.insert(0, cwd if words[0] == "-m" else str(Path(words[0]).parent))
    try:
        if words[0] == "-m":
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # multiprocessing leaves them out
