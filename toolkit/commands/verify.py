"""`python -m toolkit verify`: check a submission zip, also one made by hand."""

from __future__ import annotations

import argparse
import hashlib
import zipfile
import zlib
from pathlib import Path
from typing import Any

from toolkit.dataset.kept_rows import parse_image_hashes
from toolkit.errors import UserError
from toolkit.files import parse_object, require_file
from toolkit.submission.archive import summary, tree
from toolkit.submission.layout import (
    ROWS,
    TRAIN_SCRIPT,
    Experiment,
    experiments_in,
    image_faults,
    layout_faults,
    member_faults,
    not_needed,
    refuse,
)
from toolkit.submission.logs import fixed_part_faults, script_experiment, script_faults
from toolkit.submission.records import image_list, record_faults, record_names

ADVICE = "; `python -m toolkit pack` makes a zip of what belongs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m toolkit verify`."""
    parser.add_argument("zip", type=Path, help="submission zip, made by `pack` or by hand")


def run(args: argparse.Namespace) -> None:
    """Check a zip by the rules for its kind, and read every byte of it once.

    Raises:
        UserError: no zip, a damaged one, or not a valid submission.
    """
    if args.zip.is_dir():
        raise UserError(f"{args.zip}: a folder, no zip; zip it first: zip -r submit.zip solution/ output/")
    require_file(args.zip, "`python -m toolkit pack` makes it")
    if not zipfile.is_zipfile(args.zip):
        raise UserError(f"{args.zip}: not a zip file, or one that is cut off; pack or copy it again")
    try:
        with zipfile.ZipFile(args.zip) as archive:
            lines = _check(archive, str(args.zip))
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError) as error:
        if isinstance(error, OSError) and error.errno:  # of the machine, which says nothing of the zip
            raise
        raise UserError(f"{args.zip}: damaged ({error}); pack it again") from None
    print("\n".join(lines))


def _check(archive: zipfile.ZipFile, path: str) -> list[str]:
    """Check an open zip; returns lines that say what is in it and what it is."""
    refuse(member_faults(archive.infolist()), path)
    infos = [info for info in archive.infolist() if not info.is_dir()]
    names = [info.filename for info in infos]
    kind = "offline" if any(name.startswith("output/processed_data/") for name in names) else "online"
    script = archive.read(TRAIN_SCRIPT) if TRAIN_SCRIPT in names else b""
    experiment = _experiment(names, script, path)
    extra = set(not_needed(names, kind, experiment))
    faults = layout_faults(names, kind, experiment)
    needed = [name for name in names if name not in extra]
    logs = {name: archive.read(name) for name in needed if name.endswith(".log")}
    records = _records(archive, [name for name in record_names(experiment) if name in names])
    faults += fixed_part_faults(logs, records)
    if script:
        faults += script_faults(script, TRAIN_SCRIPT, experiment)
    if ROWS in names:
        with archive.open(ROWS) as lines:
            faults += image_faults(lines, set(names), None)
    refuse(faults, f"{path} ({kind})", ADVICE)
    if broken := archive.testzip():
        raise UserError(f"{path}: {broken} is damaged; pack it again")
    images = image_list(experiment)
    listed = parse_image_hashes(archive.read(images).decode("utf-8", errors="replace")) if images in names else {}
    refuse(record_faults(experiment, needed, records, listed, lambda name: _sha256(archive, name)), path, ADVICE)
    sizes = {info.filename: info.file_size for info in infos}
    lines = [tree({name: sizes[name] for name in needed})]
    if extra:
        lines.append(summary({name: sizes[name] for name in extra}))
    if missing := [name for name in record_names(experiment) if name not in names]:
        lines.append(
            f"note: without {', '.join(missing)} what they list by hash is not compared; `pack` takes them along"
        )
    return [*lines, f"{path}: a complete {kind} submission of {experiment.name}"]


def _experiment(names: list[str], script: bytes, path: str) -> Experiment:
    """Whose submission a zip is: the experiment of its output/train.sh, or the only one in it.

    Raises:
        UserError: none is there, or the script names none of several.
    """
    found, named = experiments_in(names), script_experiment(script)
    if not found:
        raise UserError(f"{path}: no log and no answers of any experiment below output/{ADVICE}")
    if named in found:
        return named
    if len(found) > 1:
        several = ", ".join(f"{experiment.run} {experiment.name}" for experiment in found)
        raise UserError(f"{path}: several experiments at once ({several}), of which {TRAIN_SCRIPT} names none{ADVICE}")
    return found[0]


def _sha256(archive: zipfile.ZipFile, name: str) -> str:
    digest = hashlib.sha256()
    with archive.open(name) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _records(archive: zipfile.ZipFile, names: list[str]) -> dict[str, dict[str, Any]]:
    """Records by name; one that is no JSON object counts as empty."""
    records: dict[str, dict[str, Any]] = {}
    for name in names:
        try:
            records[name] = parse_object(archive.read(name))
        except ValueError:
            records[name] = {}
    return records
