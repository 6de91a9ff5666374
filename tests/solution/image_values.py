"""Files as `python -m toolkit judge` and `check --contamination` write them, by hand."""

import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from solution.runner.files import sha256_of


def digest(content: bytes) -> bytes:
    """16 bytes that name a content, as the judge writes them."""
    return hashlib.blake2b(content, digest_size=16).digest()


def write_values(file: Path, seed: Path, values: list[float | None], faults: list[str] | None = None, **about) -> Path:
    """A judge's file for the rows of a seed, in their order."""
    lines = [json.loads(line) for line in seed.read_text().splitlines()][: len(values)]
    captions = [line["text"].removeprefix("<__dj__image>\n").removesuffix(" <|__dj__eoc|>") for line in lines]
    columns = {
        "row": list(range(1, len(lines) + 1)),
        "id": [line["id"] for line in lines],
        "caption": pa.array([digest(caption.encode()) for caption in captions], pa.binary(16)),
        "image": pa.array([digest((seed.parent / line["images"][0]).read_bytes()) for line in lines], pa.binary(16)),
        "value": pa.array(values, pa.float64()),
        "fault": faults or [""] * len(lines),
    }
    told = {
        "version": 1, "preset": "mini", "seed": {"path": str(seed), "id": sha256_of(seed)},
        "model": {"path": "judge", "id": "0"},
    } | about  # fmt: skip
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns).replace_schema_metadata({"judge": json.dumps(told)}), file)
    return file


def write_overlaps(file: Path, seed: Path, found: set[str]) -> Path:
    """What a search for the evaluation sets found: the images of the rows with these ids."""
    lines = [json.loads(line) for line in seed.read_text().splitlines()]
    captions = [line["text"].removeprefix("<__dj__image>\n").removesuffix(" <|__dj__eoc|>") for line in lines]
    columns = {
        "image": pa.array([digest((seed.parent / line["images"][0]).read_bytes()) for line in lines], pa.binary(16)),
        "image_in": ["TextVQA 1" if line["id"] in found else "" for line in lines],
        "caption": pa.array([digest(caption.encode()) for caption in captions], pa.binary(16)),
        "text_in": [""] * len(lines),
    }
    pq.write_table(pa.table(columns).replace_schema_metadata({"overlaps": json.dumps({"version": 1})}), file)
    return file
