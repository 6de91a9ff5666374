"""What is known of images that were compared before, so that another command need not look at them again."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from toolkit.contamination.images import Match
from toolkit.errors import UserError

TABLE = (
    "CREATE TABLE IF NOT EXISTS images (exam TEXT, path BLOB, size INTEGER, time INTEGER, digest BLOB, wanted INTEGER, "
    "correlation REAL, mirrored INTEGER, PRIMARY KEY (exam, path)) WITHOUT ROWID"
)
BUSY_SECONDS = 60  # that another command may take to write

Stamp = tuple[int, int]  # size and change time
Known = tuple[bytes, Match | None]  # digest of the content, best match


def stamp_of(path: Path) -> Stamp | None:
    """A file's size in bytes and change time in ns; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


class _Unusable(Exception):
    """A note has said why."""


class KnownImages:
    """Results by path, size and change time of images, in a SQLite file; where it cannot be used, a note says so.

    Args:
        file: made when something is kept.
        exam: names the evaluation sets and the code that compares with them; results of others are not looked at.
    """

    def __init__(self, file: Path, exam: str):
        self._file, self._exam = file, exam
        self._is_usable = True

    def look_up(self, images: Iterable[tuple[Path, Stamp]]) -> dict[Path, Known]:
        """What is known of those images that have not changed since.

        Raises:
            UserError: the file is damaged.
        """
        found: dict[Path, Known] = {}
        if not os.path.isfile(self._file):  # False also where its folder may not be looked into
            return found
        query = "SELECT digest, wanted, correlation, mirrored FROM images WHERE (exam, path, size, time) = (?, ?, ?, ?)"
        with contextlib.suppress(_Unusable), self._opened() as store:
            for path, stamp in images:
                if row := store.execute(query, (self._exam, os.fsencode(path.absolute()), *stamp)).fetchone():
                    digest, wanted, correlation, mirrored = row
                    found[path] = digest, None if wanted is None else Match(wanted, correlation, bool(mirrored))
        return found

    def keep(self, results: Iterable[tuple[Path, Stamp, Known]]) -> None:
        """Remember results, all or none of them.

        Raises:
            UserError: the file is damaged.
        """
        if not self._is_usable:
            return
        rows = []
        for path, stamp, (digest, match) in results:
            of_match = (match.wanted, match.correlation, match.mirrored) if match else (None, None, None)
            rows.append((self._exam, os.fsencode(path.absolute()), *stamp, digest, *of_match))
        with contextlib.suppress(_Unusable), self._opened() as store, store:
            store.executemany("INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.closing(sqlite3.connect(self._file, timeout=BUSY_SECONDS)) as store:
                store.execute(TABLE)
                yield store
        except (sqlite3.OperationalError, OSError) as error:  # read-only, full, in use
            self._is_usable = False
            print(f"note: {self._file}: {error}; what is compared now will be compared again", file=sys.stderr)
            raise _Unusable from None
        except sqlite3.Error as error:
            raise UserError(f"{self._file}: {error}; remove it, it only saves time") from None
