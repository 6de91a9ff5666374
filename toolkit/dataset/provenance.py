"""Where the rows of a `processed_data.jsonl` come from, by the seed's files and by the recipe's audit."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from toolkit.dataset.llava import Original
from toolkit.dataset.rows import Row, caption_of, is_synthetic
from toolkit.errors import RowFault, UserError
from toolkit.files import read_json, sha256_of

# Origin of a row -> what the report calls it; every valid row has one.
ORIGINS = {
    "seed": "as in the seed",
    "changed_caption": "with another caption than the seed's",
    "synthetic_image": "with a synthetic image",
    "other_image": "with another image than the seed's",
    "new_id": "whose id the seed does not have",
}
RESULT, RECORD = "processed_data.jsonl", "run.json"
AUDIT_COLUMNS = ["id", "image", "state", "text_before", "text_after", "parent", "image_state"]

# Equal rows are equal in these: id, image, caption.
Fingerprint = int


def fingerprint(identifier: str | int, image: str | None, caption: str) -> Fingerprint:
    """One number for a row's content; within one process equal for equal rows."""
    return hash((str(identifier), image or None, caption))


def origin_of(row: Row, original: Original | None) -> str:
    """Key of ORIGINS.

    Args:
        row: a valid row.
        original: the seed's sample of the same id.
    """
    if row.image and is_synthetic(row.image):
        return "synthetic_image"
    if original is None:
        return "new_id"
    if row.image != original.image:
        return "other_image"
    return "seed" if row.caption == original.caption else "changed_caption"


def record_of(file: Path) -> Path:
    """The record that a recipe's run leaves of its result: `run.json`, of a file with another name `NAME.run.json`.

    `solution/runner/record.py` names it so; `tests/contract/` holds the two together.
    """
    return file.with_name(RECORD if file.name == RESULT else f"{file.stem}.{RECORD}")


def find_audit(file: Path) -> Path | None:
    """The audit of the recipe run whose result a file is; None where there is no record of one.

    Raises:
        UserError: the record is of another file, which has been replaced or edited since.
    """
    record_file = record_of(file)
    if not record_file.is_file():
        return None
    record = read_json(record_file)
    try:
        recipe, written = Path(record["inputs"]["recipe"]["path"]), record["outputs"][file.name]
        is_trial = "trial" in record.get("configuration", {})
        # It lies elsewhere under a recipe's own work_dir; records of before do not say so.
        name = f"{recipe.stem}.trial" if is_trial else recipe.stem
        audit = Path(os.path.normpath(file.parent / record.get("audit", f"../audit/{name}.parquet")))
    except (KeyError, TypeError):
        return None
    if written != sha256_of(file):
        raise UserError(f"{file.name} was changed after {recipe.name} wrote it")
    if not audit.is_file():
        raise UserError(f"{audit} is missing")
    return audit


def compare_with_audit(rows: Iterable[Fingerprint], audit: Path) -> dict[str, int]:
    """Match rows with the audit's kept ones, each with at most one.

    Args:
        rows: of the file.
        audit: the recipe's Parquet file.

    Returns:
        `found` and `unknown` rows of the file; of the found ones how many were `rewritten`, `created` (copies and
        further captions) and `synthetic`; `left_out`, kept rows that the file does not have.

    Raises:
        UserError: not an audit.
    """
    # Imported here: they take a second, and most files that are checked have no audit.
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(audit, columns=AUDIT_COLUMNS, filters=[("state", "=", "kept")])
    except (pyarrow.ArrowException, OSError, KeyError) as error:
        raise UserError(f"{audit}: not a recipe's audit ({str(error).splitlines()[0]})") from None
    waiting = Counter(rows)
    counts = Counter(dict.fromkeys(("found", "unknown", "rewritten", "created", "synthetic", "left_out"), 0))
    for line in table.to_pylist():
        caption = _caption(line["text_after"])
        row = fingerprint(line["id"], line["image"], caption)
        if not waiting[row]:
            counts["left_out"] += 1
            continue
        waiting[row] -= 1
        counts["found"] += 1
        counts["rewritten"] += caption != _caption(line["text_before"])
        counts["created"] += line["parent"] is not None
        counts["synthetic"] += line["image_state"] == "synthetic"
    counts["unknown"] = waiting.total()
    return dict(counts)


def _caption(text: str) -> str:
    """A text's caption; of a text that breaks the rules for one, as the seed's may, the text."""
    try:
        return caption_of(text)
    except RowFault:
        return text
