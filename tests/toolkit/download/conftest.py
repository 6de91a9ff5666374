"""A local server, and a small world of resources on it."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from tests.toolkit.download.server import FaultyServer, tar_gz
from toolkit.files import REPOSITORY

IMAGES = {f"images/{number % 10:03d}/{number:05d}.jpg": os.urandom(200 + number % 7) for number in range(600)}


def safetensors(size: int) -> bytes:
    """A file of that format with one tensor of `size` bytes."""
    header = json.dumps({"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(range(256)) * (size // 256) + bytes(size % 256)


def zip_of(files: dict[str, bytes]) -> bytes:
    """A zip archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    """A new server for each test."""
    server = FaultyServer()
    yield server
    server.close()


@dataclass
class World:
    """A root to download into, a manifest, and the server that it names.

    The resources: `seed` (archive with 600 images, rows, questions), `tower` (archive), and `textvqa` and `mmbench`
    out of one archive.
    """

    root: Path
    server: FaultyServer
    entries: dict[str, dict] = field(default_factory=dict)

    def command(self, *words: str) -> list[str]:
        """A download's words; the manifest is written again."""
        manifest = self.root.parent / f"{self.root.name}.yaml"
        manifest.write_text(yaml.safe_dump({"organisers": self.server.url, "resources": self.entries}))
        options = ["--root", str(self.root), "--manifest", str(manifest), "--attempts", "3"]
        return [sys.executable, "-m", "toolkit", "download", *options, *words]

    def run(self, *words: str, **environment: str) -> subprocess.CompletedProcess:
        """Download as a user would."""
        return subprocess.run(
            self.command(*words),
            cwd=REPOSITORY,
            env=environment_of(**environment),
            capture_output=True,
            text=True,
            timeout=60,
        )

    def at(self, root: Path) -> World:
        """The same resources for another root."""
        return World(root, self.server, self.entries)

    def files(self) -> dict[str, bytes]:
        """All files below the root by relative path; of records, what no interruption may change."""
        found = {}
        for path in sorted(self.root.rglob("*")):
            name = path.relative_to(self.root).as_posix()
            if path.is_file() and path.name != ".lock":
                found[name] = path.read_bytes()
                if "/records/" in name:
                    record = json.loads(found[name])
                    found[name] = json.dumps(
                        {key: record[key] for key in record if key not in ("seconds", "source")}
                    ).encode()
        return found


def environment_of(**changes: str) -> dict[str, str]:
    """The process's own environment without proxies, so that 127.0.0.1 is reached directly, and some changes."""
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return {**kept, "OMP_NUM_THREADS": "1", **changes}


@pytest.fixture
def world(tmp_path: Path, server: FaultyServer) -> World:
    """Everything is served complete and fast unless a test changes it."""
    rows = [{"id": name, "images": [name], "text": f"<__dj__image>\n{name} <|__dj__eoc|>"} for name in IMAGES]
    questions = [{"id": name, "image": name, "conversations": []} for name in IMAGES]
    server.files |= {
        "/seed.tar.gz": tar_gz({f"seed/{name}": content for name, content in IMAGES.items()}),
        "/seed.jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode(),
        "/questions.json": json.dumps(questions).encode(),
        "/tower.tar.gz": tar_gz({"tower/config.json": b"{}", "tower/model.safetensors": safetensors(300_000)}),
        "/eval.tar.gz": tar_gz({"eval/textvqa/q.jsonl": b'{"image": "1.jpg"}\n', "eval/textvqa/images/1.jpg": b"1",
                                "eval/mmbench/m.tsv": b"a\tb\n"}),
    }  # fmt: skip
    common = {"about": "a test", "kits": ["full"], "fetch_gb": 0.001, "unpacked_gb": 0.001}

    def archive(name: str, folder: str) -> dict:
        return {"url": f"{name}.tar.gz", "unpack": folder}

    entries = {
        "seed": {
            "destination": "input/seed",
            "sources": [
                {"home": "organisers",
                 "files": [archive("seed", "seed"), {"url": "seed.jsonl"}, {"url": "questions.json"}]}
            ],
            "expect": [{"path": ["images"], "files": 600}, {"path": ["seed.jsonl"], "lines": 600},
                       {"path": ["questions.json"]}],
            "images": [{"rows": "seed.jsonl"}],
        },
        "tower": {
            "destination": "models/tower",
            "sources": [{"home": "organisers", "files": [archive("tower", "tower")]}],
            "expect": [{"path": ["config.json"]}, {"path": ["*.safetensors", "*.bin"]}],
        },
        "textvqa": {
            "destination": "eval/textvqa",
            "old_destination": "old/textvqa",
            "sources": [{"home": "organisers", "files": [archive("eval", "eval/textvqa")]}],
            "expect": [{"path": ["q.jsonl"], "lines": 1}],
            "images": [{"rows": "q.jsonl", "folder": "images"}],
        },
        "mmbench": {
            "destination": "eval/mmbench",
            "sources": [{"home": "organisers", "files": [archive("eval", "eval/mmbench")]}],
            "expect": [{"path": ["m.tsv"]}],
        },
    }  # fmt: skip
    return World(tmp_path / "root", server, {name: common | entry for name, entry in entries.items()})
