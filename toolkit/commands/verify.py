"""`python -m toolkit verify`: a submission zip looked over, also one made by hand."""

from __future__ import annotations

import argparse
import zipfile
from pathlib import Path

from toolkit.errors import UserError
from toolkit.submission.archive import tree
from toolkit.submission.layout import ROWS, image_faults, layout_faults, log_faults, member_faults, refuse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m toolkit verify`."""
    parser.add_argument("zip", type=Path, help="submission zip, made by `pack` or by hand")


def run(args: argparse.Namespace) -> None:
    """Hold a zip against the rules for the kind it is, and read every byte of it once."""
    if not zipfile.is_zipfile(args.zip):
        raise UserError(f"{args.zip}: not a zip file" if args.zip.is_file() else f"{args.zip}: no such file")
    with zipfile.ZipFile(args.zip) as archive:
        refuse(member_faults(archive.infolist()), str(args.zip))
        infos = [info for info in archive.infolist() if not info.is_dir()]
        names = [info.filename for info in infos]
        kind = "offline" if any(name.startswith("output/processed_data/") for name in names) else "online"
        faults = layout_faults(names, kind)
        faults += log_faults({name: archive.read(name) for name in names if name.endswith(".log")})
        if ROWS in names:
            with archive.open(ROWS) as lines:
                faults += image_faults(lines, set(names), None)
        refuse(faults, f"{args.zip} ({kind})", "; `python -m toolkit pack` makes a zip of what belongs")
        try:
            broken = archive.testzip()
        except (zipfile.BadZipFile, OSError, EOFError) as error:
            raise UserError(f"{args.zip}: damaged ({error}); pack it again") from None
        if broken:
            raise UserError(f"{args.zip}: {broken} is damaged; pack it again")
        print(tree({info.filename: info.file_size for info in infos}))
    print(f"{args.zip}: a whole {kind} submission")
