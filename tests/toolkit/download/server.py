"""A server on 127.0.0.1 that misbehaves on request, and archives that do."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

STOP_AFTER = 120  # seconds; a forgotten server ends itself


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Keep quiet about clients that were killed."""


class FaultyServer:
    """Serves `files` (path -> bytes).

    `faults[path]` lists words for its next answers, one text per answer, `always[path]` words for all of them: `drop`
    (close after half of what should come), `ignore-range`, `wrong-range`, `wrong` (other bytes under the same tag),
    `untagged`, `no-length` (the connection's end ends the file), `web-page`, `busy`.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[str]] = defaultdict(list)
        self.always: dict[str, str] = {}
        self.headers: dict[str, dict[str, str]] = defaultdict(dict)
        self.pause = 0.0  # seconds per block
        self.stopped = threading.Event()
        self.requests: list[tuple[str, str]] = []  # (path, Range)
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        self._timer = threading.Timer(STOP_AFTER, self._server.shutdown)
        self._timer.daemon = True
        self._timer.start()

    def ranges(self, path: str) -> list[str]:
        """The Range headers of all requests for a path so far."""
        return [asked for name, asked in self.requests if name == path]

    def close(self) -> None:
        """Stop serving."""
        self.stopped.set()
        self._timer.cancel()
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    owner: FaultyServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        split, asked = urlsplit(self.path), self.headers.get("Range", "")
        # ModelScope names a repository's file in the query.
        path = "/".join([unquote(split.path), *parse_qs(split.query).get("FilePath", [])])
        self.owner.requests.append((path, asked))
        coming = self.owner.faults[path]
        fault = (self.owner.always.get(path) or (coming.pop(0) if coming else "")).split()
        if "busy" in fault or (path not in self.owner.files and "web-page" not in fault):
            self.send_response(503 if "busy" in fault else 404)
            for name, value in self.owner.headers[path].items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data = b"<html>log in</html>" if "web-page" in fault else self.owner.files[path]
        tag = f'"{hashlib.sha1(data).hexdigest()}"'
        start = 0
        if asked and "ignore-range" not in fault and self.headers.get("If-Range", tag) == tag:
            start = int(asked.removeprefix("bytes=").split("-")[0])
        if "wrong" in fault:
            data = bytes(len(data))
        self.send_response(206 if start else 200)
        if "untagged" not in fault:
            self.send_header("ETag", tag)
        if start:
            first = start + 1 if "wrong-range" in fault else start
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        if "no-length" in fault:
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(len(data) - start))
        self.send_header("Content-Type", "text/html" if "web-page" in fault else "application/octet-stream")
        for name, value in self.owner.headers[path].items():
            self.send_header(name, value)
        self.end_headers()
        if not body:
            return
        part = data[start:]
        if "drop" in fault:
            part = part[: len(part) // 2]
        try:
            for start in range(0, len(part), 1 << 15):
                self.wfile.write(part[start : start + (1 << 15)])
                self.owner.stopped.wait(self.owner.pause)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        if {"drop", "no-length"} & set(fault):
            self.close_connection = True


def tar_gz(files: dict[str, bytes], *extra: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """A compressed tar of plain files, then members as they are given."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
        for header, content in extra:
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    return gzip.compress(buffer.getvalue(), compresslevel=1, mtime=0)
