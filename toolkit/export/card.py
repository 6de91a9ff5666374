"""The card of an export, `README.md`: where the data come from, what was done to them, and how they are loaded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from toolkit.dataset.provenance import AUDIT_COLUMNS, find_audit, record_of
from toolkit.errors import UserError
from toolkit.files import REPOSITORY, read_json, sha256_of

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
# Operators that look for what a reader of the data wants to know of.
FACES = ("image_face_blur_mapper", "image_face_count_filter", "image_face_ratio_filter")
UNSAFE = ("image_nsfw_filter",)
EXAMS = ("evaluation_overlap_filter",)
LOOKED_FOR = {"faces": FACES, "unsafe images": UNSAFE, "what evaluation sets hold": EXAMS}


@dataclass(frozen=True)
class Shared:
    """What `check --contamination` found.

    Args:
        sha256: of the rows that it compared.
        exam_images: of the evaluation sets, how many there were.
        images, captions: rows that show an image of theirs, or repeat their texts.
    """

    sha256: str
    exam_images: int
    images: int
    captions: int


def shared_rows(file: Path) -> Shared | None:
    """What an overlaps.parquet holds; None for another file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(file, columns=["image_in", "text_in"])
        about = json.loads(table.schema.metadata[b"overlaps"])
        images, captions = (sum(map(bool, table[name].to_pylist())) for name in ("image_in", "text_in"))
        return Shared(about["sha256"], about["exam_images"], images, captions)
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError):
        return None


@dataclass(frozen=True)
class About:
    """What the user says of the data, and what was counted.

    Args:
        name: of the data set.
        kind: of the export, a key of `formats.WRITERS`.
        licence, source: in the user's words; empty where nothing was said.
        rows, images: how many there are.
        ending: of the images in tar shards.
        shared: what the evaluation sets have of them, where that was looked for.
    """

    name: str
    kind: str
    licence: str
    source: str
    rows: int
    images: int
    ending: str
    shared: Shared | None


def card(file: Path, about: About) -> str:
    """The card's text, in Markdown with Hugging Face's head.

    Args:
        file: the exported rows; what made them is found by the record beside it.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    size = next((name for limit, name in SIZES if about.rows < limit), "n>1M")
    return environment.get_template("card.md.j2").render(
        about=about, size=size, file=file.name, sha256=sha256_of(file), **_history(file)
    )


def _history(file: Path) -> dict[str, Any]:
    """Recipe, funnel and shares of a file that a recipe wrote; `why_unknown` says what is not known, and why."""
    unknown = {"record": None, "recipe_text": "", "shares": {}, "checked": {}}
    try:
        audit = find_audit(file)
    except UserError as error:
        return unknown | {"why_unknown": str(error)}
    if audit is None:
        return unknown | {"why_unknown": "no record of a recipe lies beside the file"}
    record = read_json(record_of(file))
    ran = [step["name"].split(".")[0] for step in record["steps"]]
    recipe = record["inputs"]["recipe"]
    path = REPOSITORY / recipe["path"]
    is_unchanged = path.is_file() and sha256_of(path) == recipe["sha256"]
    return {
        "record": record | {"inputs": _published(record["inputs"])},
        "why_unknown": "",
        "recipe_text": path.read_text(encoding="utf-8").strip() if is_unchanged else "",
        "shares": _shares(audit),
        "checked": {what: [name for name in ran if name in operators] for what, operators in LOOKED_FOR.items()},
    }


def _published(value: Any) -> Any:
    """A record's inputs as others may read them: of an absolute path, which names folders of a machine, its end."""
    if isinstance(value, dict):
        return {_published(name): _published(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_published(inner) for inner in value]
    return Path(value).name if isinstance(value, str) and value.startswith("/") else value


def _shares(audit: Path) -> dict[str, int]:
    """Of the rows: how many there are, have another caption than their seed row, a made image, or are copies."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    kept = pq.read_table(audit, columns=AUDIT_COLUMNS, filters=[("state", "=", "kept")])
    masks = {
        "captions": pc.not_equal(kept["text_before"], kept["text_after"]),
        "images": pc.equal(kept["image_state"], "synthetic"),
        "created": pc.is_valid(kept["parent"]),
    }
    return {"rows": len(kept)} | {name: pc.sum(mask).as_py() or 0 for name, mask in masks.items()}
