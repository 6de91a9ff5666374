"""Recipes whose captions come from a server that misbehaves, in whole runs: killed, in two processes, on Ray."""

import hashlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.solution.chat_stub import MODEL, ChatStub, Seen
from tests.solution.conftest import ROOT

ROWS = 60
KILLS = 3
KEY = "sk-a-very-secret-key"
CUSTOMER = "c-7f3a-another-key"  # in the address, as gateways want it
PASSING = ("429", "503", "drop", "html", "cut", "ok", "ok", "ok")  # by image, at its first request


def moody(seen: Seen) -> str:
    """Every third image meets something that passes, every twentieth a refusal."""
    number = int(hashlib.sha256(seen.image.encode()).hexdigest()[:6], 16)
    if number % 20 == 0:
        return "refusal"
    return PASSING[number % 8] if seen.earlier == 0 else "ok"


@pytest.fixture
def stub():
    with ChatStub(moody) as server:
        yield server


@pytest.fixture
def recipe(stub, make_seed, make_recipe):
    """make(np=2): a recipe that captions all rows of a seed."""

    def make(**keys):
        endpoint = stub.endpoint.replace("/v1", f"/{CUSTOMER}/v1")
        step = {
            "endpoint": endpoint, "model": MODEL, "api_key_env": "CAPTION_KEY", "concurrency": 4, "retries": 4,
            "max_words": 99,
        }  # fmt: skip
        seed = make_seed([f"caption {number}" for number in range(ROWS)])
        return make_recipe([{"caption_writer_mapper": step}], dataset_path=str(seed), max_failed=1.0, **keys)

    return make


def answered(scores) -> int:
    """Rows whose answer is on disk. A merge that is killed before it removes its parts leaves some twice."""
    keys = set()
    for part in scores.rglob("part-*.parquet"):
        with suppress(FileNotFoundError):  # merged at this moment: they are counted next time
            keys |= set(pq.read_table(part)["key"].to_pylist())
    return len(keys)


@pytest.mark.parametrize(
    ("processes", "options"),
    [
        (1, ()),
        pytest.param(2, (), marks=pytest.mark.slow),
        pytest.param(2, ("--executor", "ray"), marks=pytest.mark.slow),
    ],
    ids=["one", "two", "ray"],
)
def test_every_row_gets_its_caption_and_the_key_stays_in_memory(recipe, run_process, processes, options):
    if options:
        pytest.importorskip("ray", reason="pip install -r solution/requirements-ray.txt -c constraints.txt")
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:  # paths of its sockets must be short
        done = run_process(recipe(np=processes), None, *options, environment={"CAPTION_KEY": KEY, "TMPDIR": folder})
        assert done.code == 0, done.err
        written = [*Path(folder).rglob("*"), *done.output.parent.rglob("*")]
        contents = [file.read_bytes() for file in written if file.is_file()]
        assert not [content for content in contents if KEY.encode() in content or CUSTOMER.encode() in content]
        assert CUSTOMER not in done.out + done.err
    failed = [line["reason"] for line in pq.read_table(done.audit).to_pylist() if line["state"] == "failed"]
    assert set(failed) == {"captioner refused: I'm sorry, I can't help with that."}
    assert len(done.rows) + len(failed) == ROWS
    assert all("a red dog number" in row["text"] for row in done.rows)


def test_a_server_that_is_not_there_ends_the_run_in_one_line(recipe, run_process, stub):
    path = recipe()
    stub.__exit__()
    done = run_process(path, None, environment={"CAPTION_KEY": KEY})
    assert done.code == 1
    assert done.err.splitlines() == [
        f"error: operator 1 (caption_writer_mapper) cannot be set up: {stub.endpoint[:-3]}/(not shown)/v1 cannot be "
        "reached (connection refused); start the server, or correct the endpoint"
    ]
    assert done.rows is None


class Gate:
    """Lets so many answers through, moody as they are; later requests wait until it is opened."""

    def __init__(self, answers: int) -> None:
        self.left = answers
        self.opened = threading.Event()
        self._lock = threading.Lock()

    def __call__(self, seen: Seen) -> str:
        kind = moody(seen)
        with self._lock:
            self.left -= kind in ("ok", "refusal")
            is_closed = self.left < 0
        if is_closed:
            self.opened.wait(120)
        return kind


@pytest.mark.slow
def test_a_run_that_is_killed_asks_for_no_finished_row_again(recipe, stub, tmp_path):
    path = recipe()
    results = {}
    for name, kills in (("whole", 0), ("killed", KILLS)):
        output = tmp_path / name / "processed_data"
        scores = output.parent / "scores"
        environment = os.environ | {"CAPTION_KEY": KEY, "SCORE_STORE": str(scores)}
        program = str(ROOT / "solution" / "process.py")
        command = [sys.executable, program, "--recipe", str(path), "--output", str(output)]
        for number in range(kills):
            stub.behave = gate = Gate(ROWS // (KILLS + 1))
            run = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while answered(scores) < (number + 1) * (ROWS // (KILLS + 1)):
                assert run.poll() is None
                time.sleep(0.05)
            run.kill()
            run.wait()
            gate.opened.set()
        stub.behave = moody
        stub.seen.clear()
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert len({seen.image for seen in stub.seen}) == ROWS - kills * (ROWS // (KILLS + 1))
        results[name] = (output / "processed_data.jsonl").read_bytes()
    assert results["whole"] == results["killed"]
