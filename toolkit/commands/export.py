"""`python -m toolkit export`: processed data as others load them, with images inside and a card; and back."""

from __future__ import annotations

import argparse
import errno
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.dataset.image_stamps import is_same, stamp_of
from toolkit.dataset.llava import load_originals
from toolkit.dataset.provenance import record_of
from toolkit.dataset.rows import ImageRoots
from toolkit.errors import RowFault, UserError, advised
from toolkit.files import REPOSITORY, package_versions, read_json, require_file, sha256_of, write_json
from toolkit.processes import owner_of

if TYPE_CHECKING:
    from toolkit.export.card import Shared

RECORD, CARD = "export.json", "README.md"
OVERLAPS = "overlaps.parquet"  # that toolkit/contamination writes
KINDS = ("parquet", "webdataset", "llava")
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
ROOM = "make room, or choose a folder on another disk"
SPARE = 1.02  # times the size of images and rows: what heads and cards take


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m toolkit export`."""
    parser.add_argument("source", type=Path, help="processed_data.jsonl; with --to rows the folder of an export")
    parser.add_argument("--to", choices=(*KINDS, "rows"), required=True, help="format; rows: back to the kit's own")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; must not exist, or be empty")
    parser.add_argument(
        "--images", type=Path, help="the seed's folder, where image paths start (default: the recipe's)"
    )
    parser.add_argument("--questions", type=Path, help="llava: the seed's stage_1.json, for its questions")
    parser.add_argument(
        "--contamination", type=Path, metavar="DIR", help="for the card: what `check SOURCE --contamination DIR` wrote"
    )
    parser.add_argument("--name", help="of the data set, for its card (default: the folder's)")
    parser.add_argument("--source-of-data", default="", metavar="TEXT", help="for the card: where the seed is from")
    parser.add_argument("--licence", default="", metavar="ID", help="for the card, such as cc-by-4.0")


def run(args: argparse.Namespace) -> None:
    """Write the folder, whole or not at all.

    Raises:
        UserError: a row or image is faulty; the folder holds something; the export is damaged.
    """
    _require_used(args)
    out: Path = args.out.absolute()
    with owner_of(out.parent, f"export-{out.name}"):
        unfinished = out.with_name(f".{out.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        identity = _identity(args)
        if _is_there(args, out, identity):
            print(f"{args.out}: already exported from the same rows and images")
            return
        unfinished.mkdir(parents=True)
        try:
            line = _back(args.source, unfinished) if args.to == "rows" else _export(args, identity, unfinished)
            if out.exists():
                out.rmdir()
            unfinished.rename(out)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            advice = "raise the limit of files' size (ulimit -f)" if error.errno == errno.EFBIG else ROOM
            raise UserError(f"--out {args.out}: {os.strerror(error.errno)}; nothing is left of it; {advice}") from None
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    print(f"{args.out}: {line}")


def _require_used(args: argparse.Namespace) -> None:
    """Refuse options that would have no effect, and a folder where rows are expected."""
    if args.to != "rows" and args.source.is_dir():
        raise UserError(f"{args.source}: a folder; name a processed_data.jsonl, or read an export back with --to rows")
    if args.questions and args.to != "llava":
        raise UserError(f"--questions: has an effect with --to llava alone, found --to {args.to}; leave it out")
    if args.to == "rows":
        names = ("images", "name", "source_of_data", "licence", "contamination")
        for name in filter(lambda name: getattr(args, name), names):
            raise UserError(f"--{name.replace('_', '-')}: has no effect with --to rows; leave it out")


def _identity(args: argparse.Namespace) -> dict[str, str]:
    """What decides an export's files besides its images; nothing that tells of this machine, as it is given away."""
    if args.to == "rows" or not args.source.is_file():
        return {}
    for name in ("name", "licence", "source_of_data"):
        if any(not character.isprintable() for character in getattr(args, name) or ""):
            raise UserError(f"--{name.replace('_', '-')}: expected one line, found {getattr(args, name)!r}")
    identity = {"source": sha256_of(args.source), "format": args.to}
    identity |= {name: getattr(args, name) or "" for name in ("name", "licence", "source_of_data")}
    if args.contamination:
        require_file(
            args.contamination / OVERLAPS,
            f"`{_comparison(args)}` makes it",
        )
        identity["contamination"] = sha256_of(args.contamination / OVERLAPS)
    return identity | ({"questions": sha256_of(args.questions)} if args.questions and args.questions.is_file() else {})


def _comparison(args: argparse.Namespace) -> str:
    return advised("check", args.source, "--images", "DIR", "--contamination", args.contamination)


def _is_there(args: argparse.Namespace, out: Path, identity: dict[str, str]) -> bool:
    """Whether the folder is this very export, whole; one with anything else in it is refused."""
    if not out.exists():
        return False
    if not out.is_dir():
        raise UserError(f"--out {out}: a file; name a folder")
    record = read_json(out / RECORD) if (out / RECORD).is_file() else None
    if identity and isinstance(record, dict) and record.get("identity") == identity:
        from toolkit.export.rows import read_entries

        images = {str(entry.row.image): entry.image for entry in read_entries(args.source, _roots(args)) if entry.image}
        if is_same(images, record["image_stamp"]) and not _damage(out, record["files"]):
            return True
    if any(out.iterdir()):
        raise UserError(
            f"--out {out}: holds something else, or an export of other rows, images or options, or a damaged one; "
            "remove it, or choose another folder"
        )
    return False


def _roots(args: argparse.Namespace) -> ImageRoots:
    images = args.images or _recipes_images(args.source) or args.source.parent
    if not images.is_dir():
        raise UserError(f"--images {images}: no such folder; expected the seed's folder")
    return ImageRoots(seed=images, processed=args.source.parent)


def _recipes_images(file: Path) -> Path | None:
    """The seed's folder, as the record of the recipe that wrote a file names it; None where it is not there."""
    record = record_of(file)
    values = read_json(record) if record.is_file() else None
    if not isinstance(values, dict) or file.name not in values.get("outputs", {}):
        return None
    folder = REPOSITORY / str(values.get("inputs", {}).get("images"))
    return folder if folder.is_dir() else None


def _damage(folder: Path, files: dict[str, str]) -> str | None:
    """Which file of an export is missing or has changed; its card may."""
    for name, sha256 in files.items():
        path = folder / name
        if name != CARD and (not path.is_file() or sha256_of(path) != sha256):
            return f"{path}: {'changed since it was exported' if path.is_file() else 'missing'}"
    return None


def _export(args: argparse.Namespace, identity: dict[str, str], folder: Path) -> str:
    from toolkit.export.card import About, card
    from toolkit.export.formats import WRITERS, Known, ending_of
    from toolkit.export.rows import read_entries, require_readable

    start = time.monotonic()
    file, roots = args.source, _roots(args)
    shared = _shared(args, identity.get("source", ""))
    rows, paths, size = require_readable(file, roots, each_row=args.to != "llava")
    _require_room(args.out, folder, size)
    different, ending = len(paths), ending_of(paths.values())
    originals = load_originals(args.questions) if args.questions else {}
    try:
        WRITERS[args.to](read_entries(file, roots), folder, Known(originals, ending))
    except RowFault as fault:  # of LLaVA's format alone
        raise UserError(f"{file}: {fault}; give the seed's questions (--questions), or export to parquet") from None
    name = args.name or args.out.absolute().name
    about = About(name, args.to, args.licence, args.source_of_data, rows, different, ending, shared)
    (folder / CARD).write_text(card(file, about), encoding="utf-8")
    files = {
        path.relative_to(folder).as_posix(): sha256_of(path) for path in sorted(folder.rglob("*")) if path.is_file()
    }
    record = {
        "command": "export",
        "format": args.to,
        "identity": identity,
        "image_stamp": stamp_of(paths),
        "counts": {"rows": rows, "images": different},
        "files": files,
        "versions": package_versions(),
        "seconds": round(time.monotonic() - start, 1),
    }
    write_json(folder / RECORD, record)
    return f"{rows:,} rows with {different:,} different images as {args.to}, {len(files)} files; its card is README.md"


def _require_room(out: Path, folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < SPARE * size:
        raise UserError(f"--out {out}: takes {SPARE * size / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; {ROOM}")


def _shared(args: argparse.Namespace, sha256: str) -> Shared | None:
    """How many of the rows share something with the evaluation sets, if the user says where that was looked for."""
    if not args.contamination:
        return None
    from toolkit.export.card import shared_rows

    shared = shared_rows(args.contamination / OVERLAPS)
    if shared is None or shared.sha256 != sha256:
        raise UserError(
            f"--contamination {args.contamination}: is of other rows than {args.source}; "
            f"`{_comparison(args)}` compares these"
        )
    return shared


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
    if damage := _damage(source, files):
        raise UserError(f"{damage}; remove the folder and export again")
    counts = read_back(kind, source, folder)
    return f"{counts['rows']:,} rows and {counts['images']:,} images; image paths start from this folder"
