"""`python -m toolkit pack`: a submission zip of an experiment."""

from __future__ import annotations

import argparse
import time
import zipfile
from pathlib import Path
from typing import Any

from toolkit.dataset.kept_rows import parse_image_hashes
from toolkit.dataset.rows import ImageRoots
from toolkit.errors import UserError, advised
from toolkit.files import REPOSITORY, display_path, package_versions, require_output, sha256_of, write_json
from toolkit.presets import Preset
from toolkit.submission.archive import (
    data_folder,
    kept_rows,
    latest_script,
    members,
    preset_of,
    records_of,
    refuse_experiments,
    seed_folder,
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
    """Gather an experiment's files, check them, write the zip and print what is in it; a record lies beside it.

    What its rows share with the evaluation sets is a warning: what follows from it is for the organisers to say.

    Raises:
        UserError: `--out` is no zip's path; no such experiment, several presets have it, or its files are no valid
            submission.
    """
    start = time.monotonic()
    _require_zip(args.out)
    record = args.out.with_suffix(".run.json")
    require_output(record, args.out)
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
    shared, line = _held_against_the_exams(experiment, args.images or seed_folder(experiment, preset), preset)
    print(line)
    values = {
        "command": "pack",
        "inputs": {names[name]: sha256_of(found[name]) for name in records},
        "outputs": {args.out.name: sha256_of(args.out)},
        "configuration": {"kind": args.kind, "experiment": args.experiment, "preset": preset.name},
        "versions": package_versions(),
        "counts": {"files": len(found), "bytes": args.out.stat().st_size},
        "contamination": shared,
        "seconds": round(time.monotonic() - start, 1),
    }
    write_json(record, values)
    print(f"{args.out}: {args.kind} submission of {args.experiment}, {size(args.out.stat().st_size)}")
    latest = latest_script()
    changed = latest.is_file() and sha256_of(latest) != sha256_of(found[TRAIN_SCRIPT])
    if changed and script_experiment(latest.read_bytes()) == experiment:
        print(f"note: {TRAIN_SCRIPT} was changed after the run; the zip holds {names[TRAIN_SCRIPT]}, as it was run")


def _held_against_the_exams(experiment: Experiment, images: Path, preset: Preset) -> tuple[dict[str, Any], str]:
    """What an experiment's rows share with the evaluation sets, for its record and as a line for a person."""
    from toolkit.contamination.search import MINI_WORLD, compare_remembered  # OpenCV takes a moment

    rows = kept_rows(experiment)
    try:
        found, _ = compare_remembered(rows, ImageRoots(seed=images, processed=data_folder(experiment)), preset)
    except UserError as error:  # a submission needs no evaluation sets here
        return {"not_compared": str(error)}, f"evaluation sets: rows were not compared with them: {error}"
    compared, shared = found.images - len(found.unreadable), found.shared_lines()
    record = shared | {"rows": found.rows, "images_compared": compared, "unreadable": found.unreadable}
    of = f"{found.rows:,} rows with {compared:,} images"
    if found.unreadable:
        of += f" ({len(found.unreadable):,} more cannot be read here)"
    lines = {line for some in shared.values() for line in some}
    if not lines:
        return record, f"evaluation sets: nothing of theirs found in {of}"
    file = display_path(_origin(experiment, rows))
    words = (file, "--images", display_path(images), "--preset", preset.name, "--contamination", "DIR")
    command = advised("check", *words)
    why = f"; {MINI_WORLD}" if found.pairs and not preset.needs_gpu else ""
    return record, (
        f"WARNING: {len(lines):,} of {of} share an image or caption with the evaluation sets; `{command}` shows them, "
        f"evaluation_overlap_filter in a recipe drops them{why}"
    )


def _origin(experiment: Experiment, rows: Path) -> Path:
    """The file that an experiment's rows are a copy of, beside which synthetic images lie, if it still is the same."""
    sha256 = sha256_of(rows)
    for record in records_of(experiment).values():
        for name, value in record.get("inputs", {}).items():
            if value == sha256 and (path := REPOSITORY / name).is_file() and sha256_of(path) == sha256:
                return path
    return rows


def _require_zip(path: Path) -> None:
    """Refuse to write over anything but an earlier zip."""
    require_output(path)
    if path.exists() and not (path.is_file() and zipfile.is_zipfile(path)):
        raise UserError(f"--out {path} exists and is no zip; choose another name")
