"""`python -m toolkit export`: processed data as others load them, with images inside and a card; and back."""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

from toolkit.dataset.llava import load_originals
from toolkit.dataset.rows import ImageRoots
from toolkit.errors import UserError
from toolkit.files import package_versions, read_json, sha256_of, write_json
from toolkit.processes import owner_of

RECORD = "export.json"
KINDS = ("parquet", "webdataset", "llava")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m toolkit export`."""
    parser.add_argument("source", type=Path, help="processed_data.jsonl; with --to rows the folder of an export")
    parser.add_argument("--to", choices=(*KINDS, "rows"), required=True, help="format; rows: back to the kit's own")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; must not exist, or be empty")
    parser.add_argument("--images", type=Path, help="the seed's folder, where image paths start (default: the file's)")
    parser.add_argument("--questions", type=Path, help="llava: the seed's stage_1.json, for its questions")
    parser.add_argument("--name", help="of the data set, for its card (default: the folder's)")
    parser.add_argument("--source-of-data", default="", metavar="TEXT", help="for the card: where the seed is from")
    parser.add_argument("--licence", default="", metavar="ID", help="for the card, such as cc-by-4.0")


def run(args: argparse.Namespace) -> None:
    """Write the folder, whole or not at all.

    Raises:
        UserError: a row or image is faulty; the folder holds something; the export is damaged.
    """
    out: Path = args.out.absolute()
    with owner_of(out.parent, f"export-{out.name}"):
        unfinished = out.with_name(f".{out.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        if _is_there(args.source, args.to, out):
            print(f"{args.out}: already exported from the same file")
            return
        unfinished.mkdir(parents=True)
        try:
            line = _back(args.source, unfinished) if args.to == "rows" else _export(args, unfinished)
            if out.exists():
                out.rmdir()
            unfinished.rename(out)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    print(f"{args.out}: {line}")


def _is_there(source: Path, kind: str, out: Path) -> bool:
    """Whether the folder is this export; one with anything else in it is refused."""
    if not out.exists():
        return False
    if not out.is_dir():
        raise UserError(f"--out {out}: a file; name a folder")
    if (out / RECORD).is_file() and source.is_file():
        record = read_json(out / RECORD)
        if isinstance(record, dict) and (record.get("format"), record.get("source")) == (kind, sha256_of(source)):
            return True
    if any(out.iterdir()):
        raise UserError(f"--out {out}: holds something else; remove it, or choose another folder")
    return False


def _export(args: argparse.Namespace, folder: Path) -> str:
    from toolkit.export.card import About, card
    from toolkit.export.formats import WRITERS
    from toolkit.export.rows import read_entries, require_readable

    start = time.monotonic()
    file, images = args.source, args.images or args.source.parent
    if not images.is_dir():
        raise UserError(f"--images {images}: no such folder; expected the seed's folder")
    roots = ImageRoots(seed=images, processed=file.parent)
    rows, different = require_readable(file, roots)
    originals = load_originals(args.questions) if args.questions else {}
    WRITERS[args.to](read_entries(file, roots), folder, originals)
    name = args.name or args.out.absolute().name
    about = About(name, args.to, args.licence, args.source_of_data, rows, different)
    (folder / "README.md").write_text(card(file, about), encoding="utf-8")
    files = {
        path.relative_to(folder).as_posix(): sha256_of(path) for path in sorted(folder.rglob("*")) if path.is_file()
    }
    record = {
        "command": "export",
        "format": args.to,
        "source": sha256_of(file),
        "counts": {"rows": rows, "images": different},
        "files": files,
        "versions": package_versions(),
        "seconds": round(time.monotonic() - start, 1),
    }
    write_json(folder / RECORD, record)
    return f"{rows:,} rows with {different:,} different images as {args.to}, {len(files)} files; its card is README.md"


def _back(source: Path, folder: Path) -> str:
    from toolkit.export.formats import read_back

    if not source.is_dir():
        raise UserError(f"{source}: no such folder; --to rows reads an export's folder")
    if not (source / RECORD).is_file():
        raise UserError(f"{source}: no export of this kit ({RECORD} is missing)")
    record = read_json(source / RECORD)
    kind, files = (record.get("format"), record.get("files")) if isinstance(record, dict) else (None, None)
    if kind not in KINDS or not isinstance(files, dict):
        raise UserError(f"{source / RECORD}: damaged; export again")
    for name, sha256 in files.items():
        path = source / name
        if not path.is_file() or sha256_of(path) != sha256:
            raise UserError(f"{path}: {'changed since it was exported' if path.is_file() else 'missing'}; export again")
    counts = read_back(kind, source, folder)
    return f"{counts['rows']:,} rows and {counts['images']:,} images; image paths start from this folder"
