"""An unfinished run's folder: rows and ledger are those of one operator, whenever the process dies."""

import os
import signal
import subprocess
import sys
import textwrap

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from solution.runner import audit
from solution.runner.audit import Ledger, RowAudit
from solution.runner.checkpoint import Checkpoint
from solution.runner.errors import UserError
from tests.solution.conftest import ROOT

PROCESS = [{"one": {}}, {"two": {}}]


def lines(count: int) -> list[RowAudit]:
    return [RowAudit(f"id{row}", row, None, f"text {row}", f"text {row}", f"{row}.jpg") for row in range(1, count + 1)]


@pytest.mark.parametrize("moment", ["rows written", "committed", "swept"])
def test_a_kill_leaves_rows_and_ledger_of_one_operator(tmp_path, moment):
    program = f"""
    import os, signal
    from pathlib import Path
    import pyarrow as pa
    from solution.runner.audit import Ledger, RowAudit
    from solution.runner.checkpoint import Checkpoint
    from solution.runner import checkpoint as module

    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    checkpoint = Checkpoint(Path({str(tmp_path)!r}), {{"data": 1}}, {PROCESS!r}, Path())
    done, rows, ledger = checkpoint.open("skip", False)
    ledger.begin("read", 3)
    ledger.add(RowAudit(f"id{{row}}", row, None, "text", "text", "1.jpg") for row in (1, 2, 3))
    checkpoint.save(0, [pa.table({{"n": [1, 2, 3]}})], ledger)
    ledger.begin("one", 3)
    ledger.drop([(2, "why", 0.1, 0.5)])
    if {moment!r} == "rows written":
        ledger.commit = die
    if {moment!r} == "committed":
        checkpoint._sweep = die
    checkpoint.save(1, [pa.table({{"n": [1, 3]}})], ledger)
    ledger.begin("two", 2)
    ledger.drop([(1, "why", 0.1, 0.5)])
    die()
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    killed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    done, rows, ledger = Checkpoint(tmp_path, {"data": 1}, PROCESS, tmp_path).open("skip", False)
    states = [ledger.find(row).state for row in (1, 2, 3)]
    if moment == "rows written":
        assert (done, rows["n"][:], states) == (0, [1, 2, 3], ["kept"] * 3)
    else:
        assert (done, rows["n"][:], states) == (1, [1, 3], ["kept", "dropped", "kept"])
    assert [step.name for step in ledger.steps] == ["read", "one"][: done + 1]
    assert [file.name for file in tmp_path.glob("*.arrow")] == [f"{done}.rows.arrow"]
    ledger.totals()  # raises where steps and rows do not agree


def saved(folder, process) -> tuple:
    checkpoint = Checkpoint(folder, {"data": 1}, process, folder)
    _, _, ledger = checkpoint.open("skip", False)
    ledger.begin("read", 2)
    ledger.add(lines(2))
    checkpoint.save(0, [pa.table({"n": [1, 2]})], ledger)
    ledger.begin("one", 2)
    checkpoint.save(1, [pa.table({"n": [1, 2]})], ledger)
    ledger.close()


@pytest.mark.parametrize(
    ("identity", "process", "overwrite", "done"),
    [
        ({"data": 1}, PROCESS, False, 1),
        ({"data": 1}, [PROCESS[0], {"other": {}}], False, 1),
        ({"data": 1}, [{"other": {}}], False, 0),
        ({"data": 2}, PROCESS, False, 0),
        ({"data": 1}, PROCESS, True, 0),
    ],
)
def test_only_the_same_run_is_resumed(tmp_path, identity, process, overwrite, done):
    saved(tmp_path, PROCESS)
    found, rows, ledger = Checkpoint(tmp_path, identity, process, tmp_path).open("skip", overwrite)
    assert (found, rows is None, bool(ledger.steps)) == (done, not done, bool(done))
    if not done:
        ledger.begin("read", 2)
        ledger.add(lines(2))  # nothing of the former rows is left
        assert not list(tmp_path.glob("*.arrow"))


def test_two_runs_at_once_are_refused(tmp_path):
    checkpoint = Checkpoint(tmp_path, {"data": 1}, PROCESS, tmp_path)
    _, _, ledger = checkpoint.open("skip", False)
    with pytest.raises(UserError, match="wait for the process that uses it, or remove the folder"):
        checkpoint.open("skip", True)
    ledger.close()
    (tmp_path / "ledger.sqlite").write_bytes(os.urandom(5000))
    with pytest.raises(UserError, match="cannot be opened"):
        checkpoint.open("skip", True)


def test_an_audit_written_in_groups_equals_one_in_one_piece(tmp_path, monkeypatch):
    ledger = Ledger("skip")
    ledger.begin("read", 10)
    ledger.add(lines(10))
    ledger.begin("one", 10)
    ledger.passed([(row, row / 3, 0.5) for row in range(1, 9)])
    ledger.drop([(9, "below: 1", None, None), (10, "below: 2", 0.2, None)])
    ledger.create([1, 3], ["first", "second"])
    ledger.write(tmp_path / "whole.parquet", images="here")
    monkeypatch.setattr(audit, "_GROUP", 5)
    ledger.write(tmp_path / "parts.parquet", images="here")
    whole, parts = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("whole", "parts"))
    assert pq.ParquetFile(tmp_path / "parts.parquet").num_row_groups == 3
    assert whole.equals(parts, check_metadata=True)
    assert whole["row"].to_pylist() == list(range(1, 13))
    assert whole["score"].to_pylist()[7:] == [8 / 3, None, 0.2, 1 / 3, 1.0]
    assert whole["reason"].to_pylist()[8:] == ["below: 1", "below: 2", "made from row 1", "made from row 3"]
    assert ledger.steps[-1].reasons == {"below": 2}
