"""Rows of a file held against a preset's evaluation sets: what they share, as a table and as a page."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from toolkit.contamination.images import DIGEST_BYTES, MIN_CORRELATION, SIDE, Match, Wanted, digest_of
from toolkit.contamination.known import Known, KnownImages, stamp_of
from toolkit.contamination.texts import WantedTexts
from toolkit.dataset.images import opened, require_missing
from toolkit.dataset.rows import ImageRoots, parse_row, read_rows
from toolkit.dataset.validation import Finding
from toolkit.errors import RowFault, UserError
from toolkit.eval import mmbench, textvqa
from toolkit.files import REPOSITORY, sha256_of
from toolkit.presets import Preset
from toolkit.processes import unfinished
from toolkit.terminal import visible

if TYPE_CHECKING:
    from toolkit.contamination.embeddings import Alike

KNOWN = REPOSITORY / "output" / ".compared.sqlite"
# Said where the mini world's own images are among the pairs.
MINI_WORLD = (
    "the mini world draws all its images from the same things and skies: a thing cut out of one looks as in another"
)
CODE = ("images.py", "hashes.py")  # that decides what counts as a copy
TABLE, PAGE = "overlaps.parquet", "overlaps.html"
METADATA = b"overlaps"
VERSION = 1
SHOWN = 200  # pairs on the page
KEPT_AT_ONCE = 2048  # results of images that a killed command loses at most


@dataclass(frozen=True)
class Exam:
    """The evaluation sets of a preset.

    Args:
        images: each once, a path or encoded bytes.
        names: what to call each image: benchmark and first question that shows it.
        texts: name -> a question, hint or option.
        signature: differs where files of the sets, or the code that compares with them, do.
    """

    images: list[Path | bytes]
    names: list[str]
    texts: dict[str, str]
    signature: str = ""


@dataclass
class Overlaps:
    """What was found.

    Args:
        rows, images: how many were compared.
        pairs: image's path in the rows -> its best match in the exam.
        captions: (line, id, name of the exam's text, the words in common).
        unreadable: images that could not be compared.
        lines: by image's path, line and id of the rows that show it.
        digests: by image's path, of its content; not of those that could not be compared.
        alike: (image's path, its pair) that a CLIP takes for alike, none of them in `pairs`; to look at, no verdict.
    """

    rows: int = 0
    images: int = 0
    pairs: dict[str, Match] = field(default_factory=dict)
    captions: list[tuple[int, str, str, str]] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    lines: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    digests: dict[str, bytes] = field(default_factory=dict)
    alike: list[tuple[str, Alike]] = field(default_factory=list)

    def shared_lines(self) -> dict[str, list[int]]:
        """Lines that show an image, and that repeat a caption, of the exam."""
        return {
            "images": sorted(line for name in self.pairs for line, _ in self.lines[name]),
            "captions": [line for line, *_ in self.captions],
        }


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
    files = (preset.textvqa.questions, preset.mmbench.questions, *(name for name in names if isinstance(name, Path)))
    signature = hashlib.sha256(b"".join((Path(__file__).parent / name).read_bytes() for name in CODE))
    signature.update("".join(f"{path} {stamp_of(path)}\n" for path in files).encode(errors="surrogateescape"))
    return Exam(list(names), list(names.values()), texts, signature.hexdigest())


def compare(file: Path, roots: ImageRoots, exam: Exam, known: KnownImages | None = None) -> Overlaps:
    """Hold every valid row against the exam; faulty rows are `check`'s affair.

    Args:
        file: rows.
        roots: of their images.
        exam: what they are held against.
        known: results of earlier commands, to which new ones are added.

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
                found.lines.setdefault(row.image, []).append((number, row.id))
        except RowFault:
            continue
        found.rows += 1
        if shared := texts.find(row.caption):
            found.captions.append((number, row.id, *shared))
    found.images = len(paths)
    results = _looked_at(paths.values(), exam, known)
    for name, path in paths.items():
        if path not in results:
            found.unreadable.append(name)
            continue
        found.digests[name], match = results[path]
        if match:
            found.pairs[name] = match
    return found


def _looked_at(paths: Collection[Path], exam: Exam, known: KnownImages | None) -> dict[Path, Known]:
    """Digest and best match of every image that can be read."""
    stamps = [(path, stamp) for path in paths if (stamp := stamp_of(path))]
    results = known.look_up(stamps) if known else {}
    waiting = [(path, stamp) for path, stamp in stamps if path not in results]
    if not waiting:
        return results
    try:
        wanted = Wanted(exam.images)
    except RowFault as fault:
        raise UserError(f"an image of the evaluation sets cannot be read: {fault}; bring it again") from None
    looks = zip(waiting, wanted.copies_among([path for path, _ in waiting]), strict=True)
    with tqdm(total=len(waiting), desc="compare", unit=" images", disable=None) as progress:
        while some := list(islice(looks, KEPT_AT_ONCE)):
            new = [
                (path, stamp, (looked.digest, looked.matches[0] if looked.matches else None))
                for (path, stamp), looked in some
                if not isinstance(looked, RowFault)
            ]
            results |= {path: result for path, _, result in new}
            if known:
                known.keep(new)
            progress.update(len(some))
    return results


def write_table(found: Overlaps, roots: ImageRoots, file: Path, exam: Exam, target: Path) -> None:
    """Every compared image by its content, every row by its caption, for `evaluation_overlap_filter`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    shared = {line: (name, words) for line, _, name, words in found.captions}
    rows = []
    for number, line in read_rows(file, roots):
        try:
            row = parse_row(line)
        except RowFault:
            continue
        match = found.pairs.get(row.image or "")
        name, words = shared.get(number, ("", ""))
        rows.append(
            {
                "row": number,
                "id": row.id,
                "image": found.digests.get(row.image or ""),
                "caption": digest_of(row.caption.encode()),
                "correlation": match.correlation if match else None,
                "image_in": exam.names[match.wanted] if match else "",
                "text_in": name,
                "words": words,
            }
        )
    digest, text = pa.binary(DIGEST_BYTES), pa.string()
    fields = {"row": pa.int64(), "id": text, "image": digest, "caption": digest, "correlation": pa.float64()}
    about = {
        "version": VERSION, "file": str(file), "sha256": sha256_of(file), "min_correlation": MIN_CORRELATION,
        "exam_images": len(exam.images),
    }  # fmt: skip
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
            "lines": [line for line, _ in found.lines[name]],
            "name": exam.names[match.wanted],
            "correlation": match.correlation,
            "mirrored": match.mirrored,
            "left": _thumbnail(roots.resolve(name)),
            "right": _thumbnail(exam.images[match.wanted]),
        }
        for name, match in best[:SHOWN]
    ]
    alike = [
        {
            "image": name,
            "lines": [line for line, _ in found.lines[name]],
            "name": exam.names[pair.wanted],
            "similarity": pair.similarity,
            "left": _thumbnail(pair.image),
            "right": _thumbnail(exam.images[pair.wanted]),
        }
        for name, pair in found.alike
    ]
    text = environment.get_template("page.html.j2").render(
        file=file.name, found=found, pairs=pairs, more=len(best) - len(pairs), captions=found.captions[:SHOWN],
        alike=alike, exam_images=len(exam.images),
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
        lines.append(f"    line {found.lines[name][0][0]} ({visible(name)}): {exam.names[match.wanted]}{mirrored}")
    lines += [
        f"    line {line} (id {visible(row)}): {visible(name)}: {words!r}"
        for line, row, name, words in found.captions[:5]
    ]
    return lines


def findings_of(found: Overlaps, exam: Exam) -> list[Finding]:
    """What is shared, line by line, as `check --fixes` lists it."""
    findings = [
        Finding(line, row, "evaluation_caption", f"{name}: {words}") for line, row, name, words in found.captions
    ]
    for image, match in found.pairs.items():
        detail = (
            f"{image}: {exam.names[match.wanted]}{', mirrored' * match.mirrored}, correlation {match.correlation:.2f}"
        )
        findings += [Finding(line, row, "evaluation_image", detail) for line, row in found.lines[image]]
    return sorted(findings, key=lambda finding: finding.line)


def _thumbnail(source: Path | bytes) -> str:
    with opened(source) as image:
        small = image.convert("RGB")
        small.thumbnail((2 * SIDE, 2 * SIDE))
        content = io.BytesIO()
        small.save(content, "JPEG", quality=80)
    return base64.b64encode(content.getvalue()).decode()


def compare_remembered(file: Path, roots: ImageRoots, preset: Preset) -> tuple[Overlaps, Exam]:
    """Hold a file against a preset's evaluation sets; images that were compared before are not looked at again."""
    exam = read_exam(preset)
    return compare(file, roots, exam, KnownImages(KNOWN, exam.signature)), exam


@dataclass(frozen=True)
class Search:
    """What was found in a file, for `check`: as it is, as lines to print, as a list of rows."""

    found: Overlaps
    lines: list[str]
    findings: list[Finding]


def search(file: Path, roots: ImageRoots, preset: Preset, folder: Path, clip: Path | None = None) -> Search:
    """Compare a file with a preset's evaluation sets; write table and page into a folder.

    Args:
        file: rows.
        roots: of their images.
        preset: whose evaluation sets.
        folder: made if it is missing.
        clip: of a CLIP, by which images that are no copies are nearest to one of the sets', for the page.

    Raises:
        UserError: those of `compare` and `require_missing`; an image has gone since it was compared.
    """
    found, exam = compare_remembered(file, roots, preset)
    unreadable = [roots.resolve(name) for name in found.unreadable]
    require_missing((path for path in unreadable if not path.exists()), roots.seed)
    try:
        if clip:
            from toolkit.contamination.embeddings import nearest_pairs  # torch takes seconds

            others = {roots.resolve(name): name for name in found.digests if name not in found.pairs}
            found.alike = [(others[pair.image], pair) for pair in nearest_pairs(list(others), exam.images, clip)]
        folder.mkdir(parents=True, exist_ok=True)
        write_table(found, roots, file, exam, folder / TABLE)
        write_page(found, roots, file, exam, folder / PAGE)
    except RowFault as fault:
        raise UserError(f"{fault}, though it could be read a moment ago; run the same command again") from None
    return Search(found, summary(found, exam), findings_of(found, exam))
