"""`python -m toolkit check`: check every row and image of a `processed_data.jsonl` before training."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.dataset.fixes import FIXES, NOTE_FIXES, OVERLAP_FIXES
from toolkit.dataset.images import NOTES
from toolkit.dataset.provenance import ORIGINS, find_audit, record_of
from toolkit.dataset.rows import IMAGE_TOKENS, ImageRoots, parse_row, read_rows
from toolkit.dataset.validation import Finding, Report, TrainabilityTest, validate
from toolkit.errors import RowFault, UserError, shortened
from toolkit.files import (
    REPOSITORY,
    package_versions,
    read_json,
    require_file,
    require_output,
    sha256_of,
    write_json,
    write_jsonl,
)
from toolkit.presets import Preset, load_preset
from toolkit.terminal import visible
from toolkit.training.inputs import signature_of
from toolkit.training.trainability import trainability_test

if TYPE_CHECKING:
    from toolkit.contamination.search import Search

SHOWN_FAULTS = 20
PAGE = "overlaps.html"  # that toolkit/contamination writes
# Times the side of the mini world's images: seed_1k's smallest are 1.75 times as large.
LARGER = 1.5
# What decides a report besides the data.
CODE = ("commands/check.py", "dataset/*.py", "mgm/conversation.py", "training/trainability.py")
REPORTS_KEPT = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m toolkit check`."""
    parser.add_argument("file", type=Path, help="processed_data.jsonl")
    parser.add_argument("--images", type=Path, required=True, help="the seed's folder, where image paths start")
    parser.add_argument("--preset", default="full", help="full, 10k, mini or a YAML file (default: full)")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer folder (default: the preset's language model)")
    parser.add_argument("--on-error", choices=("stop", "skip"), default="stop", help="skip: faulty rows are no failure")
    parser.add_argument("--json", type=Path, help="also write the report, with every fault, as JSON")
    parser.add_argument(
        "--fixes", type=Path, help="also write a JSONL of every faulty line and odd image, and what to do about it"
    )
    parser.add_argument(
        "--contamination",
        type=Path,
        metavar="DIR",
        help="also look for images and captions of the evaluation sets; overlaps.parquet and .html go there",
    )
    parser.add_argument(
        "--clip",
        type=Path,
        metavar="FOLDER",
        help="with --contamination: a CLIP; the page also shows the pairs that are nearest by its embeddings",
    )
    parser.add_argument(
        "--once",
        action="store_true",
        help="repeat the report of a file in order while nothing has changed since",
    )
    parser.add_argument("--audit", type=Path, help="the recipe's audit (default: found by the record beside FILE)")


def run(args: argparse.Namespace) -> None:
    """Check a file, print the report.

    Raises:
        UserError: no such file or folder; faulty rows under the policy `stop`; no valid row.
    """
    start = time.monotonic()
    preset = load_preset(args.preset)
    require_file(args.file, "run a recipe first (python solution/process.py)")
    for path in filter(None, (args.json, args.fixes)):
        require_output(path, args.file)
    if args.json and args.fixes and args.json.resolve() == args.fixes.resolve():
        raise UserError(f"--json and --fixes: both name {args.fixes}; each needs a file of its own")
    if args.contamination and (args.contamination.is_file() or args.contamination == Path()):
        raise UserError(f"--contamination {args.contamination}: expected a folder of its own, made if it is missing")
    if args.clip and not args.contamination:
        raise UserError("--clip: belongs to --contamination DIR; add it, or leave --clip out")
    if args.clip and not args.clip.is_dir():
        raise UserError(f"--clip {args.clip}: no such folder; expected a CLIP's")
    if not args.images.is_dir():
        raise UserError(f"--images {args.images}: no such folder; expected the seed's folder")
    known = REPOSITORY / "output" / f".checked-{preset.name}.json"
    signature = _signature(args, preset) if args.once and not (args.json or args.fixes or args.contamination) else None
    if signature and (lines := _reports(known).get(signature)):
        print(f"{args.file}: unchanged since it was checked", *lines, sep="\n")
        return
    require_trainable, not_checked = _trainability_test(preset, args.tokenizer or preset.llm)
    report = validate(args.file, args.images, preset, require_trainable, args.audit)
    report.remarks = not_checked + report.remarks
    seconds = round(time.monotonic() - start, 1)
    print(f"{args.file}: {report.rows:,} rows checked in {seconds} s")
    lines = _lines(report, preset)
    print("\n".join(lines))
    shared = _look_for_exams(args, preset) if args.contamination else None
    if args.json:
        lines = shared and shared.found.shared_lines()
        write_json(args.json, _record(report, args, preset, seconds) | {"contamination": lines})
    if args.fixes:
        write_jsonl(args.fixes, _fixes(report, shared.findings if shared else []))
    for path in filter(None, (args.json, args.fixes)):
        print(f"written: {visible(str(path))}")
    if not report.valid_rows:
        raise UserError(f"{args.file}: no row can be trained")
    if report.faults and args.on_error == "stop":
        raise UserError(
            f"{args.file}: {len(report.faults):,} of {report.rows:,} rows are faulty, see above; "
            f"fix or drop them ({args.fixes or '--fixes FILE'} lists how), or pass --on-error skip"
        )
    if shared and shared.found.unreadable and not report.faults:
        raise UserError(
            f"{shared.found.unreadable[0]}: could be read when the rows were checked and not when they were compared; "
            "run the same command again"
        )
    if shared and shared.findings and args.on_error == "stop":
        raise UserError(
            f"{args.file}: rows share images or captions with the evaluation sets, see {args.contamination / PAGE}; "
            "drop them (evaluation_overlap_filter in a recipe), or pass --on-error skip"
        )
    if signature and not report.faults and not report.remarks:
        write_json(known, dict([*_reports(known).items(), (signature, lines)][-REPORTS_KEPT:]))


def _look_for_exams(args: argparse.Namespace, preset: Preset) -> Search:
    """Write, print and return what rows share with the evaluation sets."""
    from toolkit.contamination.search import MINI_WORLD, search  # OpenCV takes a moment

    shared = search(
        args.file, ImageRoots(seed=args.images, processed=args.file.parent), preset, args.contamination, args.clip
    )
    print(*shared.lines, f"  contamination  {args.contamination / PAGE} shows them", sep="\n")
    if shared.found.pairs and not preset.needs_gpu:
        print(f"  contamination  {MINI_WORLD}")
    return shared


def _signature(args: argparse.Namespace, preset: Preset) -> str | None:
    """A hash of everything that decides the report, of images by their sizes and times; None for a faulty row."""
    roots = ImageRoots(seed=args.images, processed=args.file.parent)
    images: set[Path] = set()
    try:
        for _, line in read_rows(args.file, roots):
            if image := parse_row(line).image:
                images.add(roots.resolve(image))
    except RowFault:
        return None
    models = [*sorted((args.tokenizer or preset.llm).glob("*.json")), preset.vision_tower / "config.json"]
    audits = [record_of(args.file), args.audit]
    with suppress(UserError):  # the report says so
        audits.append(find_audit(args.file))
    code = [path for pattern in CODE for path in sorted((REPOSITORY / "toolkit").glob(pattern))]
    files = [args.file, preset.questions, *models, *filter(None, audits), *code, *sorted(images)]
    return signature_of(files, f"{preset} {args.images.resolve()} {sha256_of(args.file)}")


def _reports(known: Path) -> dict[str, list[str]]:
    """Lines of earlier reports by signature; a damaged file knows none."""
    try:
        reports = read_json(known) if known.is_file() else {}
    except UserError:
        return {}
    return reports if isinstance(reports, dict) else {}


def _trainability_test(preset: Preset, tokenizer: Path) -> tuple[TrainabilityTest | None, list[str]]:
    """The test of every row with the real tokenizer, or None and a remark on the file that it lacks."""
    for path in (tokenizer, preset.vision_tower / "config.json"):
        if not path.exists():
            return None, [f"trainability: {path} is missing, run `{preset.download}`"]
    return trainability_test(preset, tokenizer), []


def _lines(report: Report, preset: Preset) -> list[str]:
    counts, cap = report.counts, preset.sample_cap
    tokens = [f"{counts[token]:,} {token}" for token in (*IMAGE_TOKENS, "text-only") if counts[token]]
    capped = (
        f"{report.rows:,} of at most {cap:,}: all are trained, in this order"
        if report.rows <= cap
        else f"{report.rows - cap:,} rows above {cap:,}: training draws {cap:,} at random, seed {preset.sample_seed}"
    )
    lines = [
        f"  image token  {', '.join(tokens) or 'none'}",
        f"  images       {counts['pictures']:,} different ones, {counts['synthetic']:,} rows with a synthetic one",
        f"  questions    {counts['question restored']:,} restored, {counts['question by rule']:,} by the caption rule",
        f"  repeats      {counts['exact repeats']:,} exact repeats, "
        f"{counts['further rows of an id']:,} further rows of an id (allowed)",
        f"  cap          {capped}",
    ]
    lines += [
        f"  origin       {report.origins[key]:,} rows {text}" for key, text in ORIGINS.items() if report.origins[key]
    ]
    if audit := report.audit:
        lines.append(
            f"  audit        {audit['found']:,} rows are kept rows of it: {audit['rewritten']:,} rewritten, "
            f"{audit['created']:,} created, {audit['synthetic']:,} synthetic; "
            f"{audit['unknown']:,} rows it does not know, {audit['left_out']:,} kept rows not among its valid ones"
        )
    lines += [f"  note         {counts[name]:,} images {text}" for name, text in NOTES.items() if counts[name]]
    if not preset.needs_gpu and report.median_side > LARGER * preset.image_size_aux:
        lines.append(
            f"  WARNING      half of the images are {report.median_side:g} px and larger, those of the mini world "
            f"{preset.image_size_aux}: its small models know nothing else, so a score on them says little; "
            "the full and 10k presets are for such data"
        )
    lines += [f"  NOT CHECKED  {remark}" for remark in report.remarks]
    lines.append(f"  faults       {len(report.faults):,} rows" if report.faults else "  faults       none")
    by_reason = sorted(report.faults, key=lambda fault: (fault.reason, fault.line))
    for reason, group in groupby(by_reason, key=lambda fault: fault.reason):
        faults = list(group)
        lines.append(f"  {reason}: {len(faults):,} rows; {FIXES[reason]}")
        lines += [f"    line {fault.line} (id {fault.id}): {fault.detail}" for fault in faults[:SHOWN_FAULTS]]
        if len(faults) > SHOWN_FAULTS:
            lines.append(f"    and {len(faults) - SHOWN_FAULTS:,} more")
    return [visible(shortened(line)) for line in lines]


def _record(report: Report, args: argparse.Namespace, preset: Preset, seconds: float) -> dict[str, Any]:
    return {
        "command": "check",
        "inputs": {str(args.file): sha256_of(args.file)},
        "configuration": {"preset": preset.name, "images": str(args.images), "on_error": args.on_error},
        "versions": package_versions(),
        "counts": {"rows": report.rows, "faulty": len(report.faults), **report.counts},
        "origins": dict(report.origins),
        "audit": report.audit,
        "not_checked": report.remarks,
        "faults": [asdict(fault) for fault in report.faults],
        "seconds": seconds,
    }


def _fixes(report: Report, shared: list[Finding]) -> Iterator[dict[str, Any]]:
    """Lines of the fix list: faults, which must be fixed, notes, which may be, and what the evaluation sets share."""
    kinds = (
        ("fault", report.faults, FIXES),
        ("note", report.notes, NOTE_FIXES),
        ("overlap", shared, OVERLAP_FIXES),
    )
    for kind, findings, fixes in kinds:
        yield from ({"kind": kind, **asdict(finding), "fix": fixes[finding.reason]} for finding in findings)
