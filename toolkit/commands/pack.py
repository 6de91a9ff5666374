"""`python -m toolkit pack`: a submission zip of an experiment."""

from __future__ import annotations

import argparse
from pathlib import Path

from toolkit.submission.archive import (
    data_faults,
    members,
    preset_of,
    records_of,
    refuse_experiments,
    size,
    tree,
    write_zip,
)
from toolkit.submission.layout import ROWS, TRAIN_SCRIPT, image_faults, layout_faults, refuse
from toolkit.submission.logs import fixed_part_faults, script_faults


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
        UserError: no such experiment, several presets have it, or its files are no valid submission.
    """
    preset = preset_of(args.experiment, args.preset)
    runs = {stage: preset.run_folder(stage, args.experiment) for stage in ("pretrain", "finetune")}
    refuse_experiments(runs)
    found = dict(members(args.kind, runs))
    faults = layout_faults(found.keys(), args.kind)
    logs = {name: path.read_bytes() for name, path in found.items() if name.endswith(".log")}
    faults += fixed_part_faults(logs, records_of(runs, found))
    if TRAIN_SCRIPT in found:
        faults += script_faults(found[TRAIN_SCRIPT].read_bytes(), TRAIN_SCRIPT)
    if args.kind == "offline" and not faults:
        rows = found[ROWS]
        faults += data_faults(runs["pretrain"], rows)
        with rows.open("rb") as lines:
            faults += image_faults(lines, found.keys(), args.images or preset.seed_images)
    refuse(faults, f"cannot pack {args.experiment}")
    write_zip(found, args.out)
    print(tree({name: path.stat().st_size for name, path in found.items()}))
    print(f"{args.out}: {args.kind} submission of {args.experiment}, {size(args.out.stat().st_size)}")
