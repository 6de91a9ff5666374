"""toolkit/download/fetch.py: the file arrives whole or not at all, against any server."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil

import pytest

from toolkit.download.fetch import SourceError, fetch
from toolkit.errors import UserError

DATA = os.urandom(4_000_000)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    waits: list[float] = []
    monkeypatch.setattr("toolkit.download.fetch.time.sleep", waits.append)
    return waits


@pytest.fixture
def get(server, tmp_path):
    """Fetch /f from the server; returns the file."""
    server.files.setdefault("/f", DATA)

    def run(attempts=3):
        fetch(f"{server.url}/f", tmp_path / "f", attempts, lambda done, total: None)
        return tmp_path / "f"

    return run


def leave(tmp_path, get, server, size):
    """Let a transfer end after some bytes, as a killed run would."""
    server.faults["/f"] = ["drop"]
    with pytest.raises(SourceError):
        get(attempts=0)
    os.truncate(tmp_path / "f.part", size)
    server.requests.clear()


def test_a_file_comes_whole_and_leaves_nothing_else(get, tmp_path, server):
    assert get().read_bytes() == DATA
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    get()
    assert len(server.requests) == 1


def test_progress_is_reported(server, tmp_path):
    server.files["/f"] = DATA
    seen = []
    fetch(f"{server.url}/f", tmp_path / "f", 3, lambda done, total: seen.append((done, total)))
    assert seen[0] == (0, len(DATA))
    assert seen[-1] == (len(DATA), len(DATA))


def test_dropped_connections_are_continued_where_they_broke(get, server):
    server.faults["/f"] = ["drop"] * 5
    assert get().read_bytes() == DATA
    starts = [int(asked.removeprefix("bytes=").rstrip("-")) for asked in server.ranges("/f")[1:]]
    assert len(starts) == 5
    assert starts == sorted(set(starts))


def test_an_earlier_runs_bytes_are_continued(get, server, tmp_path):
    leave(tmp_path, get, server, 100_000)
    assert get().read_bytes() == DATA
    assert server.ranges("/f") == ["bytes=100000-"]


def test_all_bytes_but_no_name_need_no_request(get, server, tmp_path):
    leave(tmp_path, get, server, 0)
    (tmp_path / "f.part").write_bytes(DATA)
    assert get().read_bytes() == DATA
    assert server.requests == []


@pytest.mark.parametrize("fault", ["ignore-range", "wrong-range"])
def test_a_server_that_does_not_continue_is_started_over(get, server, tmp_path, fault):
    leave(tmp_path, get, server, 100_000)
    server.faults["/f"] = [fault]
    assert get().read_bytes() == DATA


def test_a_file_that_changed_meanwhile_is_started_over(get, server, tmp_path):
    leave(tmp_path, get, server, 100_000)
    server.files["/f"] = other = os.urandom(200_000)
    assert get().read_bytes() == other


def test_bytes_without_a_validator_are_not_continued(get, server):
    server.faults["/f"] = ["drop untagged"]
    assert get().read_bytes() == DATA
    assert server.ranges("/f") == ["", ""]


def test_bytes_without_notes_are_not_continued(get, server, tmp_path):
    (tmp_path / "f.part").write_bytes(b"of something else")
    assert get().read_bytes() == DATA
    assert server.ranges("/f") == [""]


def test_a_server_that_always_drops_ends_with_its_reason(get, server, tmp_path):
    server.always["/f"] = "drop"
    server.files["/f"] = b"x"  # half of it is nothing
    with pytest.raises(SourceError, match="gave up after attempt 3"):
        get()
    assert not (tmp_path / "f").exists()


def test_a_server_that_never_gets_past_the_middle_comes_to_an_end(get, server):
    server.always["/f"] = "drop ignore-range"
    with pytest.raises(SourceError, match="gave up after attempt 3"):
        get()
    assert len(server.requests) == 4


def test_busy_is_waited_for_as_long_as_the_server_says(get, server, quick):
    server.faults["/f"] = ["busy", "busy"]
    server.headers["/f"]["Retry-After"] = "7"
    assert get().read_bytes() == DATA
    assert quick == [7, 7]


def test_pauses_grow(get, server, quick):
    server.always["/f"] = "busy"
    with pytest.raises(SourceError, match="HTTP 503"):
        get(attempts=6)
    assert len(quick) == 5
    assert quick[-1] > 2 * quick[0]


def test_missing_is_not_tried_again(get, server):
    del server.files["/f"]
    with pytest.raises(SourceError, match="HTTP 404"):
        get()
    assert len(server.requests) == 1


def test_a_login_page_is_not_the_file(get, server, tmp_path):
    server.always["/f"] = "web-page"
    with pytest.raises(SourceError, match="web page"):
        get()
    assert list(tmp_path.iterdir()) == []


def test_wrong_bytes_are_caught_by_the_servers_md5(get, server):
    server.headers["/f"]["Content-MD5"] = base64.b64encode(hashlib.md5(DATA).digest()).decode()
    server.faults["/f"] = ["wrong"]
    assert get().read_bytes() == DATA


def test_bytes_that_stay_wrong_are_refused(get, server, tmp_path):
    server.headers["/f"]["Content-MD5"] = base64.b64encode(hashlib.md5(b"others").digest()).decode()
    with pytest.raises(SourceError, match="MD5"):
        get()
    assert list(tmp_path.iterdir()) == []


def test_too_little_room_is_said_before_the_disk_is_full(get, server, monkeypatch):
    monkeypatch.setattr("toolkit.download.fetch.shutil.disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 1000))
    with pytest.raises(UserError, match="make room"):
        get()


def test_a_closed_port_is_given_up_soon(tmp_path, server, quick):
    server.close()
    with pytest.raises(SourceError, match="refused"):
        fetch(f"{server.url}/f", tmp_path / "f", 8, lambda done, total: None)
    assert len(quick) == 2


def test_a_proxy_is_used(server, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url)
    server.files["/f"] = DATA
    fetch("http://nowhere.invalid/f", tmp_path / "f", 2, lambda done, total: None)
    assert (tmp_path / "f").read_bytes() == DATA
