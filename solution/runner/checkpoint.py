"""The checkpoint of an unfinished run: the same command resumes after its last finished operator."""

import hashlib
import json
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa

from solution.attempts import ATTEMPTS
from solution.runner.audit import Ledger
from solution.runner.data_juicer import NestedDataset
from solution.runner.errors import UserError
from solution.runner.files import shown, stamp_of_files
from solution.runner.seed import SYNTHETIC
from solution.runner.tables import open_rows, write_tables

_ROWS = "{}.rows.arrow"  # the rows after that many operators


class Checkpoint:
    """The state after the last finished operator: rows and ledger, in a folder next to the audit.

    Rows stay on the disk. ``identity`` names everything that decides the result besides the operators (data set,
    models, code, policy); a state is valid only for the same identity, the same operators so far, and images below
    the image root that have not changed since they were read.
    """

    def __init__(self, folder: Path, identity: dict[str, Any], process: list[Any], images: Path) -> None:
        self.folder = folder
        self.identity = identity
        self.process = process
        self.images = images
        self._stamp = ""  # of the images as they were read

    def open(self, on_error: str, overwrite: bool) -> tuple[int, NestedDataset | None, Ledger]:
        """(finished operators, rows, ledger) of an unfinished run of the same kind; (0, None, an empty one) without.

        ``overwrite`` removes the state. Raises UserError where another process uses the folder.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        ledger = Ledger(on_error, self.folder / "ledger.sqlite")
        state = ledger.resume()
        is_ours = state is not None and not overwrite and state["key"] == self._key(state["done"])
        if not is_ours or state["images"] != stamp_of_files(self.images, ledger.seed_images()):
            if is_ours:
                print("note: images have changed since they were read: starting from the seed", file=sys.stderr)
            ledger.forget()
            self._sweep(None)
            return 0, None, ledger
        self._stamp = state["images"]
        self._sweep(state["done"])
        return state["done"], open_rows(self.folder / _ROWS.format(state["done"])), ledger

    def save(self, done: int, tables: Iterable[pa.Table], ledger: Ledger) -> NestedDataset:
        """Keep the state after the first ``done`` operators; returns the rows as they are read from their file.

        The ledger's commit decides: until then the last state's rows are still there, after it the new ones.
        """
        rows = self.folder / _ROWS.format(done)
        write_tables(rows, tables)
        self._stamp = self._stamp or stamp_of_files(self.images, ledger.seed_images())
        ledger.commit({"key": self._key(done), "done": done, "images": self._stamp})
        self._sweep(done)
        return open_rows(rows)

    def check_images(self, ledger: Ledger) -> None:
        """Raise UserError where an image has changed while the recipe ran: its rows were judged by the one before."""
        if self._stamp != stamp_of_files(self.images, ledger.seed_images()):
            raise UserError(f"images in {shown(self.images)} were changed while the recipe ran: run it again")

    def clear(self, ledger: Ledger) -> None:
        """Remove the state of a finished run."""
        ledger.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def leave(self, ledger: Ledger, is_resumable: bool) -> None:
        """Close the state of a run that did not come to its end; without rows only its audit stays."""
        ledger.close()
        if not is_resumable:
            for file in self.folder.glob("ledger.sqlite*"):
                file.unlink()

    def _sweep(self, done: int | None) -> None:
        """Remove all but ledger, tries, the rows after ``done`` operators and the images they may show.

        That is older rows, files of a killed step and what operators made besides; all images where no rows are left.
        """
        needed = None if done is None else self.folder / _ROWS.format(done)
        for file in self.folder.rglob("*"):
            is_image = done is not None and file.parent == self.folder / SYNTHETIC
            is_kept = file == needed or is_image or file.name == ATTEMPTS or file.name.startswith("ledger.sqlite")
            if file.is_file() and not is_kept:
                file.unlink()

    def _key(self, done: int) -> str:
        text = json.dumps([self.identity, self.process[:done]], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()
