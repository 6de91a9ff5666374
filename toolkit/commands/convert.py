"""`python -m toolkit convert`: whole data sets between LLaVA format and the rows that recipes work on."""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from pathlib import Path

from toolkit.dataset.directions import LlavaToRows, RowsToLlava, convert_entries
from toolkit.dataset.llava import load_originals
from toolkit.dataset.rows import IMAGE_TOKENS
from toolkit.errors import SkippedRow, UserError, shortened
from toolkit.files import atomic_write, package_versions, require_output, sha256_of, write_json
from toolkit.terminal import visible

SHOWN_FAULTS = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m toolkit convert`."""
    parser.add_argument("direction", choices=("llava-to-dj", "dj-to-llava"))
    parser.add_argument("file", type=Path, help="LLaVA-format .json or .jsonl; or rows, .jsonl; each also as .gz")
    parser.add_argument("--out", type=Path, required=True, help="file to write, with its record *.run.json beside it")
    parser.add_argument("--on-error", choices=("stop", "skip"), default="stop", help="policy for a faulty entry")
    llava = parser.add_argument_group("llava-to-dj")
    llava.add_argument(
        "--turns", choices=("one", "first"), default="one", help="several turns: refuse, or take the first"
    )
    llava.add_argument("--image-token", choices=IMAGE_TOKENS, default=IMAGE_TOKENS[0], help="token to write")
    dj = parser.add_argument_group("dj-to-llava")
    dj.add_argument("--questions", type=Path, help="LLaVA-format original: its questions come back by id")
    dj.add_argument("--images", type=Path, help="folder of images that have absolute paths (default: that of the file)")


def run(args: argparse.Namespace) -> None:
    """Convert a file entry by entry, write its record, and print the counts.

    Raises:
        UserError: the file cannot be read; a faulty entry under `stop`; nothing left under `skip`.
    """
    start = time.monotonic()
    require_output(args.out, args.file)
    skipped: list[SkippedRow] = []
    if args.direction == "llava-to-dj":
        direction = LlavaToRows(args.image_token, args.turns == "first")
    else:
        direction = RowsToLlava(load_originals(args.questions) if args.questions else {}, args.images)
    counts, (opening, between, closing) = direction.counts, direction.layout
    with atomic_write(args.out) as file:
        file.write(opening)
        for entry in convert_entries(direction, args.file, skipped):
            file.write(between * bool(counts["written"]) + json.dumps(entry, ensure_ascii=False))
            counts["written"] += 1
        if skipped and args.on_error == "stop":
            raise UserError(_faults(skipped, counts["written"] + len(skipped)))
        if not counts["written"]:
            raise UserError(f"{args.file}: nothing to write ({len(skipped):,} skipped)")
        file.write(closing)

    inputs = [args.file] + [args.questions] * bool(args.questions)
    reasons = dict(Counter(row.reason for row in skipped))
    record = {
        "command": f"convert {args.direction}",
        "inputs": {str(path): sha256_of(path) for path in inputs},
        "outputs": {str(args.out): sha256_of(args.out)},
        "configuration": {"turns": args.turns, "image_token": args.image_token, "on_error": args.on_error},
        "versions": package_versions(),
        "counts": {**counts, "skipped": reasons},
        "skipped": [vars(row) for row in skipped],
        "seconds": round(time.monotonic() - start, 1),
    }
    write_json(args.out.with_suffix(".run.json"), record)
    notes = [f"{name} {count:,}" for name, count in counts.items() if count and name != "written"]
    notes += [f"skipped for {reason} {count:,}" for reason, count in reasons.items()]
    print(f"{args.out}: {counts['written']:,} written" + "".join(f"\n  {note}" for note in notes))


def _faults(faults: list[SkippedRow], entries: int) -> str:
    """What is wrong with a file: its first faults, one a line, then how many there are for each reason."""
    lines = [
        f"{fault.file} (id {visible(shortened(fault.id))}): {fault.reason}: {fault.detail}"
        for fault in faults[:SHOWN_FAULTS]
    ]
    if len(faults) == 1:
        return f"{lines[0]}; fix it or pass --on-error skip"
    lines += [f"and {len(faults) - SHOWN_FAULTS:,} more"] * (len(faults) > SHOWN_FAULTS)
    reasons = Counter(fault.reason for fault in faults)
    counted = "".join(f"\n  {reason}: {count:,}" for reason, count in reasons.most_common())
    faulty = f"{len(faults):,} of {entries:,} entries are faulty; fix them or pass --on-error skip"
    return f"{faulty}{counted}\n  " + "\n  ".join(lines)
