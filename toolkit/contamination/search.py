"""Rows of a file held against a preset's evaluation sets: what they share, as a table and as a page."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from toolkit.contamination.images import MIN_CORRELATION, SIDE, Match, Wanted
from toolkit.contamination.texts import WantedTexts
from toolkit.dataset.images import opened
from toolkit.dataset.rows import ImageRoots, parse_row, read_rows
from toolkit.errors import RowFault, UserError
from toolkit.eval import mmbench, textvqa
from toolkit.presets import Preset
from toolkit.processes import unfinished

TABLE, PAGE = "overlaps.parquet", "overlaps.html"
METADATA = b"overlaps"
VERSION = 1
SHOWN = 200  # pairs on the page
DIGEST_BYTES = 16


@dataclass(frozen=True)
class Exam:
    """The evaluation sets of a preset.

    Args:
        images: each once, a path or encoded bytes.
        names: what to call each image: benchmark and first question that shows it.
        texts: name -> a question, hint or option.
    """

    images: list[Path | bytes]
    names: list[str]
    texts: dict[str, str]


@dataclass
class Overlaps:
    """What was found.

    Args:
        rows, images: how many were compared.
        pairs: image's path in the rows -> its best match in the exam.
        captions: (line, id, name of the exam's text, the words in common).
        unreadable: images that could not be compared.
        lines: by image's path, the lines that show it.
    """

    rows: int = 0
    images: int = 0
    pairs: dict[str, Match] = field(default_factory=dict)
    captions: list[tuple[int, str, str, str]] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    lines: dict[str, list[int]] = field(default_factory=dict)


def read_exam(preset: Preset) -> Exam:
    """Images and texts of TextVQA and MMBench.

    Raises:
        UserError: one is missing; names the download.
    """
    for path in (preset.textvqa.questions, preset.mmbench.questions):
        if not path.is_file():
            raise UserError(f"{path}: no such file, and nothing to compare with; `{preset.download}` brings it")
    asked = textvqa.read_questions(preset.textvqa.questions, preset.textvqa.images)
    if not asked:
        raise UserError(
            f"{preset.textvqa.questions}: no question in it, and nothing to compare with; {preset.download}"
        )
    names: dict[Path | bytes, str] = {}
    texts: dict[str, str] = {}
    for question in asked:
        name = f"TextVQA {question.question_id}"
        names.setdefault(question.image, name)
        texts[name] = question.prompt.partition("\n")[0]
    table = mmbench.read_table(preset.mmbench.questions)
    for row, question in zip(table, mmbench.questions_of(table, "en"), strict=True):
        name = f"MMBench {question.question_id}"
        names.setdefault(question.image, name)
        texts |= {name: row["question"], f"{name}, hint": row.get("hint", "")}
        texts |= {f"{name}, option {text}": text for text in mmbench.options_of(row)}
    return Exam(list(names), list(names.values()), texts)


def compare(file: Path, roots: ImageRoots, exam: Exam) -> Overlaps:
    """Hold every valid row against the exam; faulty rows are `check`'s affair.

    Raises:
        UserError: the file cannot be read; an image of the exam cannot.
    """
    found, texts = Overlaps(), WantedTexts(exam.texts)
    paths: dict[str, Path] = {}
    for number, line in read_rows(file, roots):
        try:
            row = parse_row(line)
            if row.image:
                paths[row.image] = roots.resolve(row.image)
                found.lines.setdefault(row.image, []).append(number)
        except RowFault:
            continue
        found.rows += 1
        if shared := texts.find(row.caption):
            found.captions.append((number, row.id, *shared))
    found.images = len(paths)
    try:
        wanted = Wanted(exam.images)
    except RowFault as fault:
        raise UserError(f"an image of the evaluation sets cannot be read: {fault}; bring it again") from None
    looked = wanted.copies_among(list(paths.values()))
    for name, matches in tqdm(zip(paths, looked, strict=True), "compare", len(paths), unit=" images", disable=None):
        if isinstance(matches, RowFault):
            found.unreadable.append(name)
        elif matches:
            found.pairs[name] = matches[0]
    return found


def write_table(found: Overlaps, roots: ImageRoots, file: Path, exam: Exam, target: Path) -> None:
    """Every compared image by its content, every row by its caption, for `evaluation_overlap_filter`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    shared = {line: (name, words) for line, _, name, words in found.captions}
    rows = []
    for number, line in read_rows(file, roots):
        try:
            row = parse_row(line)
            image = roots.resolve(row.image) if row.image else None
        except RowFault:
            continue
        match = found.pairs.get(row.image or "")
        name, words = shared.get(number, ("", ""))
        rows.append(
            {
                "row": number,
                "id": row.id,
                "image": _digest(image.read_bytes()) if image and image.is_file() else None,
                "caption": _digest(row.caption.encode()),
                "correlation": match.correlation if match else None,
                "image_in": exam.names[match.wanted] if match else "",
                "text_in": name,
                "words": words,
            }
        )
    digest, text = pa.binary(DIGEST_BYTES), pa.string()
    fields = {"row": pa.int64(), "id": text, "image": digest, "caption": digest, "correlation": pa.float64()}
    about = {"version": VERSION, "file": str(file), "min_correlation": MIN_CORRELATION}
    schema = pa.schema(fields | {"image_in": text, "text_in": text, "words": text}, {METADATA: json.dumps(about)})
    with unfinished(target) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema), temporary)
        temporary.replace(target)


