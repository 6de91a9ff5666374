"""From `processed_data.jsonl` to the file that is trained on: the cap, the questions, LLaVA format."""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from toolkit.dataset.llava import Original, load_originals, to_llava
from toolkit.dataset.rows import ImageRoots, Line, id_of, parse_row, read_rows
from toolkit.errors import OnError, RowFault, SkippedRow, UserError
from toolkit.files import atomic_write, package_versions, sha256_of, write_json
from toolkit.presets import load_preset

T = TypeVar("T")


def prepare_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m toolkit prepare`."""
    parser.add_argument("file", type=Path, help="processed_data.jsonl")
    parser.add_argument("--images", type=Path, required=True, help="the seed's folder, where image paths start")
    parser.add_argument("--preset", default="full", help="full, 10k, mini or a YAML file (default: full)")
    parser.add_argument("--out", type=Path, required=True, help="LLaVA-format JSON to write")
    parser.add_argument("--on-error", choices=("stop", "skip"), default="stop", help="policy for a faulty row")


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
        roots: where its picture must lie.

    Raises:
        RowFault: those of `parse_row`, `ImageRoots.resolve` and `to_llava`; `missing_image`.
    """
    row = parse_row(line)
    if row.image and not (path := roots.resolve(row.image)).is_file():
        raise RowFault("missing_image", f"{path}: no such file")
    return to_llava(row, originals.get(str(row.id)))


def convert_rows(
    lines: list[tuple[int, Line]],
    originals: dict[str, Original],
    roots: ImageRoots,
    file: Path,
    on_error: OnError,
) -> tuple[list[dict[str, Any]], list[SkippedRow]]:
    """Samples of the sound lines, in order, and the lines skipped.

    Raises:
        UserError: a faulty row under `stop`; no row left under `skip`.
    """
    samples, skipped = [], []
    for number, line in lines:
        try:
            samples.append(convert_row(line, originals, roots))
        except RowFault as fault:
            if on_error == "stop":
                raise UserError(
                    f"{file}:{number} (id {id_of(line)}): {fault}; mend the row or pass --on-error skip; "
                    "`python -m toolkit check` lists every fault"
                ) from None
            skipped.append(SkippedRow(id_of(line), f"{file}:{number}", fault.reason, fault.detail))
    if not samples:
        raise UserError(f"{file}: no row is left to train on ({len(skipped)} skipped)")
    return samples, skipped


def prepare_command(args: argparse.Namespace) -> None:
    """Write the training file and, beside it, its record `*.run.json`."""
    start = time.monotonic()
    preset = load_preset(args.preset)
    lines = list(read_rows(args.file))
    drawn = draw_rows(lines, preset.sample_cap, preset.sample_seed)
    originals = load_originals(preset.questions)
    roots = ImageRoots(seed=args.images, processed=args.file.parent)
    samples, skipped = convert_rows(drawn, originals, roots, args.file, args.on_error)
    with atomic_write(args.out) as file:
        # One sample a line: as quick to read as one long line, and a person can look at it.
        file.write("[\n" + ",\n".join(json.dumps(sample, ensure_ascii=False) for sample in samples) + "\n]\n")

    restored = sum(str(sample["id"]) in originals for sample in samples)
    counts = {
        "rows": len(lines),
        "drawn": len(drawn),
        "written": len(samples),
        "questions_restored": restored,
        "questions_by_caption_rule": len(samples) - restored,
        "skipped": dict(Counter(row.reason for row in skipped)),
    }
    record = {
        "command": "prepare",
        "inputs": {str(path): sha256_of(path) for path in (args.file, preset.questions)},
        "outputs": {str(args.out): sha256_of(args.out)},
        "configuration": {
            "preset": preset.name,
            "sample_cap": preset.sample_cap,
            "sample_seed": preset.sample_seed,
            "images": str(args.images),
            "on_error": args.on_error,
        },
        "versions": package_versions(),
        "counts": counts,
        "skipped": [vars(row) for row in skipped],
        "seconds": round(time.monotonic() - start, 1),
    }
    write_json(args.out.with_suffix(".run.json"), record)
    draw = f", {len(drawn):,} drawn with seed {preset.sample_seed}" if len(drawn) < len(lines) else ""
    print(
        f"{args.out}: {len(samples):,} samples from {len(lines):,} rows{draw}, {len(skipped):,} skipped; "
        f"{restored:,} original questions, {len(samples) - restored:,} by the caption rule"
    )
