"""Checks every row of a `processed_data.jsonl` by the rules of the contract; changes nothing."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from toolkit.dataset.images import inspect_images
from toolkit.dataset.llava import load_originals, to_llava
from toolkit.dataset.provenance import Fingerprint, compare_with_audit, find_audit, fingerprint, origin_of
from toolkit.dataset.rows import ImageRoots, Row, id_of, image_token_of, is_synthetic, parse_row, read_rows
from toolkit.errors import RowFault, UserError
from toolkit.presets import Preset

# Raises RowFault for a LLaVA-format sample that training refuses or would learn nothing from.
TrainabilityTest = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Finding:
    """A line that cannot be trained (a fault), whose image is odd (a note), or that an evaluation set has (an overlap).

    Args:
        line: from 1.
        id: `?` where none can be read.
        reason: key of FIXES, NOTE_FIXES or OVERLAP_FIXES.
        detail: what was seen.
    """

    line: int
    id: str
    reason: str
    detail: str


@dataclass
class Report:
    """What was seen of a file.

    Args:
        rows: lines that are not blank.
        faults: at most one per line, in the file's order.
        notes: odd images, for every line that shows one, in the file's order.
        counts: rows by property, images by note.
        median_side: px of the longer side of the images, the median; 0 without images.
        origins: valid rows by key of ORIGINS; empty where the seed is not known, or another one's folder was given.
        audit: what `compare_with_audit` counted; empty without an audit.
        remarks: what could not be checked, and why.
    """

    rows: int = 0
    faults: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    median_side: float = 0
    origins: Counter[str] = field(default_factory=Counter)
    audit: dict[str, int] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    @property
    def valid_rows(self) -> int:
        """Rows without a fault."""
        return self.rows - len(self.faults)


def validate(
    file: Path, images: Path, preset: Preset, require_trainable: TrainabilityTest | None, audit: Path | None
) -> Report:
    """Check every row and every image.

    Args:
        file: `processed_data.jsonl`; its folder holds `synthetic_images/`.
        images: folder of every other image.
        preset: its questions come back by id.
        require_trainable: a further test of each row's sample; None to leave it out.
        audit: of the recipe that wrote the file (default: found by the record beside the file).

    Raises:
        UserError: the file, or the audit that was named, cannot be read.
    """
    report = Report()
    originals = {}
    if preset.questions.is_file():
        originals = load_originals(preset.questions)
    else:
        report.remarks.append(f"original questions: {preset.questions} is missing, run `{preset.download}`")
    # Of another seed's folder these questions say nothing.
    known_ids = originals if images.resolve() == preset.seed_images.resolve() else ()
    rules = _FileRules(known_ids)
    roots = ImageRoots(seed=images, processed=file.parent)

    lines_of_image: dict[Path, list[tuple[int, str]]] = defaultdict(list)
    for number, line in tqdm(read_rows(file, roots), desc="rows", unit=" rows", disable=None, leave=False):
        report.rows += 1
        try:
            row = parse_row(line)
            original = originals.get(row.id)
            path = roots.resolve(row.image) if row.image else None
            rules.admit(row, number)
            sample = to_llava(row, original)
            if require_trainable:
                require_trainable(sample)
        except RowFault as fault:
            report.faults.append(Finding(number, id_of(line), fault.reason, fault.detail))
            continue
        if path:
            lines_of_image[path].append((number, id_of(line)))
        report.counts[image_token_of(line["text"]) or "text-only"] += 1
        report.counts["question restored" if original else "question by rule"] += 1
        if known_ids:
            report.origins[origin_of(row, original)] += 1
    report.counts += rules.counts

    _check_images(report, lines_of_image, images)
    for findings in (report.faults, report.notes):
        findings.sort(key=lambda finding: finding.line)
    _compare_audit(report, file, audit, rules.rows)
    return report


def _check_images(report: Report, lines_of_image: Mapping[Path, list[tuple[int, str]]], folder: Path) -> None:
    """Decode every image once; its fault or its notes count for every line, (number, id), that shows it."""
    sides = []
    for path, image in inspect_images(list(lines_of_image), folder).items():
        report.counts["pictures"] += 1
        lines = lines_of_image[path]
        if isinstance(image, RowFault):
            report.faults += [Finding(*line, image.reason, image.detail) for line in lines]
            continue
        sides.append(max(image.width, image.height))
        for note in image.notes:
            report.counts[note] += 1
            seen = f"{path}: {image.width} x {image.height} pixels, {image.mode}"
            report.notes += [Finding(*line, note, seen) for line in lines]
    report.median_side = statistics.median(sides) if sides else 0


def _compare_audit(report: Report, file: Path, audit: Path | None, rows: list[Fingerprint]) -> None:
    if audit:
        report.audit = compare_with_audit(rows, audit)
        return
    try:
        if audit := find_audit(file):
            report.audit = compare_with_audit(rows, audit)
    except UserError as error:
        report.remarks.append(f"audit: {error}")


class _FileRules:
    """The rules that one row cannot break alone.

    Args:
        known_ids: the seed's ids; empty where they are not known.
    """

    def __init__(self, known_ids: Collection[str]):
        self.known_ids = known_ids
        self.counts: Counter[str] = Counter()
        self.rows: list[Fingerprint] = []
        self._original_image: dict[str, tuple[str, int]] = {}
        self._seen_ids: set[str] = set()
        self._seen_rows: set[Fingerprint] = set()

    def admit(self, row: Row, number: int) -> None:
        """Take a row into the counts.

        Args:
            row: the row.
            number: its line.

        Raises:
            RowFault: `two_images_of_one_id`, `synthetic_image_of_unknown_id`.
        """
        if row.image and is_synthetic(row.image):
            if self.known_ids and row.id not in self.known_ids:
                raise RowFault("synthetic_image_of_unknown_id", f"{row.image}: expected the id of the row it came from")
            self.counts["synthetic"] += 1
        elif row.image:
            image, first = self._original_image.setdefault(row.id, (row.image, number))
            if image != row.image:
                raise RowFault("two_images_of_one_id", f"{row.image} here, {image} in line {first}")
        content = fingerprint(row.id, row.image, row.caption)
        if content in self._seen_rows:
            self.counts["exact repeats"] += 1
        elif row.id in self._seen_ids:
            self.counts["further rows of an id"] += 1
        self._seen_ids.add(row.id)
        self._seen_rows.add(content)
        self.rows.append(content)
