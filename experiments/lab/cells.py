"""Cells of a lab, what decides each, and what a finished one leaves.

A finished cell leaves in the lab's records folder:

- `ARM-drawD-seedS.json`, its record: `key`, `arm`, `draw`, `seed`, `preset`, `split`; `scores` by benchmark, 0 to 1
  (`all`, then by category; soft for TextVQA, tolerant for MMBench); `samples` trained in each stage; `loss` of each
  stage, one value per logged step; `warnings`; `counts`; `seconds`, `cpu_seconds`, `gpu_hours`; `inputs` (hashes of
  all that decides the cell), `versions`, `fixed_part`, `device`. Records of before the lab, those of the mini world,
  have no key, no questions, and one number per stage as `loss`: the mean of its last tenth;
- `ARM-drawD-seedS.parquet`, its answers: `benchmark`, `question`, `answer`, `correct` (0 to 1, tolerant for MMBench),
  `strict`;
- `questions-EVALUATION.parquet`, shared by all cells of an evaluation set: `benchmark`, `question`, `category`,
  `image`, `text`, `wanted`;
- `lab.json`, written when `lab run` ends: the arms with their sources, the baseline, and what is missing and why.

`read_answers` joins them.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.lab.labfile import Arm, Lab
from toolkit.errors import UserError
from toolkit.files import atomic_write, copy_file, read_json
from toolkit.processes import unfinished

if TYPE_CHECKING:
    import pandas

Record = dict[str, Any]
SUMMARY = "lab.json"
# Figures that records of before the lab lack: those of the mini preset, which all of them were trained with.
EARLIER_FIGURES = {"precision": "fp32", "max_length": 2048, "image_size_aux": 192, "new_tokens": [16, 16]}


@dataclass(frozen=True)
class Cell:
    """One training and its evaluation.

    Args:
        arm: its rows.
        draw: of the mini world's seed; 0 elsewhere.
        seed: TRAIN_SEED.
    """

    arm: Arm
    draw: int
    seed: int

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.arm.name}-draw{self.draw}-seed{self.seed}"


def cells_of(lab: Lab) -> list[Cell]:
    """All cells: every arm of one seed before the next seed, so that pairs are complete early."""
    draws = max(arm.draws for arm in lab.arms.values())
    seeds = sorted({seed for arm in lab.arms.values() for seed in arm.seeds})
    return [
        Cell(arm, draw, seed)
        for draw in range(draws)
        for seed in seeds
        for arm in lab.arms.values()
        if draw < arm.draws and seed in arm.seeds
    ]


def hash_of(value: Any) -> str:
    """16 hex digits of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def key_of(inputs: dict[str, Any], seed: int) -> str:
    """A cell's key: equal where everything that decides its numbers is equal, whatever its arm is called."""
    return hash_of([inputs, seed])


def read_record(file: Path) -> Record:
    """A record; one of before the lab gets its key and the figures it lacks.

    Raises:
        UserError: no JSON, or no record of a cell.
    """
    record = read_json(file)
    parts = {"arm": str, "draw": int, "seed": int, "scores": dict, "inputs": dict, "counts": dict}
    if not isinstance(record, dict) or any(not isinstance(record.get(key), kind) for key, kind in parts.items()):
        raise UserError(f"{file}: no record of a cell; remove it and run the lab again")
    if "key" not in record:
        inputs = record["inputs"]
        inputs["figures"] = EARLIER_FIGURES | inputs["figures"]
        record |= {"key": key_of(inputs, record["seed"]), "preset": "mini"}
    return record


def record_files(folder: Path) -> list[Path]:
    """Records of a folder, in the order of their names."""
    return sorted(folder.glob("*-draw*-seed*.json"))


