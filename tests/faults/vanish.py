"""`python vanish.py FILE PATTERN COUNT COMMAND ...`: a command, `toolkit` or a script, during which a file goes away.

At the COUNT-th opening of a file whose path PATTERN is found in, FILE (a file or a folder) is moved to FILE.away.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import runpy
import sys
import threading


def watch(file: str, pattern: str, count: int) -> None:
    """Have the file go away in this process or one that it forks; each counts for itself."""
    left, lock = [count], threading.Lock()

    def seen(event: str, values: tuple) -> None:
        if event != "open" or not isinstance(values[0], str | bytes) or not re.search(pattern, os.fsdecode(values[0])):
            return
        with lock:
            left[0] -= 1
            if not left[0] and os.path.lexists(file):
                os.rename(file, f"{file}.away")

    sys.addaudithook(seen)


if __name__ == "__main__":
    multiprocessing.set_start_method("fork", force=True)  # as it is where no fork server has started this process
    watched, words = sys.argv[1:4], sys.argv[4:]
    watch(watched[0], watched[1], int(watched[2]))
    sys.path.insert(0, os.getcwd())
    sys.argv = words
    if words[0].endswith(".py"):
        sys.path.insert(0, os.path.dirname(words[0]))
        runpy.run_path(words[0], run_name="__main__")
    else:
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
