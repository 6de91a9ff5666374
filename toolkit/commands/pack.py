"""`python -m toolkit pack`: a submission zip of an experiment."""

from __future__ import annotations

import argparse
import zipfile
from pathlib import Path

from toolkit.dataset.kept_rows import parse_image_hashes
from toolkit.errors import UserError
from toolkit.files import display_path, require_output, sha256_of
from toolkit.submission.archive import (
    latest_script,
    members,
    preset_of,
    records_of,
    refuse_experiments,
    size,
    tree,
    write_zip,
)
from toolkit.submission.layout import ROWS, TRAIN_SCRIPT, Experiment, image_faults, layout_faults, refuse
from toolkit.submission.logs import fixed_part_faults, script_experiment, script_faults
from toolkit.submission.records import image_list, record_faults, record_names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m toolkit pack`."""
    parser.add_argument("kind", choices=("online", "offline"), help="offline adds the data and the weights")
    parser.add_argument("experiment", metavar="EXP", help="name of the experiment")
    parser.add_argument("--preset", help="full, 10k, mini or a YAML file (default: the one whose run EXP is)")
    parser.add_argument("--images", type=Path, help="the seed's folder, for offline (default: the preset's)")
    parser.add_argument("--out", type=Path, default=Path("submit.zip"), help="zip to write (%(default)s)")


def run(args: argparse.Namespace) -> None:
    """Gather an experiment's files, check them, write the zip and print what is in it.

    Raises:
        UserError: `--out` is no zip's path; no such experiment, several presets have it, or its files are no valid
            submission.
    """
    _require_zip(args.out)
    preset = preset_of(args.experiment, args.preset)
    experiment = Experiment(preset.run_name, args.experiment)
    refuse_experiments(experiment)
    found = dict(members(args.kind, experiment))
    names = {name: display_path(path) for name, path in found.items()}
    faults = layout_faults(found.keys(), args.kind, experiment)
    logs = {name: path.read_bytes() for name, path in found.items() if name.endswith(".log")}
    records = records_of(experiment)
    faults += [f"{name} is missing" for name in record_names(experiment) if name not in records]
    faults += fixed_part_faults(logs, records)
    if TRAIN_SCRIPT in found:
        faults += script_faults(found[TRAIN_SCRIPT].read_bytes(), names[TRAIN_SCRIPT], experiment)
    images = found.get(image_list(experiment))
    listed = parse_image_hashes(images.read_text(encoding="utf-8", errors="replace")) if images else {}
    if not faults:
        faults += record_faults(
            experiment, found.keys(), records, listed, lambda name: sha256_of(found[name]), names.__getitem__
        )
    if args.kind == "offline" and not faults:
        with found[ROWS].open("rb") as lines:
            faults += image_faults(lines, found.keys(), args.images or preset.seed_images)
    refuse(faults, f"cannot pack {args.experiment}")
    write_zip(found, args.out)
    print(tree({name: path.stat().st_size for name, path in found.items()}))
    print(f"{args.out}: {args.kind} submission of {args.experiment}, {size(args.out.stat().st_size)}")
    latest = latest_script()
    changed = latest.is_file() and sha256_of(latest) != sha256_of(found[TRAIN_SCRIPT])
    if changed and script_experiment(latest.read_bytes()) == experiment:
        print(f"note: {TRAIN_SCRIPT} was changed after the run; the zip holds {names[TRAIN_SCRIPT]}, as it was run")


def _require_zip(path: Path) -> None:
    """Refuse to write over anything but an earlier zip."""
    require_output(path)
    if path.exists() and not (path.is_file() and zipfile.is_zipfile(path)):
        raise UserError(f"--out {path} exists and is no zip; choose another name")
