"""`python -m toolkit convert`: whole data sets between LLaVA format and the rows that recipes work on."""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from toolkit.dataset.arrays import read_array
from toolkit.dataset.llava import load_originals, to_llava, to_row
from toolkit.dataset.rows import IMAGE_TOKENS, Line, id_of, parse_row, read_rows
from toolkit.errors import RowFault, SkippedRow, UserError
from toolkit.files import atomic_write, package_versions, sha256_of, write_json

# One entry as read -> the other format's entry; faults are RowFaults.
Rule = Callable[[Line], dict[str, Any]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m toolkit convert`."""
    parser.add_argument("direction", choices=("llava-to-dj", "dj-to-llava"))
    parser.add_argument("file", type=Path, help="LLaVA-format .json or .jsonl; or rows, .jsonl")
    parser.add_argument("--out", type=Path, required=True, help="file to write, with its record *.run.json beside it")
    parser.add_argument("--on-error", choices=("stop", "skip"), default="stop", help="policy for a faulty entry")
    llava = parser.add_argument_group("llava-to-dj")
    llava.add_argument(
        "--turns", choices=("one", "first"), default="one", help="several turns: refuse, or take the first"
    )
    llava.add_argument("--image-token", choices=IMAGE_TOKENS, default=IMAGE_TOKENS[0], help="token to write")
    dj = parser.add_argument_group("dj-to-llava")
    dj.add_argument("--questions", type=Path, help="LLaVA-format original: its questions come back by id")


def run(args: argparse.Namespace) -> None:
    """Convert a file entry by entry and record what became of it.

    Raises:
        UserError: the file cannot be read; a faulty entry under `stop`; nothing left under `skip`.
    """
    start = time.monotonic()
    to_dj = args.direction == "llava-to-dj"
    counts: Counter[str] = Counter()
    skipped: list[SkippedRow] = []
    rule = _row_rule(args, counts) if to_dj else _sample_rule(args.questions, counts)
    opening, between, closing = ("", "\n", "\n") if to_dj else ("[\n", ",\n", "\n]\n")
    with atomic_write(args.out) as file:
        file.write(opening)
        for entry in _converted(args, rule, skipped):
            file.write(between * bool(counts["written"]) + json.dumps(entry, ensure_ascii=False))
            counts["written"] += 1
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
    print(f"{args.out}: {counts['written']:,} written" + "".join(f"; {note}" for note in notes))


def _converted(args: argparse.Namespace, rule: Rule, skipped: list[SkippedRow]) -> Iterator[dict[str, Any]]:
    """The file's entries through the rule, faulty ones after the policy."""
    lines = args.direction == "dj-to-llava" or args.file.suffix == ".jsonl"
    for number, entry in (read_rows if lines else read_array)(args.file):
        try:
            yield rule(entry)
        except RowFault as fault:
            where = f"{args.file}:{number}" if lines else f"{args.file}: entry {number}"
            if args.on_error == "stop":
                raise UserError(f"{where} (id {id_of(entry)}): {fault}; mend it or pass --on-error skip") from None
            skipped.append(SkippedRow(id_of(entry), where, fault.reason, fault.detail))


def _row_rule(args: argparse.Namespace, counts: Counter[str]) -> Rule:
    # Questions come back by id, so an id may not stand for two. Hashes: some 10^5 ids and questions are long texts.
    known: dict[int, int] = {}

    def rule(sample: Line) -> dict[str, Any]:
        row = to_row(sample, args.image_token, args.turns == "first")
        turns = sample["conversations"]
        asked = hash((turns[0]["value"], *row["images"]))
        if known.setdefault(hash(str(row["id"])), asked) != asked:
            raise RowFault("repeated_id", f"id {row['id']!r} came before with another picture or question")
        counts["text only"] += not row["images"]
        counts["later turns dropped"] += len(turns) // 2 - 1
        counts["answers stripped of blanks"] += turns[1]["value"] != turns[1]["value"].strip()
        counts.update(f"field {name!r} dropped" for name in sample.keys() - {"id", "image", "conversations"})
        return row

    return rule


def _sample_rule(questions: Path | None, counts: Counter[str]) -> Rule:
    originals = load_originals(questions) if questions else {}

    def rule(line: Line) -> dict[str, Any]:
        row = parse_row(line)
        original = originals.get(str(row.id))
        sample = to_llava(row, original)
        counts["questions restored" if original else "questions by the caption rule"] += 1
        counts.update(f"field {name!r} dropped" for name in line.keys() - {"id", "images", "text"})
        return sample

    return rule
