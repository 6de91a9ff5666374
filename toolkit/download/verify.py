"""Verification of a resource: the files themselves against the expectations in `resources.yaml`."""

from __future__ import annotations

import json
import os
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from toolkit.dataset.arrays import read_array
from toolkit.download.manifest import Expectation, NamedImages, Resource
from toolkit.errors import UserError
from toolkit.files import read_json, read_jsonl, sha256_of

# Start of torch.save's files before they were zip archives: a pickled magic number.
LEGACY_TORCH = b"\x80\x02\x8a\x0a"


def faults_of(resource: Resource, folder: Path) -> list[str]:
    """Faults of a folder that should hold the resource; empty if there are none."""
    if not folder.is_dir():
        return [f"{folder} is not there"]
    return [fault for expectation in resource.expect for fault in _faults(expectation, folder)]


def warnings_of(resource: Resource, folder: Path) -> list[str]:
    """Warnings on a resource without faults: images that its rows name and that are missing."""
    return [warning for images in resource.images for warning in _missing_images(images, folder)]


def expected_files(resource: Resource, folder: Path) -> list[Path]:
    """The existing files that the manifest names directly or by pattern, sorted."""
    found = {path for expectation in resource.expect for path in _matches(expectation, folder) if path.is_file()}
    return sorted(found)


def files_below(folder: Path) -> Iterator[tuple[str, int]]:
    """(path relative to the folder, bytes) of every file below it, sorted folder by folder."""
    for root, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(root, name)
            yield os.path.relpath(path, folder), os.stat(path).st_size


def _matches(expectation: Expectation, folder: Path) -> list[Path]:
    return [path for pattern in expectation.path for path in ([folder] if pattern == "." else folder.glob(pattern))]


def _faults(expectation: Expectation, folder: Path) -> Iterator[str]:
    wanted = " or ".join(expectation.path)
    paths = _matches(expectation, folder)
    found = sum(sum(1 for _ in files_below(path)) if path.is_dir() else 1 for path in paths)
    if found < expectation.files:
        yield f"{wanted}: {found:,} files, expected at least {expectation.files:,}"
        return
    for path in paths:
        if path.is_file():
            yield from _file_faults(expectation, path)


def _file_faults(expectation: Expectation, path: Path) -> Iterator[str]:
    size = path.stat().st_size
    if expectation.size and size != expectation.size:
        yield f"{path.name}: {size:,} bytes, expected {expectation.size:,}"
    elif expectation.sha256 and (digest := sha256_of(path)) != expectation.sha256:
        yield f"{path.name}: sha256 {digest}, expected {expectation.sha256}"
    elif fault := _format_fault(path, size):
        yield f"{path.name}: {fault}"
    elif expectation.lines and (lines := _count_lines(path)) != expectation.lines:
        yield f"{path.name}: {lines:,} lines, expected {expectation.lines:,}"


def _format_fault(path: Path, size: int) -> str:
    """Why a file's format shows that it is incomplete; empty if it does not."""
    if not size:
        return "empty"
    try:
        if path.suffix == ".safetensors":
            return _safetensors_fault(path, size)
        if path.suffix == ".bin":
            return _torch_fault(path)
        if path.suffix == ".jsonl":
            for _ in read_jsonl(path):
                pass
        elif path.suffix == ".json":
            for _ in _entries(path):
                pass
    except UserError as error:
        return str(error).removeprefix(f"{path}: ").removeprefix(f"{path}:")
    return ""


def _safetensors_fault(path: Path, size: int) -> str:
    """Source: the safetensors format: 8 bytes of header length, the header in JSON, the tensors' bytes."""
    with path.open("rb") as file:
        try:
            (length,) = struct.unpack("<Q", file.read(8))
            if length >= size:
                raise ValueError("the header is longer than the file")
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (struct.error, ValueError, AttributeError, KeyError, TypeError):
            return "not a safetensors file"
    whole = 8 + length + max(ends, default=0)
    return "" if size == whole else f"truncated or damaged: {size:,} bytes, {whole:,} by its header"


def _torch_fault(path: Path) -> str:
    with path.open("rb") as file:
        legacy = file.read(4) == LEGACY_TORCH
    # A zip's directory is at its end: without it the file is truncated. The legacy format has no such mark.
    return "" if legacy or zipfile.is_zipfile(path) else "not a torch file, or truncated"


def _entries(path: Path) -> Iterator[Any]:
    """Rows of a .jsonl file or of a JSON array; one entry for any other JSON document."""
    if path.suffix == ".jsonl":
        yield from (row for _, row in read_jsonl(path))
        return
    with path.open("rb") as file:
        array = file.read(64).lstrip()[:1] == b"["
    # Tokenizers and similar files may hold arrays of values other than objects, but are small.
    if array and path.stat().st_size > 1 << 20:
        yield from (entry for _, entry in read_array(path))
    else:
        document = read_json(path)
        yield from document if isinstance(document, list) else [document]


def _count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(bool(line.strip()) for line in file)


def _missing_images(images: NamedImages, folder: Path) -> Iterator[str]:
    named, missing, first = 0, 0, ""
    for row in _entries(folder / images.rows):
        names = row.get("images", row.get("image", []))
        for name in [names] if isinstance(names, str) else names:
            named += 1
            if not (folder / images.folder / name).is_file():
                missing += 1
                first = first or name
    if missing:
        yield f"{missing:,} of the {named:,} images that {images.rows} names are missing, the first is {first}"
