"""One file over HTTP: resumed where it stopped, restarted if that is unsafe, and named only when it is complete."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import requests

from toolkit.errors import UserError
from toolkit.files import write_json

TIMEOUTS = (10, 60)  # seconds to connect, and between two blocks
BLOCK = 1 << 16  # bytes; a broken connection loses less than one block
UNREACHED_ATTEMPTS = 3  # for a server that has never answered, so that being offline is noticed in seconds
MAX_PAUSE = 60.0  # seconds
RETRY_STATUSES = (408, 425, 429, 500, 502, 503, 504)


class SourceError(Exception):
    """A source did not deliver; the text gives the reason in a few words."""


class _Retry(Exception):
    """This attempt failed; another one may succeed."""

    def __init__(self, reason: str, pause: float = 0):
        super().__init__(reason)
        self.pause = pause


class Partial:
    """The received part of a file, `NAME.part`, and the server's data on it, `NAME.part.json`."""

    def __init__(self, target: Path):
        self.path = target.with_name(target.name + ".part")
        self._notes = target.with_name(target.name + ".part.json")

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self.path.stat().st_size if self.path.exists() else 0

    def notes(self) -> dict:
        """URL, validator, total bytes and MD5 of the transfer that `size` belongs to; empty if there is none."""
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            return json.loads(self._notes.read_text(encoding="utf-8"))
        return {}

    def begin(self, notes: dict) -> None:
        """Discard earlier bytes and notes. The notes are written last: bytes without notes are never resumed."""
        self.clear()
        self.path.touch()
        write_json(self._notes, notes)

    def clear(self) -> None:
        """Delete both files."""
        self._notes.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    def finish(self, target: Path) -> None:
        """Give the complete file its name."""
        os.replace(self.path, target)
        self._notes.unlink(missing_ok=True)


def fetch(url: str, target: Path, attempts: int, report: Callable[[int, int | None], None]) -> None:
    """Fetch `url` to `target`, unless that exists already. Proxies come from HTTP_PROXY, HTTPS_PROXY and NO_PROXY.

    Args:
        url: http or https.
        target: path of the complete file; `NAME.part` and its notes are next to it.
        attempts: failures in a row without a new byte that end it.
        report: called with (bytes so far, total bytes or None if the server gives none).

    Raises:
        SourceError: the server refuses, cannot be reached, or does not send the file.
        UserError: the disk is too small for it.

    Source: RFC 9110, sections 13.1.5 (If-Range), 14.2 (Range) and 15.3.7 (206).
    """
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Partial(target)
    failures, furthest, reached = 0, partial.size, False
    with requests.Session() as session:
        while True:
            try:
                _transfer(session, url, partial, report)
                break
            except requests.exceptions.ProxyError as error:
                raise SourceError(f"proxy refused or not reached ({reason_of(error)})") from None
            except requests.RequestException as error:
                problem, pause = reason_of(error), 0.0
                if isinstance(error, ValueError):  # an unusable URL: InvalidURL, MissingSchema ...
                    raise SourceError(problem) from None
            except _Retry as retry:
                problem, pause, reached = str(retry), retry.pause, True
            # Only bytes never received before reset the count, else a server that always breaks off would never end.
            failures = 0 if partial.size > furthest else failures + 1
            reached, furthest = reached or failures == 0, max(furthest, partial.size)
            if failures >= (attempts if reached else min(attempts, UNREACHED_ATTEMPTS)):
                raise SourceError(f"{problem}; gave up after attempt {failures}")
            time.sleep(pause or min(MAX_PAUSE, 0.25 * 2**failures) * random.uniform(0.5, 1))
    partial.finish(target)


def shown_url(url: str) -> str:
    """An address as messages may show it: without user name, password and query, which may be a signature."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _noted(url: str) -> str:
    """An address as files may keep it, to be told from others."""
    return url if url == shown_url(url) else hashlib.sha256(url.encode()).hexdigest()


def _transfer(session: requests.Session, url: str, partial: Partial, report: Callable[[int, int | None], None]) -> None:
    """One request. Returns when the file is complete; raises _Retry, SourceError or a RequestException."""
    notes, size = partial.notes(), partial.size
    known = bool(size) and notes.get("url") == _noted(url)
    if known and size == notes["total"]:
        return  # a run was killed between the last byte and the rename
    headers = {"Accept-Encoding": "identity"}
    if known and notes["validator"]:
        headers |= {"Range": f"bytes={size}-", "If-Range": notes["validator"]}
    with session.get(url, headers=headers, stream=True, timeout=TIMEOUTS) as response:
        if not _continues(response, partial, notes, size, asked="Range" in headers):
            size, notes = 0, _notes(response, url)
            partial.begin(notes)
        report(size, notes["total"])
        _require_space(partial.path, size, notes["total"])
        with partial.path.open("ab") as file:
            for block in response.iter_content(BLOCK):
                file.write(block)
                size += len(block)
                report(size, notes["total"])
    if notes["total"] is not None and size != notes["total"]:
        if size > notes["total"]:
            partial.clear()
        raise _Retry(f"{size:,} of {notes['total']:,} bytes received")
    if notes["md5"] and _md5(partial.path) != notes["md5"]:
        partial.clear()
        raise _Retry("the bytes do not match the server's MD5")


def _continues(response: requests.Response, partial: Partial, notes: dict, size: int, asked: bool) -> bool:
    """Whether the response continues at `size`; False if it starts at the first byte."""
    status = response.status_code
    if status in RETRY_STATUSES:
        after = response.headers.get("Retry-After", "")
        pause = min(MAX_PAUSE, float(after)) if after.isdecimal() else 0
        raise _Retry(f"HTTP {status} {response.reason}", pause)
    if asked and status in (206, 416):
        content_range = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        if status == 206 and content_range and [int(n) for n in content_range.groups()] == [size, notes["total"]]:
            return True
        partial.clear()
        raise _Retry(f"the server did not continue at byte {size:,}")
    if status != 200:
        raise SourceError(f"HTTP {status} {response.reason}")
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise SourceError("the response is a web page, not the file (the login page of a network or proxy?)")
    return False


def _notes(response: requests.Response, url: str) -> dict:
    etag, length = response.headers.get("ETag", ""), response.headers.get("Content-Length", "")
    md5 = response.headers.get("Content-MD5", "")
    return {
        "url": _noted(url),
        # A weak tag promises the same meaning, not the same bytes.
        "validator": etag if etag.startswith('"') else response.headers.get("Last-Modified", ""),
        "total": int(length) if length.isdecimal() else None,
        "md5": base64.b64decode(md5).hex() if md5 else "",
    }


def _require_space(path: Path, size: int, total: int | None) -> None:
    free = shutil.disk_usage(path.parent).free
    if total is not None and total - size > free:
        raise UserError(
            f"{path.parent}: {free / 1e9:.1f} GB free, {(total - size) / 1e9:.1f} GB still to fetch of {path.stem}; "
            "make room and run the same command again"
        )


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def reason_of(error: Exception) -> str:
    """The innermost reason of a network error, on one line."""
    while isinstance(inner := getattr(error, "reason", None) or (error.args or [None])[0], Exception):
        error = inner
    text = re.sub(r"^.*?(?:object at 0x\w+>|port=\d+\))[:,] ", "", " ".join(str(error).split()))
    return text[:160] or type(error).__name__