def write_page(found: Overlaps, roots: ImageRoots, file: Path, exam: Exam, target: Path) -> None:
    """The pairs side by side, as one HTML file without scripts."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    best = sorted(found.pairs.items(), key=lambda item: -item[1].correlation)
    pairs = [
        {
            "image": name,
            "lines": found.lines[name],
            "name": exam.names[match.wanted],
            "correlation": match.correlation,
            "mirrored": match.mirrored,
            "left": _thumbnail(roots.resolve(name)),
            "right": _thumbnail(exam.images[match.wanted]),
        }
        for name, match in best[:SHOWN]
    ]
    text = environment.get_template("page.html.j2").render(
        file=file.name, found=found, pairs=pairs, more=len(best) - len(pairs), captions=found.captions[:SHOWN],
        exam_images=len(exam.images),
    )  # fmt: skip
    with unfinished(target) as temporary:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(target)


def summary(found: Overlaps, exam: Exam) -> list[str]:
    """What was found, a line each."""
    lines = [
        f"  contamination  {len(found.pairs):,} of {found.images:,} images are copies of the evaluation sets' "
        f"{len(exam.images):,}, in {sum(len(found.lines[name]) for name in found.pairs):,} rows",
        f"  contamination  {len(found.captions):,} of {found.rows:,} captions share their words",
    ]
    if found.unreadable:
        lines.append(f"  contamination  {len(found.unreadable):,} images cannot be read, so were not compared")
    for name, match in list(found.pairs.items())[:5]:
        mirrored = ", mirrored" * match.mirrored
        lines.append(f"    line {found.lines[name][0]} ({name}): {exam.names[match.wanted]}{mirrored}")
    lines += [f"    line {line} (id {row}): {name}: {words!r}" for line, row, name, words in found.captions[:5]]
    return lines


def _thumbnail(source: Path | bytes) -> str:
    with opened(source) as image:
        small = image.convert("RGB")
        small.thumbnail((2 * SIDE, 2 * SIDE))
        content = io.BytesIO()
        small.save(content, "JPEG", quality=80)
    return base64.b64encode(content.getvalue()).decode()


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()


def search(file: Path, roots: ImageRoots, preset: Preset, folder: Path) -> tuple[Overlaps, Sequence[str]]:
    """Compare a file with a preset's evaluation sets; write table and page into a folder.

    Returns:
        what was found, and its summary.
    """
    exam = read_exam(preset)
    found = compare(file, roots, exam)
    folder.mkdir(parents=True, exist_ok=True)
    write_table(found, roots, file, exam, folder / TABLE)
    write_page(found, roots, file, exam, folder / PAGE)
    return found, summary(found, exam)
