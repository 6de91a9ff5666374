"""What a folder holds, so that two runs can be compared: times and the marks of a resume left out."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

import pyarrow.parquet as pq

from toolkit.files import sha256_of

# Keys of records and trainer states that tell runs apart although their results are equal.
VOLATILE = re.compile(
    r"seconds|cpu_seconds|gpu_hours|pictures_encoded|date|training_seconds|resumed_at_step|attempts|answered_in_this_run|source"
    r"|.*(_runtime|_per_second|/trainer_state\.json)"
)


def contents_of(folder: Path, unequal: tuple[str, ...] = ()) -> dict[str, object]:
    """Every file below a folder and its content; scores as one table, whatever files they lie in.

    Args:
        folder: empty folders count as files.
        unequal: parts of paths; such files count as present only.
    """
    found: dict[str, object] = {}
    scores: dict[str, dict] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                found[f"{name}/"] = "an empty folder"
        elif re.search(r"scores/.*part-[^/]*\.parquet$", name):
            table = scores.setdefault(str(Path(name).parent), {})
            for row in pq.read_table(path).to_pylist():
                key = str(row.pop("key"))
                assert table.setdefault(key, row) == row, f"{name}: two scores of {key}"
        elif not path.name.startswith("events.out.tfevents"):  # TensorBoard's, one for each start
            found[name] = "a file" if any(part in name for part in unequal) else content_of(path)
    return found | scores


def content_of(path: Path) -> object:
    """A file's content, as far as two equal runs agree in it."""
    if path.suffix == ".json":
        try:
            return steady(json.loads(path.read_text(encoding="utf-8")))
        except ValueError:
            return f"not JSON, {sha256_of(path)}"
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        metadata = {key: json.loads(value) for key, value in (table.schema.metadata or {}).items() if key == b"run"}
        return table.to_pylist(), steady(list(metadata.values()))
    if path.suffix == ".xlsx":  # its dates differ
        with zipfile.ZipFile(path) as book:
            return {name: book.read(name) for name in book.namelist() if not name.startswith("docProps/")}
    return sha256_of(path)


def steady(value: object) -> object:
    """A JSON value without what differs between two equal runs."""
    if isinstance(value, dict):
        return {key: steady(item) for key, item in value.items() if not VOLATILE.fullmatch(key)}
    if isinstance(value, list):
        return [steady(item) for item in value]
    return value
