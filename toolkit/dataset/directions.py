"""The two directions of `python -m toolkit convert`: one entry at a time, with what is lost on the way counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from toolkit.dataset.arrays import read_array
from toolkit.dataset.llava import (
    CAPTION_PROMPTS,
    IMAGE_MARK,
    Original,
    has_system_prompt,
    to_llava,
    to_row,
    turns_of,
)
from toolkit.dataset.rows import ImageRoots, Line, id_of, parse_row, read_rows
from toolkit.errors import RowFault, SkippedRow

KEPT_FIELDS = {"id", "image", "images", "conversations", "messages"}
OWN_QUESTIONS = "own questions dropped (ids that stage_1.json lacks are trained with a caption prompt)"


@dataclass
class LlavaToRows:
    """LLaVA-format samples, an array or lines, become rows.

    Args:
        image_token: token to write, one of IMAGE_TOKENS.
        first_turn: of several turns take the first, instead of refusing the sample.
        counts: what happened to entries, and what was lost.
    """

    image_token: str
    first_turn: bool
    counts: Counter[str] = field(default_factory=Counter)
    # Questions come back by id, so an id may not have two. Hashes: the texts of some 10^5 ids and questions are long.
    _asked: dict[int, int] = field(default_factory=dict)
    layout: ClassVar = ("", "\n", "\n")  # written before, between and after the entries

    def entries(self, file: Path) -> Iterator[tuple[str, Line]]:
        """(where, entry) of a file. Raises UserError where it cannot be read."""
        if file.name.removesuffix(".gz").endswith(".jsonl"):
            return _lines(file)
        return ((f"{file}: entry {number}", entry) for number, entry in read_array(file))

    def convert(self, sample: dict[str, Any]) -> dict[str, Any]:
        """The row of a sample. Raises RowFault: those of `to_row`; `repeated_id`."""
        row = to_row(sample, self.image_token, self.first_turn)
        turns = turns_of(sample)
        asked = hash((turns[0], *row["images"]))
        if self._asked.setdefault(hash(row["id"]), asked) != asked:
            raise RowFault("repeated_id", f"id {row['id']!r} came before with another image or question")
        self.counts["text only"] += not row["images"]
        self.counts["later turns dropped"] += len(turns) // 2 - 1
        self.counts["answers stripped of blanks"] += turns[1] != turns[1].strip()
        self.counts[OWN_QUESTIONS] += turns[0].replace(IMAGE_MARK, "").strip() not in CAPTION_PROMPTS
        self.counts["system prompts dropped"] += has_system_prompt(sample)
        self.counts.update(f"field {name!r} dropped" for name in sample.keys() - KEPT_FIELDS)
        return row


@dataclass
class RowsToLlava:
    """Rows become an array of LLaVA-format samples.

    Args:
        originals: `stage_1.json` by id, whose questions come back; empty for the caption rule alone.
        images: folder of absolute image paths; None for the file's own.
        counts: what happened to entries, and what was lost.
    """

    originals: dict[str, Original]
    images: Path | None = None
    counts: Counter[str] = field(default_factory=Counter)
    layout: ClassVar = ("[\n", ",\n", "\n]\n")

    def entries(self, file: Path) -> Iterator[tuple[str, Line]]:
        """(where, entry) of a file. Raises UserError where it cannot be read."""
        return _lines(file, ImageRoots(seed=self.images or file.parent, processed=file.parent))

    def convert(self, line: dict[str, Any]) -> dict[str, Any]:
        """The sample of a row. Raises RowFault: those of `parse_row` and `to_llava`."""
        row = parse_row(line)
        original = self.originals.get(row.id)
        sample = to_llava(row, original)
        self.counts["questions restored" if original else "questions by the caption rule"] += 1
        self.counts.update(f"field {name!r} dropped" for name in line.keys() - {"id", "images", "text"})
        return sample


def _lines(file: Path, roots: ImageRoots | None = None) -> Iterator[tuple[str, Line]]:
    return ((f"{file}:{number}", line) for number, line in read_rows(file, roots))


def convert_entries(
    direction: LlavaToRows | RowsToLlava, file: Path, skipped: list[SkippedRow]
) -> Iterator[dict[str, Any]]:
    """The converted entries of a file; faulty ones go to `skipped`. Raises UserError: the file cannot be read."""
    for where, entry in direction.entries(file):
        try:
            if isinstance(entry, RowFault):
                raise entry
            yield direction.convert(entry)
        except RowFault as fault:
            skipped.append(SkippedRow(id_of(entry), where, fault.reason, fault.detail))
