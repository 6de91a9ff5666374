"""Processes beside each other: one owner per folder, no child that outlives its parent, no files of dead ones.

`toolkit/processes.py` and `solution/processes.py` are equal, because neither folder imports the other.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import glob
import json
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_TEMPORARY = "synth-"  # begins the names of folders that `temporary_files` makes; mkdtemp adds eight characters
_IN_USE = "BETTER_SYNTH_TEMPORARY"  # the folder that a command's own processes share
# Bytes of a TMPDIR that takes one: sockets that Ray makes in it may have paths of 107.
_LONGEST_TMPDIR = 20
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class InUseError(Exception):
    """Another process works in the folder; the text names it."""


@contextlib.contextmanager
def owner_of(folder: Path, part: str = "") -> Iterator[None]:
    """Own a folder, or one part of it, while the block runs: a second process is refused.

    The lock ends with its owner, however that ends; forked children hold it too while they live.

    Args:
        folder: made if it is missing.
        part: name of what may be written beside other parts.

    Raises:
        InUseError: another process owns it; names that process, its host and start.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".lock{'-' * bool(part)}{part}"
    with _locked(path) as file:
        owner = {"process": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        try:
            with _named_where_full(path):
                os.write(file.fileno(), json.dumps(owner).encode())
            yield
        finally:
            path.unlink(missing_ok=True)  # before the lock ends, so that only its owner removes it
            with contextlib.suppress(OSError):  # a refusal leaves no folder; what has content stays
                for empty in missing:
                    empty.rmdir()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[TextIO]:
    while True:
        with path.open("a+", encoding="utf-8") as file:
            if not _lock(file.fileno()):
                raise InUseError(f"{path.parent}: {_named(path)} is at work there; wait for it or stop it") from None
            try:
                is_there = os.path.samestat(os.fstat(file.fileno()), path.stat())
            except FileNotFoundError:
                is_there = False
            if is_there:
                file.truncate(0)  # a dead owner's name
                yield file  # outside the `try`: what the block misses is its own affair
                return
        # Its last owner removed the file after it was opened here: what is locked is no longer the folder's lock.


def _lock(file: int) -> bool:
    """Lock an open file until it is closed, here and in forked children; False where another process has done so."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _named(path: Path) -> str:
    """The owner, as its lock names it."""
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
        return f"process {owner['process']} on {owner['host']} (since {owner['since']})"
    except (OSError, ValueError):  # it has just begun, or ended
        return "another process"


@contextlib.contextmanager
def _named_where_full(path: Path) -> Iterator[None]:
    """Name the file that a full disk does not take: the system's error names none."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM and error.filename is None:
            error.filename = str(path)
        raise


def is_device(path: Path) -> bool:
    """Whether a device or a pipe is there: a file that is renamed to it would take its place."""
    is_of_a_process = path.is_symlink() and os.readlink(path).startswith("/proc/")  # /dev/stdout
    return is_of_a_process or (path.exists() and not path.is_file() and not path.is_dir())


@contextlib.contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """A hidden file beside `path` to write its next content to; it is removed where the block leaves it.

    What a killed process left beside `path` is removed too. Raises OSError where `is_device`.
    """
    if is_device(path):
        raise OSError(errno.EINVAL, "a device or a pipe; name a file to write", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with contextlib.suppress(FileNotFoundError), left.open("rb") as file:
            if _lock(file.fileno()):
                left.unlink()
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        _lock(handle)  # tells it from what a dead process left
        os.fchmod(handle, 0o644)  # mkstemp's files are private
        with _named_where_full(path):
            yield Path(name)
    finally:
        os.close(handle)
        Path(name).unlink(missing_ok=True)


@contextlib.contextmanager
def temporary_files() -> Iterator[None]:
    """Have what libraries put into TMPDIR lie in a folder of this process, and remove that with it.

    The folder of a killed process goes when the next one starts. Where TMPDIR is long, full or of a file system without
    locks, it stays as it is.
    """
    with contextlib.ExitStack() as owned:
        with contextlib.suppress(OSError):
            usual = tempfile.gettempdir()
            if usual != os.environ.get(_IN_USE) and len(os.fsencode(usual)) <= _LONGEST_TMPDIR:
                _remove_temporary_files_of_the_dead(Path(usual))
                folder = tempfile.mkdtemp(prefix=_TEMPORARY)
                owned.callback(shutil.rmtree, folder, ignore_errors=True)
                handle = os.open(folder, os.O_RDONLY)
                owned.callback(os.close, handle)
                if _lock(handle):
                    # What torch has compiled is worth keeping for the next stage.
                    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", f"{usual}/torchinductor_{os.getuid()}")
                    os.environ |= {"TMPDIR": folder, _IN_USE: folder}
                    tempfile.tempdir = None  # read again
        yield


def _remove_temporary_files_of_the_dead(folder: Path) -> None:
    for path in folder.glob(f"{_TEMPORARY}*"):
        if not re.fullmatch(f"{_TEMPORARY}[a-z0-9_]{{8}}", path.name):
            continue
        with contextlib.suppress(FileNotFoundError, PermissionError, NotADirectoryError):
            handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if os.fstat(handle).st_uid == os.getuid() and _lock(handle):
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(handle)


def end_forks_with_this_process() -> None:
    """Leave Ctrl-C, which a terminal sends to all, to this process; forked workers die with it, even by SIGKILL.

    Where workers end first, the pool that they belong to waits for them for ever. SIGKILL on Linux only.
    """
    parents: list[tuple[int, set[int | signal.Signals]]] = []

    def before() -> None:  # Ctrl-C waits until the child ignores it
        parents.append((os.getpid(), signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])))

    def in_child() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        parent, mask = parents.pop()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        end_with_parent(signal.SIGKILL)
        if os.getppid() != parent:  # it died before the kernel was told
            os._exit(1)

    def in_parent() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, parents.pop()[1])

    os.register_at_fork(before=before, after_in_parent=in_parent, after_in_child=in_child)


def end_with_parent(number: int) -> None:
    """Have the kernel send this process a signal when its parent dies. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
