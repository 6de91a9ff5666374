"""The files of an experiment that a submission takes along, and the zip they are written to."""

from __future__ import annotations

import shutil
import stat
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from toolkit.errors import UserError
from toolkit.files import REPOSITORY, read_json, sha256_of
from toolkit.presets import PRESETS, Preset, load_preset
from toolkit.processes import unfinished
from toolkit.submission.layout import MODEL_FILES, ROWS, TRAIN_SCRIPT, WEIGHT_SUFFIXES, is_record

# Compressing these costs time and gains nothing.
COMPRESSED_SUFFIXES = (*WEIGHT_SUFFIXES, ".jpg", ".jpeg", ".png", ".webp", ".gif", ".zip", ".gz", ".xlsx", ".parquet")
ZIP_DATE = (1980, 1, 1, 0, 0, 0)
FILES_SHOWN = 4  # of a folder, in the printed tree


def preset_of(experiment: str, name: str | None) -> Preset:
    """The preset an experiment was run with.

    Args:
        experiment: its name.
        name: of the preset; None to find out: the preset whose run of that name exists.

    Raises:
        UserError: there is no such run, or one of each of several presets.
    """
    presets = [load_preset(name)] if name else [load_preset(preset) for preset in PRESETS]
    # full and 10k share their runs' name; what `pack` needs of them is the same but for the seed's folder.
    runs = {preset.run_folder("finetune", experiment): preset for preset in reversed(presets)}
    found = [run for run in runs if (REPOSITORY / "output" / "training_dirs" / run).is_dir()]
    if not found:
        raise UserError(f"{experiment}: no run of that name in output/training_dirs ({' or '.join(sorted(runs))})")
    if len(found) > 1:
        raise UserError(f"{experiment}: {' and '.join(sorted(found))} exist; say which with --preset")
    return runs[found[0]]


def refuse_experiments(runs: dict[str, str]) -> None:
    """Refuse runs that are not finished, or not the fixed training (TRAIN_SEED, PRETRAIN=none, switches).

    Args:
        runs: name of the run folder by stage.

    Raises:
        UserError: names the run.
    """
    for run in (runs["finetune"], runs["pretrain"]):
        folder = REPOSITORY / "output" / "training_dirs" / run
        if not (folder / "run.json").is_file():
            raise UserError(f"{folder}: no run.json there: this stage has not finished; run the training script again")
        if used := read_json(folder / "run.json").get("experiment_only"):
            raise UserError(f"{run} is no submission: it was run with {', '.join(used)}, which is for experiments only")


def records_of(runs: dict[str, str], members: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """Records of both stages and of the evaluations in the zip, by name.

    Args:
        runs: name of the run folder by stage.
        members: as `members` yields them.

    Raises:
        UserError: a record is missing or not JSON.
    """
    stages = [f"output/training_dirs/{run}/run.json" for run in runs.values()]
    return {name: read_json(REPOSITORY / name) for name in [*stages, *(name for name in members if is_record(name))]}


def data_faults(pretrain_run: str, rows: Path) -> list[str]:
    """A fault where `processed_data.jsonl` is not what the run was trained on: another recipe may have replaced it."""
    record = REPOSITORY / "output" / "training_dirs" / pretrain_run / "pretrain_data.run.json"
    if sha256_of(rows) in read_json(record)["inputs"].values():
        return []
    return [f"{ROWS} is not the file {pretrain_run} was trained on; run the recipe of that experiment again"]


def members(kind: str, runs: dict[str, str]) -> Iterator[tuple[str, Path]]:
    """(name in the zip, file) of everything that a submission of this kind, online or offline, takes along."""
    output = REPOSITORY / "output"
    training = output / "training_dirs"
    finetune = f"output/training_dirs/{runs['finetune']}"
    folders = [REPOSITORY / "solution", output / "eval_results" / runs["finetune"]]
    files = [training / runs["pretrain"] / "pretrain.log", training / runs["finetune"] / "finetune.log"]
    if kind == "offline":
        folders.append(output / "processed_data" / "synthetic_images")
        files += [REPOSITORY / ROWS, training / runs["pretrain"] / "mm_projector.bin"]
        files += {path for pattern in MODEL_FILES for path in (REPOSITORY / finetune).glob(pattern)}
    for path in [*files, *(path for folder in folders for path in _files_of(folder))]:
        if path.is_file():
            yield path.relative_to(REPOSITORY).as_posix(), path
    if (REPOSITORY / finetune / "train.sh").is_file():
        yield TRAIN_SCRIPT, REPOSITORY / finetune / "train.sh"


def _files_of(folder: Path) -> Iterator[Path]:
    """Files below a folder, but for hidden ones and what Python and notebooks leave.

    Raises:
        UserError: a symbolic link: its target would be missing in the zip.
    """
    for path in folder.rglob("*"):
        parts = path.relative_to(folder).parts
        if any(part.startswith(".") or part == "__pycache__" for part in parts):
            continue
        if path.is_symlink():
            raise UserError(f"{path} is a symbolic link; put the file itself there")
        yield path


def write_zip(members: dict[str, Path], path: Path) -> None:
    """Write files under their names, sorted and with a fixed date: equal files give an equal zip.

    Files are streamed, so a 10 GB zip needs no more memory than a small one; it appears under `path` when it is whole.
    """
    with unfinished(path) as temporary:
        with zipfile.ZipFile(temporary, "w") as archive:
            for name in sorted(members):
                info = zipfile.ZipInfo(name, ZIP_DATE)
                info.create_system = 3  # Unix, whose permissions follow
                info.external_attr = (stat.S_IFREG | (0o755 if name.endswith(".sh") else 0o644)) << 16
                stored = name.lower().endswith(COMPRESSED_SUFFIXES)
                info.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
                info.file_size = members[name].stat().st_size  # lets zipfile choose zip64 where it must
                with members[name].open("rb") as source, archive.open(info, "w") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
        temporary.replace(path)


def tree(sizes: dict[str, int]) -> str:
    """The folders of a submission with their files and sizes in bytes; of long folders only the first files."""
    folders = defaultdict(list)
    for name in sorted(sizes):
        folders[str(PurePosixPath(name).parent)].append(name)
    lines = []
    for folder in sorted(folders):
        names = folders[folder]
        lines.append(f"{folder}/  {size(sum(sizes[name] for name in names))}")
        shown = names if len(names) <= FILES_SHOWN + 1 else names[:FILES_SHOWN]
        lines += [f"    {PurePosixPath(name).name}  {size(sizes[name])}" for name in shown]
        if len(shown) < len(names):
            lines.append(f"    and {len(names) - len(shown):,} more files")
    return "\n".join(lines)


def size(count: int) -> str:
    """A number of bytes in GB, MB, kB or B, with one decimal."""
    for unit, amount in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= amount:
            return f"{count / amount:.1f} {unit}"
    return f"{count} B"
