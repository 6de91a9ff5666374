"""`python -m toolkit prepare`: `processed_data.jsonl` to the training file: cap, questions, LLaVA format."""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from pathlib import Path

from toolkit.dataset.llava import load_originals
from toolkit.dataset.rows import ImageRoots, read_rows
from toolkit.dataset.training_file import convert_rows, draw_rows
from toolkit.files import atomic_write, package_versions, sha256_of, write_json
from toolkit.presets import load_preset
from toolkit.processes import owner_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m toolkit prepare`."""
    parser.add_argument("file", type=Path, help="processed_data.jsonl")
    parser.add_argument("--images", type=Path, required=True, help="the seed's folder, where image paths start")
    parser.add_argument("--preset", default="full", help="full, 10k, mini or a YAML file (default: full)")
    parser.add_argument("--out", type=Path, required=True, help="LLaVA-format JSON to write")
    parser.add_argument("--on-error", choices=("stop", "skip"), default="stop", help="policy for a faulty row")


def run(args: argparse.Namespace) -> None:
    """Write the training file and, beside it, its record `*.run.json`.

    Raises:
        UserError: the rows or the original questions cannot be read; a faulty row under `stop`; no row left.
    """
    with owner_of(args.out.parent):
        _prepare(args)


def _prepare(args: argparse.Namespace) -> None:
    start = time.monotonic()
    preset = load_preset(args.preset)
    lines = list(read_rows(args.file))
    drawn = draw_rows(lines, preset.sample_cap, preset.sample_seed)
    originals = load_originals(preset.questions)
    roots = ImageRoots(seed=args.images, processed=args.file.parent)
    samples, skipped = convert_rows(drawn, originals, roots, args.file, args.on_error)
    with atomic_write(args.out) as file:
        # One sample per line: as quick to parse as one long line, and readable by people.
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
