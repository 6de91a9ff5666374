"""`python -m toolkit verify`: check a submission zip, also one made by hand."""

from __future__ import annotations

import argparse
import zipfile
import zlib
from pathlib import Path
from typing import Any

from toolkit.errors import UserError
from toolkit.files import parse_object
from toolkit.submission.archive import tree
from toolkit.submission.layout import ROWS, TRAIN_SCRIPT, image_faults, is_record, layout_faults, member_faults, refuse
from toolkit.submission.logs import fixed_part_faults, script_faults


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m toolkit verify`."""
    parser.add_argument("zip", type=Path, help="submission zip, made by `pack` or by hand")


def run(args: argparse.Namespace) -> None:
    """Check a zip by the rules for its kind, and read every byte of it once.

    Raises:
        UserError: no zip, a damaged one, or not a valid submission.
    """
    if not zipfile.is_zipfile(args.zip):
        raise UserError(f"{args.zip}: not a zip file" if args.zip.is_file() else f"{args.zip}: no such file")
    try:
        with zipfile.ZipFile(args.zip) as archive:
            kind = _check(archive, str(args.zip))
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError) as error:
        raise UserError(f"{args.zip}: damaged ({error}); pack it again") from None
    print(f"{args.zip}: a complete {kind} submission")


def _check(archive: zipfile.ZipFile, path: str) -> str:
    """Check an open zip and print what is in it; returns its kind, online or offline."""
    refuse(member_faults(archive.infolist()), path)
    infos = [info for info in archive.infolist() if not info.is_dir()]
    names = [info.filename for info in infos]
    kind = "offline" if any(name.startswith("output/processed_data/") for name in names) else "online"
    faults = layout_faults(names, kind)
    logs = {name: archive.read(name) for name in names if name.endswith(".log")}
    faults += fixed_part_faults(logs, _records(archive, names))
    if TRAIN_SCRIPT in names:
        faults += script_faults(archive.read(TRAIN_SCRIPT), TRAIN_SCRIPT)
    if ROWS in names:
        with archive.open(ROWS) as lines:
            faults += image_faults(lines, set(names), None)
    refuse(faults, f"{path} ({kind})", "; `python -m toolkit pack` makes a zip of what belongs")
    if broken := archive.testzip():
        raise UserError(f"{path}: {broken} is damaged; pack it again")
    print(tree({info.filename: info.file_size for info in infos}))
    return kind


def _records(archive: zipfile.ZipFile, names: list[str]) -> dict[str, dict[str, Any]]:
    """Records of the evaluations; one that is no JSON object counts as empty."""
    records: dict[str, dict[str, Any]] = {}
    for name in filter(is_record, names):
        try:
            records[name] = parse_object(archive.read(name))
        except ValueError:
            records[name] = {}
    return records
