"""Checks a `processed_data.jsonl` before anything is trained on it; changes nothing."""

from __future__ import annotations

import argparse
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from tqdm import tqdm

from toolkit.conversion import load_originals, to_llava
from toolkit.errors import RowFault, UserError
from toolkit.files import package_versions, read_json, sha256_of, write_json
from toolkit.pictures import NOTES, inspect_pictures
from toolkit.presets import Preset, load_preset
from toolkit.rows import IMAGE_TOKENS, ImageRoots, Row, id_of, image_token_of, is_synthetic, parse_row, read_rows

SHOWN_FAULTS = 20

# Raises RowFault for a LLaVA-format sample of which nothing would be learnt.
TrainabilityTest = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Fault:
    """A line that cannot be trained."""

    line: int
    id: str
    reason: str
    detail: str


@dataclass
class Report:
    """What `check` saw of a file.

    Args:
        rows: lines that are not blank.
        faults: at most one a line, by line.
        counts: rows by property, pictures by note.
        remarks: what could not be checked, and why.
    """

    rows: int = 0
    faults: list[Fault] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    remarks: list[str] = field(default_factory=list)

    @property
    def sound_rows(self) -> int:
        """Rows without a fault."""
        return self.rows - len(self.faults)


def check_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m toolkit check`."""
    parser.add_argument("file", type=Path, help="processed_data.jsonl")
    parser.add_argument("--images", type=Path, required=True, help="the seed's folder, where image paths start")
    parser.add_argument("--preset", default="full", help="full, 10k, mini or a YAML file (default: full)")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer folder (default: the preset's language model)")
    parser.add_argument("--on-error", choices=("stop", "skip"), default="stop", help="skip: faulty rows are no failure")
    parser.add_argument("--json", type=Path, help="also write the report, with every fault, as JSON")


def check_command(args: argparse.Namespace) -> None:
    """Check a file, print the report.

    Raises:
        UserError: no such file or folder; faulty rows under the policy `stop`; no sound row.
    """
    start = time.monotonic()
    preset = load_preset(args.preset)
    if not args.file.is_file():
        raise UserError(f"{args.file}: no such file; run a recipe first (python solution/process.py)")
    if not args.images.is_dir():
        raise UserError(f"--images {args.images}: no such folder; expected the seed's folder")
    report = examine(args.file, args.images, preset, args.tokenizer or preset.llm)
    seconds = round(time.monotonic() - start, 1)
    print(f"{args.file}: {report.rows:,} rows checked in {seconds} s")
    print("\n".join(_lines(report, preset)))
    if args.json:
        write_json(args.json, _record(report, args, preset, seconds))
    if not report.sound_rows:
        raise UserError(f"{args.file}: no row can be trained")
    if report.faults and args.on_error == "stop":
        raise UserError(
            f"{args.file}: {len(report.faults):,} of {report.rows:,} rows are faulty, see above; "
            "mend or drop them, or pass --on-error skip"
        )


def examine(file: Path, images: Path, preset: Preset, tokenizer: Path) -> Report:
    """Hold every row of a file against the rules of the contract.

    Args:
        file: `processed_data.jsonl`; its folder holds `synthetic_images/`.
        images: folder of every other picture.
        preset: whose questions, cap and token limit apply.
        tokenizer: folder of the language model's tokenizer.

    Raises:
        UserError: the file is missing.
    """
    report = Report()
    require_trainable = _trainability_test(preset, tokenizer, report.remarks)
    originals = {}
    if preset.questions.is_file():
        originals = load_originals(preset.questions)
    else:
        report.remarks.append(f"original questions: {preset.questions} is missing, run `{preset.download}`")
    # Of another seed's folder these questions say nothing.
    known_ids = originals if images.resolve() == preset.seed_images.resolve() else ()
    rules = _FileRules(known_ids)
    roots = ImageRoots(seed=images, processed=file.parent)

    lines_of_picture: dict[Path, list[tuple[int, str]]] = defaultdict(list)
    for number, line in tqdm(read_rows(file), desc="rows", unit=" rows", disable=None, leave=False):
        report.rows += 1
        try:
            row = parse_row(line)
            picture = roots.resolve(row.image) if row.image else None
            rules.admit(row, number)
            sample = to_llava(row, originals.get(str(row.id)))
            require_trainable(sample)
        except RowFault as fault:
            report.faults.append(Fault(number, id_of(line), fault.reason, fault.detail))
            continue
        if picture:
            lines_of_picture[picture].append((number, id_of(line)))
        report.counts[image_token_of(line["text"]) or "text-only"] += 1
        report.counts["question restored" if str(row.id) in originals else "question by rule"] += 1
    report.counts += rules.counts

    for path, picture in inspect_pictures(list(lines_of_picture)).items():
        report.counts["pictures"] += 1
        if isinstance(picture, RowFault):
            report.faults += [Fault(*line, picture.reason, picture.detail) for line in lines_of_picture[path]]
        else:
            report.counts.update(picture.notes)
    report.faults.sort(key=lambda fault: fault.line)
    return report


class _FileRules:
    """The rules that one row cannot break alone.

    Args:
        known_ids: the seed's ids; empty where they are not known.
    """

    def __init__(self, known_ids: Collection[str]):
        self.known_ids = known_ids
        self.counts: Counter[str] = Counter()
        self._original_image: dict[str, tuple[str, int]] = {}
        self._seen_ids: set[str] = set()
        self._seen_rows: set[int] = set()

    def admit(self, row: Row, number: int) -> None:
        """Count a row in.

        Args:
            row: the row.
            number: its line.

        Raises:
            RowFault: `two_images_of_one_id`, `synthetic_image_of_unknown_id`.
        """
        identifier = str(row.id)
        if row.image and is_synthetic(row.image):
            if self.known_ids and identifier not in self.known_ids:
                raise RowFault("synthetic_image_of_unknown_id", f"{row.image}: expected the id of the row it came from")
            self.counts["synthetic"] += 1
        elif row.image:
            image, first = self._original_image.setdefault(identifier, (row.image, number))
            if image != row.image:
                raise RowFault("two_images_of_one_id", f"{row.image} here, {image} in line {first}")
        fingerprint = hash((identifier, row.image, row.caption))
        if fingerprint in self._seen_rows:
            self.counts["exact repeats"] += 1
        elif identifier in self._seen_ids:
            self.counts["further rows of an id"] += 1
        self._seen_ids.add(identifier)
        self._seen_rows.add(fingerprint)


def _trainability_test(preset: Preset, tokenizer: Path, remarks: list[str]) -> TrainabilityTest:
    """A test of samples with the real tokenizer; one that accepts all, and a remark, where a file of it is missing."""
    tower = preset.vision_tower / "config.json"
    for path in (tokenizer, tower):
        if not path.exists():
            remarks.append(f"trainability: {path} is missing, run `{preset.download}`")
            return lambda sample: None

    # Imported here: they bring torch, which `--help` need not wait for.
    from toolkit.mgm.checkpoint import load_tokenizer
    from toolkit.mgm.conversation import encode_conversation, require_supervision

    loaded = load_tokenizer(tokenizer)
    sizes = read_json(tower)["vision_config"]
    image_tokens = (sizes["image_size"] // sizes["patch_size"]) ** 2

    def require_trainable(sample: dict[str, Any]) -> None:
        has_image = "image" in sample
        _, labels = encode_conversation(sample["conversations"], loaded, has_image, preset.max_length)
        require_supervision(labels, preset.max_length, image_tokens if has_image else 0)

    return require_trainable


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
        f"  pictures     {counts['pictures']:,} different ones, {counts['synthetic']:,} rows with a synthetic one",
        f"  questions    {counts['question restored']:,} restored, {counts['question by rule']:,} by the caption rule",
        f"  repeats      {counts['exact repeats']:,} exact repeats, "
        f"{counts['further rows of an id']:,} further rows of an id (allowed)",
        f"  cap          {capped}",
    ]
    lines += [f"  note         {counts[name]:,} pictures {text}" for name, text in NOTES.items() if counts[name]]
    lines += [f"  NOT CHECKED  {remark}" for remark in report.remarks]
    lines.append(f"  faults       {len(report.faults):,} rows" if report.faults else "  faults       none")
    by_reason = sorted(report.faults, key=lambda fault: (fault.reason, fault.line))
    for reason, group in groupby(by_reason, key=lambda fault: fault.reason):
        faults = list(group)
        lines.append(f"  {reason}: {len(faults):,} rows")
        lines += [f"    line {fault.line} (id {fault.id}): {fault.detail}" for fault in faults[:SHOWN_FAULTS]]
        if len(faults) > SHOWN_FAULTS:
            lines.append(f"    and {len(faults) - SHOWN_FAULTS:,} more")
    return lines


def _record(report: Report, args: argparse.Namespace, preset: Preset, seconds: float) -> dict[str, Any]:
    return {
        "command": "check",
        "inputs": {str(args.file): sha256_of(args.file)},
        "configuration": {"preset": preset.name, "images": str(args.images), "on_error": args.on_error},
        "versions": package_versions(),
        "counts": {"rows": report.rows, "faulty": len(report.faults), **report.counts},
        "not_checked": report.remarks,
        "faults": [asdict(fault) for fault in report.faults],
        "seconds": seconds,
    }
