"""What an unfinished run leaves behind, so that the same command goes on after its last finished operator."""

import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import Dataset

from solution.audit import Ledger, RowAudit, Step
from solution.files import replaced
from solution.juicer import NestedDataset


class Progress:
    """The state after the last finished operator: rows, ledger and counts, in a folder beside the audit.

    ``identity`` names everything that decides the result besides the operators (data set, models, code, policy);
    a state counts only for the same identity and the same operators so far.
    """

    def __init__(self, folder: Path, identity: dict[str, Any], process: list[Any]) -> None:
        self.folder = folder
        self.identity = identity
        self.process = process

    def save(self, done: int, dataset: NestedDataset, ledger: Ledger) -> None:
        """Keep the state after the first ``done`` operators; the record comes last, so a killed save does no harm."""
        with replaced(self.folder / f"{done}.rows.parquet") as temporary:
            pq.write_table(dataset.with_format("arrow")[:], temporary)
        ledger.write(self.folder / f"{done}.audit.parquet")
        steps = [vars(step) | {"reasons": dict(step.reasons)} for step in ledger.steps]
        with replaced(self.folder / "state.json") as temporary:
            temporary.write_text(
                json.dumps({"key": self._key(done), "done": done, "columns": ledger.columns, "steps": steps})
            )
        for file in self.folder.glob("*.parquet"):
            if not file.name.startswith(f"{done}."):
                file.unlink()

    def load(self, on_error: str) -> tuple[int, NestedDataset, Ledger] | None:
        """(finished operators, rows, ledger) of an unfinished run of the same kind, None without one."""
        record = self.folder / "state.json"
        if not record.is_file():
            return None
        state = json.loads(record.read_text())
        done = state["done"]
        if state["key"] != self._key(done):
            return None
        dataset = NestedDataset(Dataset(pq.read_table(self.folder / f"{done}.rows.parquet")))
        audits = pq.read_table(self.folder / f"{done}.audit.parquet").to_pylist()
        steps = [Step(**step | {"reasons": Counter(step["reasons"])}) for step in state["steps"]]
        rows = {audit["row"]: RowAudit(**audit) for audit in audits}
        return done, dataset, Ledger(on_error, rows, steps, state["columns"])

    def clear(self) -> None:
        """Forget the state of a run that has ended well."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _key(self, done: int) -> str:
        text = json.dumps([self.identity, self.process[:done]], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()
