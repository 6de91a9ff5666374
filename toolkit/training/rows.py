"""Rows of a stage's training file, as they are: what a sample is made of them is `data.py`'s."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toolkit.errors import UserError
from toolkit.files import read_json


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a LLaVA-format JSON file.

    Raises:
        UserError: missing, not JSON, no list of objects, or empty.
    """
    rows = read_json(path)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: expected a JSON list of LLaVA-format rows, as `python -m toolkit prepare` writes it")
    if not rows:
        raise UserError(f"{path}: no rows to train on")
    return rows
