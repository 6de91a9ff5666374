"""Rows become the samples of a training file: the cap's draw, then one sample per row. Such files are read here too."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from toolkit.dataset.images import is_missing, require_missing, require_regular_file
from toolkit.dataset.llava import Original, to_llava
from toolkit.dataset.rows import ImageRoots, Line, id_of, parse_row
from toolkit.errors import OnError, RowFault, SkippedRow, UserError
from toolkit.files import read_json
from toolkit.terminal import visible

T = TypeVar("T")


def draw_rows(rows: Sequence[T], cap: int, seed: int) -> list[T]:
    """At most `cap` rows: all of them in order, or a random draw in the order it was drawn.

    Source: the challenge's check_sample_number tool (`random.seed(1024)`, then `random.sample`).
    """
    return list(rows) if len(rows) <= cap else random.Random(seed).sample(rows, cap)


def convert_row(line: Line, originals: dict[str, Original], roots: ImageRoots) -> dict[str, Any]:
    """The LLaVA-format sample of one line.

    Args:
        line: as read.
        originals: `stage_1.json` by id.
        roots: folders that its image must be in.

    Raises:
        RowFault: those of `parse_row`, `ImageRoots.resolve`, `require_regular_file` and `to_llava`.
    """
    row = parse_row(line)
    if row.image:
        require_regular_file(roots.resolve(row.image))
    return to_llava(row, originals.get(row.id))


def convert_rows(
    lines: list[tuple[int, Line]],
    originals: dict[str, Original],
    roots: ImageRoots,
    file: Path,
    on_error: OnError,
) -> tuple[list[dict[str, Any]], list[SkippedRow]]:
    """Samples of the valid lines, in order, and the lines skipped.

    Raises:
        UserError: a faulty row under `stop`; no row left under `skip`; those of `require_missing`.
    """
    samples, skipped, missing = [], [], []
    for number, line in lines:
        try:
            samples.append(convert_row(line, originals, roots))
        except RowFault as fault:
            if is_missing(fault):
                missing.append(roots.resolve(parse_row(line).image or ""))
                require_missing(missing[-1:], roots.seed)
            if on_error == "stop":
                raise UserError(
                    f"{file}:{number} (id {visible(id_of(line))}): {fault}; fix the row or pass --on-error skip; "
                    "`python -m toolkit check` lists every fault"
                ) from None
            skipped.append(SkippedRow(id_of(line), f"{file}:{number}", fault.reason, fault.detail))
    require_missing(missing, roots.seed)
    if not samples:
        raise UserError(f"{file}: no row is left to train on ({len(skipped)} skipped)")
    return samples, skipped


def read_samples(path: Path) -> list[dict[str, Any]]:
    """Rows of a training file: any LLaVA-format JSON.

    Raises:
        UserError: missing, not JSON, no list of objects, or empty.
    """
    rows = read_json(path)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: expected a JSON list of LLaVA-format rows, as `python -m toolkit prepare` writes it")
    if not rows:
        raise UserError(f"{path}: no rows to train on")
    return rows