@dataclass(frozen=True)
class Store:
    """Where finished cells are kept: a lab's records, and the cells of all labs.

    Args:
        records: the lab's folder.
        cells: of all labs, files named by key.
        others: records folders of other labs.
    """

    records: Path
    cells: Path
    others: tuple[Path, ...] = ()

    def find(self, cell: Cell, key: str) -> Record | None:
        """The cell's record, from wherever a cell with this key is kept; the lab's folder then has it by its name."""
        base = self._base(cell, key)
        if base is None:
            return None
        own = self.records / cell.name
        if base != own:
            self._take(base, cell)
        return read_record(_with(own, ".json"))

    def knows(self, cell: Cell, key: str) -> bool:
        """Whether a cell with this key is kept anywhere."""
        return self._base(cell, key) is not None

    def _base(self, cell: Cell, key: str) -> Path | None:
        """Path, without ending, of the files of a cell with this key."""
        own = self.records / cell.name
        if _with(own, ".json").is_file() and read_record(_with(own, ".json"))["key"] == key:
            return own
        if _with(self.cells / key, ".json").is_file():
            return self.cells / key
        for folder in (self.records, *self.others):
            for file in record_files(folder):
                if _key_in(file, file.stat().st_mtime_ns) == key:
                    return file.with_name(file.name.removesuffix(".json"))
        return None

    def add(self, cell: Cell, record: Record, answers: pandas.DataFrame, questions: pandas.DataFrame) -> None:
        """Keep a finished cell for all labs, then in the lab's folder; the record comes last."""
        base = self.cells / record["key"]
        write_table(self.cells / f"questions-{record['inputs']['evaluation']}.parquet", questions)
        write_table(_with(base, ".parquet"), answers)
        write_record(_with(base, ".json"), record)
        self._take(base, cell)

    def _take(self, base: Path, cell: Cell) -> None:
        """Copy a cell's files into the lab's folder under the cell's name; `base` is their path without ending."""
        record = read_record(_with(base, ".json"))
        questions = f"questions-{record['inputs']['evaluation']}.parquet"
        if (base.parent / questions).is_file() and not (self.records / questions).is_file():
            copy_file(base.parent / questions, self.records / questions)
        own = self.records / cell.name
        if _with(base, ".parquet").is_file():
            copy_file(_with(base, ".parquet"), _with(own, ".parquet"))
        else:
            _with(own, ".parquet").unlink(missing_ok=True)  # of other data under the same name
        names = {"arm": cell.arm.name, "draw": cell.draw, "seed": cell.seed}
        write_record(_with(own, ".json"), record | names)


@functools.cache
def _key_in(file: Path, _changed: int) -> str:
    """The key of a record, which is read once for each time it changed."""
    return read_record(file)["key"]


def _with(base: Path, ending: str) -> Path:
    """A path with an ending added; names of arms may have a full stop, so none is replaced."""
    return base.with_name(base.name + ending)


def write_record(file: Path, record: Record) -> None:
    """Write a record with one key per line; a history of losses stays on its line."""
    lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in record.items())
    with atomic_write(file) as output:
        output.write("{\n" + lines + "\n}\n")


def write_table(file: Path, table: pandas.DataFrame) -> None:
    """Write a Parquet file, whole or not at all; equal tables give equal bytes."""
    with unfinished(file) as temporary:
        table.to_parquet(temporary, compression="zstd", index=False)
        temporary.replace(file)


def read_lab_records(folder: Path, arms: Iterable[str] | None = None) -> dict[str, list[Record]]:
    """Records by arm.

    Args:
        folder: of a lab's records.
        arms: their order; others are left out. None: all, in the order of `lab.json`, else of their names.
    """
    summary = read_json(folder / SUMMARY) if (folder / SUMMARY).is_file() else {}
    found: dict[str, list[Record]] = {name: [] for name in (summary.get("arms", {}) if arms is None else arms)}
    for file in record_files(folder):
        record = read_record(file)
        if "cells" in summary and summary["cells"].get(file.name.removesuffix(".json")) != record["key"]:
            continue  # of data that have changed since
        if arms is None or record["arm"] in found:
            found.setdefault(record["arm"], []).append(record)
    return {
        arm: sorted(records, key=lambda record: (record["draw"], record["seed"]))
        for arm, records in found.items()
        if records
    }


def read_answers(folder: Path, records: Iterable[Record]) -> pandas.DataFrame:
    """Answers of some records to single questions, those of the records that have any.

    Args:
        folder: of the lab's records.
        records: as `read_lab_records` gives them.

    Returns:
        columns `arm, seed, draw, benchmark, question, correct, strict, answer, category, image, text, wanted`, one row
        per question and record.
    """
    import pandas

    tables = list(_answers(folder, records))
    if not tables:
        columns = "arm seed draw benchmark question correct strict answer category image text wanted"
        return pandas.DataFrame(columns=columns.split())
    return pandas.concat(tables, ignore_index=True)


def _answers(folder: Path, records: Iterable[Record]) -> Iterator[pandas.DataFrame]:
    import pandas

    questions: dict[str, pandas.DataFrame] = {}
    for record in records:
        name = f"{record['arm']}-draw{record['draw']}-seed{record['seed']}.parquet"
        if not (folder / name).is_file():
            continue
        evaluation = record["inputs"]["evaluation"]
        if evaluation not in questions:
            questions[evaluation] = pandas.read_parquet(folder / f"questions-{evaluation}.parquet")
        answers = pandas.read_parquet(folder / name)
        yield answers.merge(questions[evaluation], on=["benchmark", "question"]).assign(
            arm=record["arm"], draw=record["draw"], seed=record["seed"]
        )
