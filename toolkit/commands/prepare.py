"""`python -m toolkit prepare`: `processed_data.jsonl` to the training file: cap, questions, LLaVA format."""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections import Counter
from pathlib import Path

from toolkit.dataset.kept_rows import IMAGES_SUFFIX, RECORD_SUFFIX, ROWS_SUFFIX, image_hashes
from toolkit.dataset.llava import load_originals
from toolkit.dataset.rows import ImageRoots, read_rows
from toolkit.dataset.training_file import convert_rows, draw_rows
from toolkit.errors import UserError
from toolkit.files import (
    atomic_write,
    copy_file,
    display_path,
    package_versions,
    read_json,
    require_output,
    sha256_of,
    write_json,
)
from toolkit.presets import load_preset
from toolkit.processes import owner_of
from toolkit.training.plan import ANOTHER_RUN, has_begun, stage_inputs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m toolkit prepare`."""
    parser.add_argument("file", type=Path, help="processed_data.jsonl")
    parser.add_argument("--images", type=Path, required=True, help="the seed's folder, where image paths start")
    parser.add_argument("--preset", default="full", help="full, 10k, mini or a YAML file (default: full)")
    parser.add_argument("--out", type=Path, required=True, help="LLaVA-format JSON to write")
    parser.add_argument("--on-error", choices=("stop", "skip"), default="stop", help="policy for a faulty row")


def run(args: argparse.Namespace) -> None:
    """Write the training file and, beside it, its record `*.run.json` and what `kept_rows` describes.

    Raises:
        UserError: the rows or the original questions cannot be read; a faulty row under `stop`; no row left; a stage
            was started in the same folder with other rows.
    """
    require_output(args.out, args.file)
    with owner_of(args.out.parent):
        _prepare(args)


def _prepare(args: argparse.Namespace) -> None:
    start = time.monotonic()
    preset = load_preset(args.preset)
    roots = ImageRoots(seed=args.images, processed=args.file.parent)
    lines = list(read_rows(args.file, roots))
    drawn = draw_rows(lines, preset.sample_cap, preset.sample_seed)
    originals = load_originals(preset.questions)
    samples, skipped = convert_rows(drawn, originals, roots, args.file, args.on_error)
    # One sample per line: as quick to parse as one long line, and readable by people.
    content = "[\n" + ",\n".join(json.dumps(sample, ensure_ascii=False) for sample in samples) + "\n]\n"
    inputs = {display_path(path): sha256_of(path) for path in (args.file, preset.questions)}
    if has_begun(args.out.parent):
        _require_same(args, content, inputs)
        if _is_whole(args.out):
            print(f"{args.out}: {len(samples):,} samples, as this run was started with")
            return
    images = image_hashes((line for _, line in lines), args.file.parent)
    for path, text in ((args.out, content), (args.out.with_suffix(IMAGES_SUFFIX), images)):
        with atomic_write(path) as file:
            file.write(text)
    copy_file(args.file, args.out.with_suffix(ROWS_SUFFIX))

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
        "inputs": inputs,
        "outputs": {display_path(path): sha256_of(path) for path in _outputs(args.out)},
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
    write_json(args.out.with_suffix(RECORD_SUFFIX), record)
    draw = f", {len(drawn):,} drawn with seed {preset.sample_seed}" if len(drawn) < len(lines) else ""
    print(
        f"{args.out}: {len(samples):,} samples from {len(lines):,} rows{draw}, {len(skipped):,} skipped; "
        f"{restored:,} original questions, {len(samples) - restored:,} by the caption rule"
    )


def _outputs(out: Path) -> list[Path]:
    return [out, out.with_suffix(ROWS_SUFFIX), out.with_suffix(IMAGES_SUFFIX)]


def _is_whole(out: Path) -> bool:
    """Whether the record and everything it lists are there, unchanged."""
    record = out.with_suffix(RECORD_SUFFIX)
    outputs = {display_path(path): sha256_of(path) for path in _outputs(out) if path.is_file()}
    return record.is_file() and read_json(record).get("outputs") == outputs


def _require_same(args: argparse.Namespace, content: str, inputs: dict[str, str]) -> None:
    """Refuse rows other than those the stage in this folder was started with."""
    record = args.out.with_suffix(RECORD_SUFFIX)
    earlier = read_json(record).get("inputs", {}) if record.is_file() else inputs
    started_with = stage_inputs(args.out.parent).get(display_path(args.out))
    if started_with != hashlib.sha256(content.encode()).hexdigest() or sorted(earlier.values()) != sorted(
        inputs.values()
    ):
        raise UserError(
            f"{args.file}: not the rows that the run in {args.out.parent} was started with "
            f"(those are in {args.out.with_suffix(ROWS_SUFFIX).name} there); {ANOTHER_RUN}"
        )
