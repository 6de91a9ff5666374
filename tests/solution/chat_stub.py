"""An OpenAI-compatible server on 127.0.0.1 that captions images, and misbehaves as a test tells it to."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image

MODEL = "tiny-vl"
HTML = b"<html><body><h1>502 Bad Gateway</h1></body></html>"
SAYS = {
    "refusal": ("I'm sorry, I can't help with that.", "stop"),
    "empty": ("  \n", "stop"),
    "overlong": ("a red dog and a blue cat and", "length"),
    "token": ("<image> a red dog", "stop"),
}


@dataclass(frozen=True)
class Seen:
    """A request: which image (by its pixels), its size, what else was sent, and how often this one came before."""

    image: str
    size: tuple[int, int]
    body: dict
    headers: dict[str, str]
    earlier: int


def caption_for(seen: Seen) -> str:
    """The caption of an image and seed; no two are equal."""
    number = int(hashlib.sha256(f"{seen.image} {seen.body['seed']}".encode()).hexdigest()[:8], 16)
    return f"a red dog number {number}"


def pixels_of(image: Image.Image) -> str:
    """A name for an image's content."""
    return hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()[:16]


class ChatStub:
    """The server; ``behave`` says for a request which misbehaviour it meets, or "ok"."""

    def __init__(self, behave: Callable[[Seen], str] = lambda seen: "ok", delay: float = 0.0) -> None:
        self.behave = behave
        self.delay = delay  # s
        self.seen: list[Seen] = []
        self.models: list[str] | None = [MODEL]
        self.ended = threading.Event()
        self._count: Counter[tuple[str, int]] = Counter()
        self._lock = threading.Lock()
        stub = self

        class Handler(_Handler):
            owner = stub

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> ChatStub:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()

    def note(self, body: dict, headers: dict[str, str]) -> Seen | None:
        """Read a request; None for one without an image."""
        content = body["messages"][0]["content"]
        if isinstance(content, str):
            return None
        address = next(part["image_url"]["url"] for part in content if part["type"] == "image_url")
        image = Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))
        name = pixels_of(image)
        with self._lock:
            seen = Seen(name, image.size, body, headers, self._count[name, body["seed"]])
            self._count[name, body["seed"]] += 1
            self.seen.append(seen)
        return seen


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512

    def handle_error(self, *_: object) -> None:
        """A client that was killed is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: ChatStub

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.owner.models is None:
            self._send(404, b'{"detail": "Not Found"}')
        else:
            self._send(200, json.dumps({"data": [{"id": name} for name in self.owner.models]}).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        seen = self.owner.note(body, dict(self.headers.items()))
        time.sleep(self.owner.delay)
        if seen is None:
            known = self.owner.models is not None and body["model"] in self.owner.models
            self._act("ok" if known else "404", "Hello.")
        else:
            self._act(self.owner.behave(seen), caption_for(seen))

    def _act(self, kind: str, caption: str) -> None:
        if kind == "hang":
            self.owner.ended.wait(30)
            kind = "drop"
        if kind == "drop":
            self.close_connection = True
            self.connection.close()
        elif kind == "html":
            self._send(200, HTML, kind="text/html")
        elif kind == "cut":
            self._send(200, self._answer(caption, "stop")[:-9])
        elif kind == "wrong type":
            self._send(200, self._answer(caption, "stop"), kind="text/plain")
        elif kind == "short":  # fewer bytes than promised
            content = self._answer(caption, "stop")
            self._send(200, content, length=len(content) + 5)
        elif kind == "huge":
            self._send(200, b" " * (2 << 20))
        elif kind == "too long":
            text = "This model's maximum context length is 64 tokens. However, you requested 99 tokens."
            self._send(400, json.dumps({"error": {"message": text, "code": 400}}).encode())
        elif kind.isdigit():
            text = f"The model does not exist. Your key: {self.headers.get('authorization')}"
            content = json.dumps({"error": {"message": text}}).replace("/", "\\/")
            self._send(int(kind), content.encode(), wait="0")
        else:
            self._send(200, self._answer(*SAYS.get(kind, (caption, "stop"))))

    def _answer(self, text: str, end: str) -> bytes:
        message = {"role": "assistant", "content": text}
        return json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": end}]}).encode()

    def _send(
        self, status: int, content: bytes, kind: str = "application/json", wait: str = "", length: int = -1
    ) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(length if length >= 0 else len(content)))
        if wait:
            self.send_header("retry-after", wait)
        self.end_headers()
        self.wfile.write(content)
        if length >= 0:
            self.close_connection = True
            self.wfile.flush()
            self.connection.close()
