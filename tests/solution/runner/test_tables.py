"""Rows on the disk: written in parts they equal those written in one piece, even if later parts differ in type."""

import json

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset

from solution.operators.common.rows import ROW
from solution.runner import seed
from solution.runner.audit import Ledger
from solution.runner.configuration.dataset_files import DataSet
from solution.runner.seed import Folders, read_rows
from solution.runner.tables import numbers_of, open_rows, positions_of, tables_of, write_tables
from tests.solution.conftest import TEXT, sample_image

ROWS = [
    {"n": 1, "list": [], "dict": {"a": 1}},
    {"n": 2, "list": [], "dict": {"a": None}},
    {"n": 2.5, "list": ["x"], "dict": {"b": [1.5]}},
    {"n": None, "list": ["y", "z"], "dict": None, "new": "word"},
]


def table_of(rows: list[dict], keys: list[str]) -> pa.Table:
    return pa.table({key: pa.array([row.get(key) for row in rows]) for key in keys})


def test_parts_with_wider_types_and_more_columns_equal_one_piece(tmp_path):
    keys = ["n", "list", "dict"]
    parts = [table_of(ROWS[:1], keys), table_of(ROWS[1:3], keys), table_of(ROWS[3:], [*keys, "new"])]
    write_tables(tmp_path / "rows.arrow", iter(parts))
    whole = table_of(ROWS, [*keys, "new"])
    found = open_rows(tmp_path / "rows.arrow").with_format("arrow")[:]
    assert found.schema.remove_metadata() == whole.schema
    assert found.to_pylist() == whole.to_pylist()
    assert [file.name for file in tmp_path.iterdir()] == ["rows.arrow"]


def test_types_without_anything_in_common_leave_no_file(tmp_path):
    with pytest.raises((pa.ArrowInvalid, pa.ArrowTypeError)):
        write_tables(tmp_path / "rows.arrow", [pa.table({"n": [1]}), pa.table({"n": ["one"]})])
    assert not (tmp_path / "rows.arrow").exists()


def test_chosen_rows_come_as_one_chunk(tmp_path):
    """A chunk for every row would be the file's shape too, and take kilobytes per row to read."""
    write_tables(tmp_path / "all.arrow", [pa.table({"n": list(range(100))})])
    chosen = open_rows(tmp_path / "all.arrow").select([90, 3, 4, 50])
    assert numbers_of(chosen, "n").tolist() == [90, 3, 4, 50]
    write_tables(tmp_path / "some.arrow", tables_of(chosen))
    assert open_rows(tmp_path / "some.arrow").with_format("arrow")[:]["n"].num_chunks == 1


def test_places_are_the_first_ones():
    assert positions_of([5, 7, 9, 5], np.array([9, 5, 5, 8])).tolist() == [1, -1, 0, 1]


def test_a_seed_read_in_parts_equals_one_read_whole(tmp_path, monkeypatch):
    """Keys that come late, numbers that turn out fractions, ids and faults that reach over parts."""
    (tmp_path / "images").mkdir()
    for number in range(6):
        sample_image(number).save(tmp_path / "images" / f"{number}.png")
    rows = [{"id": str(number), "text": TEXT.format(number), "images": [f"images/{number}.png"]} for number in range(6)]
    rows[1]["score"], rows[3]["score"], rows[4]["note"] = 1, 0.5, {"by": "hand"}
    rows += [rows[0] | {"images": ["images/5.png"]}, rows[2], rows[2] | {"images": ["images/none.png"], "id": "x"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "\nno json\n")
    folders = Folders(tmp_path, tmp_path, tmp_path / "out", tmp_path / "unfinished")
    results = []
    for part in (1000, 2):
        monkeypatch.setattr(seed, "PART", part)
        ledger = Ledger("skip")
        write_tables(tmp_path / "rows.arrow", read_rows(DataSet((tmp_path / "rows.jsonl",)), folders, ledger))
        table = Dataset.from_file(str(tmp_path / "rows.arrow")).with_format("arrow")[:].select([*ledger.columns, ROW])
        results.append((table.to_pylist(), ledger.columns, ledger.failures(), ledger.totals()))
    assert results[0] == results[1]
    assert results[0][3] == {"in": 10, "created": 0, "kept": 7, "dropped": 0, "failed": 3}
    assert [failure["row"] for failure in results[0][2]] == [7, 9, 11]
