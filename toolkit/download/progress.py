"""Download progress: on a terminal one bar that is redrawn, elsewhere a plain line every ten seconds."""

from __future__ import annotations

import contextlib
import shutil
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from toolkit.download.verify import files_below

SPEED_WINDOW = 15.0  # seconds
BAR = "{percentage:3.0f}%|{bar:20}| {n_fmt}/{total_fmt}B  {rate_fmt}  {remaining} left{postfix}"
LINE = "{n_fmt}B of about {total_fmt}B  {rate_fmt}  {remaining} left{postfix}"


class Task:
    """Progress of one resource. The code that installs it sets `phase`, `done` and `total` (bytes).

    Args:
        name: of the resource.
        total: bytes to fetch, estimated by the manifest until the source gives its own figure.
    """

    def __init__(self, name: str, total: int):
        self.name, self.phase, self.total = name, "waiting", total
        self.done = self.resumed = 0
        # A hub's client reports nothing: the size of its folder is what has arrived.
        self.watched: Path | None = None

    def resume(self, done: int) -> None:
        """Count bytes that an earlier run left: they are done, and no part of this run's speed."""
        self.resumed += done - self.done
        self.done = done

    def watch(self, folder: Path) -> None:
        """Measure the size of a folder from now on; what it holds already is resumed."""
        self.resume(_size_of(folder))
        self.watched = folder

    def measure(self) -> int:
        """Bytes so far."""
        if self.watched:
            # The client's files come and go while they are counted.
            with contextlib.suppress(OSError):
                self.done = _size_of(self.watched)
        return self.done


class Transfer:
    """Adds the bytes of one file to a task; those present at its first report are an earlier run's.

    Args:
        task: of the resource that the file belongs to.
    """

    def __init__(self, task: Task):
        self._task, self._before = task, task.done
        self._started = False

    def __call__(self, done: int, total: int | None) -> None:
        """Report (bytes so far, total bytes or None if unknown), as `fetch` does."""
        if self._started:
            self._task.done = self._before + done
        else:
            self._task.resume(self._before + done)
            self._started = True
        if total:
            self._task.total = self._before + total


class Progress:
    """Prints the progress of several tasks together."""

    def __init__(self) -> None:
        self._tasks: list[Task] = []
        self._terminal = sys.stderr.isatty()
        self._points: deque[tuple[float, int]] = deque()  # (seconds, bytes that this run has received)
        self._stop = threading.Event()
        self._lock = threading.Lock()

    def task(self, name: str, total: int) -> Task:
        """Add a task."""
        self._tasks.append(Task(name, total))
        return self._tasks[-1]

    def say(self, text: str) -> None:
        """Print a line that stays."""
        with self._lock:
            print("\r\033[K" * self._terminal + text, file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Report until the block ends."""
        thread = threading.Thread(target=self._report, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()
            if self._terminal:
                print("\r\033[K", end="", file=sys.stderr, flush=True)

    def line(self, now: float, columns: int | None = None) -> str:
        """Bytes, speed, remaining time and the active tasks.

        Args:
            now: seconds of a steady clock; calls must not go back in time.
            columns: of the terminal, for a bar of that width; None for plain text.
        """
        # tqdm reads TQDM_DISABLE when it is imported; hubs.prepare_clients sets it for the clients before that.
        from tqdm import tqdm

        done = sum(task.measure() for task in self._tasks)
        total = max(done, sum(max(task.total, task.done) for task in self._tasks))
        self._points.append((now, done - sum(task.resumed for task in self._tasks)))
        while now - self._points[0][0] > SPEED_WINDOW:
            self._points.popleft()
        # Over a window, unlike tqdm's own average, which keeps the last speed while nothing arrives.
        (first, before), (last, received) = self._points[0], self._points[-1]
        speed = max(0, received - before) / (last - first) if last > first else 0
        active = ", ".join(f"{task.name} {task.phase}" for task in self._tasks if task.phase not in ("waiting", "done"))
        return tqdm.format_meter(
            done, total, elapsed=0, ncols=columns, unit="B", unit_scale=True, rate=speed, postfix=active,
            bar_format=LINE if columns is None else BAR,
        )  # fmt: skip

    def _report(self) -> None:
        while not self._stop.wait(0.5 if self._terminal else 10):
            if self._terminal:
                text = "\r\033[K" + self.line(time.monotonic(), shutil.get_terminal_size().columns - 1)
            else:
                text = self.line(time.monotonic()) + "\n"
            with self._lock:
                print(text, end="", file=sys.stderr, flush=True)


def _size_of(folder: Path) -> int:
    return sum(size for _, size in files_below(folder))
