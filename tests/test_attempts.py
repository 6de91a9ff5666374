"""The tries of a stage: each with its seconds and how it ended, whatever ended it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from toolkit.attempts import attempt, finished_attempts, remove_attempts
from toolkit.errors import UserError

STAGE = {"inputs": {"rows.jsonl": "1f"}, "configuration": {"rate": 0.1}}


def tried(folder: Path, identity: dict = STAGE, ends: BaseException | None = None, part: str = "") -> None:
    with attempt(folder, identity, {"versions": {}}, UserError, part):
        if ends:
            raise ends


def exits(folder: Path, identity: dict = STAGE) -> list:
    return [past["exit"] for past in finished_attempts(folder, identity, 1.5)]


@pytest.mark.parametrize(
    ("ends", "status", "why"),
    [
        (UserError("rows.jsonl:3: no text\nand more"), 1, "rows.jsonl:3: no text"),
        (OSError(28, "No space left on device"), 1, "[Errno 28] No space left on device"),
        (ValueError("key sk-123 refused"), 1, "ValueError"),  # nobody has checked its text for secrets
        (UserError(), 1, "UserError"),
        (KeyboardInterrupt(), 130, "KeyboardInterrupt"),
    ],
)
def test_a_try_that_fails_says_how(tmp_path, ends, status, why):
    with pytest.raises(type(ends)):
        tried(tmp_path, ends=ends)
    record = json.loads((tmp_path / "attempts.json").read_text())
    assert {key: record[key] for key in STAGE} == STAGE
    (this,) = record["attempts"]
    assert (this["exit"], record["error"]) == (status, why)
    assert this["seconds"] >= 0


def test_a_killed_try_is_recognised_by_the_next(tmp_path):
    child = os.fork()
    if not child:
        with attempt(tmp_path, STAGE, {}, UserError):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    with pytest.raises(UserError):
        tried(tmp_path, ends=UserError("no"))
    with attempt(tmp_path, STAGE, {}, UserError):
        tries = finished_attempts(tmp_path, STAGE, 1.5)
        remove_attempts(tmp_path)
    assert [past["exit"] for past in tries] == ["killed", 1, 0]
    assert [tries[0]["seconds"], tries[2]["seconds"]] == [None, 1.5]
    assert not list(tmp_path.iterdir())  # the record has them


def test_tries_of_parts_come_first(tmp_path):
    for part in ("1-of-2", "0-of-2"):
        tried(tmp_path, part=part)
    with attempt(tmp_path, STAGE, {}, UserError):
        assert exits(tmp_path) == [0, 0, 0]
        remove_attempts(tmp_path)
    assert not list(tmp_path.iterdir())


def test_tries_of_another_stage_are_forgotten(tmp_path):
    with pytest.raises(UserError):
        tried(tmp_path, ends=UserError("no"))
    other = STAGE | {"inputs": {"rows.jsonl": "2f"}}
    assert exits(tmp_path, other) == []
    tried(tmp_path, other)
    assert exits(tmp_path) == []
    assert exits(tmp_path, other) == [0]


@pytest.mark.parametrize("text", ["", "[]", "null", '{"attempts": 3}', json.dumps(STAGE | {"attempts": [1]})])
def test_a_file_that_was_edited_counts_as_none(tmp_path, text):
    (tmp_path / "attempts.json").write_text(text)
    tried(tmp_path)
    assert exits(tmp_path) == [0]
