"""How a download gets on: one line on a terminal that is rewritten, one line every ten seconds elsewhere."""

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

WINDOW = 15.0  # seconds the speed is measured over


class Task:
    """One resource under way. Whoever works on it sets `phase`, `done` and `total` (bytes).

    Args:
        name: of the resource.
        total: bytes to fetch, as the manifest guesses until the source says.
    """

    def __init__(self, name: str, total: int):
        self.name, self.phase, self.total, self.done = name, "waiting", total, 0
        # A hub's client reports nothing: what its folder has grown to is what has come.
        self.watched: Path | None = None

    def measure(self) -> int:
        """Bytes so far."""
        if self.watched:
            # Its files come and go while they are counted.
            with contextlib.suppress(OSError):
                self.done = sum(size for _, size in files_below(self.watched))
        return self.done


class Progress:
    """Tasks under way, and the lines about them."""

    def __init__(self) -> None:
        self._tasks: list[Task] = []
        self._terminal = sys.stderr.isatty()
        self._points: deque[tuple[float, int]] = deque()
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

    def line(self, now: float) -> str:
        """What has come, how fast, how long it will take, who is at it.

        Args:
            now: seconds of a steady clock; calls must not go back in time.
        """
        done = sum(task.measure() for task in self._tasks)
        total = max(done, sum(max(task.total, task.done) for task in self._tasks))
        self._points.append((now, done))
        while now - self._points[0][0] > WINDOW:
            self._points.popleft()
        (first, before), seconds = self._points[0], now - self._points[0][0]
        # What an earlier run left, or a start from the beginning, is no speed.
        speed = max(0, done - before) / seconds if seconds > 0 and first < now else 0
        left = f"{_duration((total - done) / speed)} left" if speed else "-- left"
        active = ", ".join(f"{task.name} {task.phase}" for task in self._tasks if task.phase not in ("waiting", "done"))
        return f"{done / 1e9:.2f} of about {total / 1e9:.2f} GB  {speed / 1e6:.1f} MB/s  {left}  {active}"

    def _report(self) -> None:
        while not self._stop.wait(0.5 if self._terminal else 10):
            text = self.line(time.monotonic())
            if self._terminal:
                text = "\r\033[K" + text[: shutil.get_terminal_size().columns - 1]
            with self._lock:
                print(text, end="" if self._terminal else "\n", file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    if seconds >= 3600:
        return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"
    return f"{int(seconds // 60)} min" if seconds >= 60 else f"{int(seconds)} s"
