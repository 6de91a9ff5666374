"""A seed's images: each file is decoded once, in one of several threads, and its fault and measures are kept."""

import json
import os
import sqlite3
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import NamedTuple, TypeVar

from solution.operators.common.faults import machine_fault
from solution.operators.common.images import ImageError
from solution.operators.common.measures import Measure, take_measures
from solution.runner.errors import UserError, one_line

_MOST_THREADS = 8  # more wait for Python's lock
_AHEAD = 128  # rows whose images are decoded before they are asked for

E = TypeVar("E")


class Look(NamedTuple):
    """What was found in an image file."""

    fault: str  # why it cannot be used, empty for a good one
    measures: str  # the text for the column MEASURES


class SeedImages:
    """What earlier lines said of images and what is in their files, for the length of a `with` block; on the disk."""

    def __init__(self, measures: Mapping[str, Measure]) -> None:
        self._measures = measures
        self._pool = ThreadPoolExecutor(min(_MOST_THREADS, len(os.sched_getaffinity(0))))
        self._running: dict[str, Future[Look]] = {}
        self._rows = sqlite3.connect("")  # a private file that goes when it is closed
        self._rows.execute("CREATE TABLE images (id TEXT PRIMARY KEY, images TEXT) WITHOUT ROWID")
        self._rows.execute("CREATE TABLE looks (file TEXT PRIMARY KEY, fault TEXT, measures TEXT) WITHOUT ROWID")

    def __enter__(self) -> "SeedImages":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the threads: processes are forked later, which they would not survive."""
        self._pool.shutdown(cancel_futures=True)
        self._rows.close()

    def images_of(self, name: str, images: list[str]) -> list[str]:
        """The original images of the id: those that its first row has."""
        if self._rows.execute("INSERT OR IGNORE INTO images VALUES (?, ?)", (name, json.dumps(images))).rowcount:
            return images
        return json.loads(self._rows.execute("SELECT images FROM images WHERE id = ?", (name,)).fetchone()[0])

    def looked_at(self, entries: Iterable[tuple[E, Sequence[str]]]) -> Iterator[tuple[E, list[Look]]]:
        """Each entry with a look at each of its files, in order. Raises UserError where the machine cannot read."""
        waiting: deque[tuple[E, Sequence[str]]] = deque()
        for entry, files in entries:
            for file in files:
                if file not in self._running and self._known(file) is None:
                    self._running[file] = self._pool.submit(_look, file, self._measures)
            waiting.append((entry, files))
            if len(waiting) > _AHEAD:
                entry, files = waiting.popleft()
                yield entry, list(map(self._look_at, files))
        for entry, files in waiting:
            yield entry, list(map(self._look_at, files))

    def _look_at(self, file: str) -> Look:
        if file not in self._running and (known := self._known(file)):
            return known
        try:
            look = self._running[file].result()
        except OSError as error:
            raise UserError(f"reading image {file}: {machine_fault(error) or one_line(error)}") from error
        self._rows.execute("INSERT INTO looks VALUES (?, ?, ?)", (file, *look))
        del self._running[file]
        return look

    def _known(self, file: str) -> Look | None:
        found = self._rows.execute("SELECT fault, measures FROM looks WHERE file = ?", (file,)).fetchone()
        return Look(*found) if found else None


def _look(file: str, measures: Mapping[str, Measure]) -> Look:
    try:
        return Look("", take_measures(file, measures))
    except ImageError as bad:
        return Look(str(bad), "")
