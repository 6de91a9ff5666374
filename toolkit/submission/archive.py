"""The files of an experiment that a submission takes along, and the zip they are written to."""

from __future__ import annotations

import shutil
import stat
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from toolkit.dataset.kept_rows import synthetic_images
from toolkit.dataset.rows import read_rows
from toolkit.errors import UserError
from toolkit.files import REPOSITORY, read_json
from toolkit.presets import PRESETS, Preset, load_preset
from toolkit.processes import unfinished
from toolkit.submission.layout import MODEL_FILES, ROWS, TRAIN_SCRIPT, WEIGHT_SUFFIXES, Experiment
from toolkit.submission.records import image_list, record_names

# Compressing these costs time and gains nothing.
COMPRESSED_SUFFIXES = (*WEIGHT_SUFFIXES, ".jpg", ".jpeg", ".png", ".webp", ".gif", ".zip", ".gz", ".xlsx", ".parquet")
ZIP_DATE = (1980, 1, 1, 0, 0, 0)
EXTRAS_SHOWN = 12
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
        raise UserError(
            f"{experiment}: no run of that name in output/training_dirs ({' or '.join(sorted(runs))}); "
            + (f"there are: {', '.join(there)}" if (there := _experiments(presets)) else "train one first")
        )
    if len(found) > 1:
        raise UserError(f"{experiment}: {' and '.join(sorted(found))} exist; say which with --preset")
    return runs[found[0]]


def _experiments(presets: list[Preset]) -> list[str]:
    """Names of the experiments that have a finetuning run of one of the presets."""
    starts = {preset.run_folder("finetune", "") for preset in presets}
    folders = (REPOSITORY / "output" / "training_dirs").glob("*/")
    return sorted(
        {folder.name.removeprefix(start) for folder in folders for start in starts if folder.name.startswith(start)}
    )


def refuse_experiments(experiment: Experiment) -> None:
    """Refuse runs that are not finished, or not the fixed training (TRAIN_SEED, PRETRAIN=none, switches).

    Raises:
        UserError: names the run.
    """
    for folder in (REPOSITORY / experiment.finetune, REPOSITORY / experiment.pretrain):
        if not (folder / "run.json").is_file():
            raise UserError(f"{folder}: no run.json there: this stage has not finished; run the training script again")
        if used := _record(folder / "run.json").get("experiment_only"):
            raise UserError(
                f"{folder.name} is no submission: it was run with {', '.join(map(str, used))}, for experiments only"
            )


def records_of(experiment: Experiment) -> dict[str, dict[str, Any]]:
    """Records of an experiment by name, those that are there.

    Raises:
        UserError: one is damaged.
    """
    return {name: _record(REPOSITORY / name) for name in record_names(experiment) if (REPOSITORY / name).is_file()}


def _record(path: Path) -> dict[str, Any]:
    record = read_json(path)
    if not isinstance(record, dict) or not isinstance(record.get("experiment_only", []), list):
        raise UserError(f"{path}: damaged, no record of a run")
    return record


def data_folder(experiment: Experiment) -> Path:
    """The folder that `processed_data.jsonl` lay in when an experiment was started; holds its synthetic images."""
    return _folder_used(experiment, "synthetic_images") or REPOSITORY / PurePosixPath(ROWS).parent


def seed_folder(experiment: Experiment, preset: Preset) -> Path:
    """The seed's folder that an experiment was started with; holds all other images."""
    return _folder_used(experiment, "images") or preset.seed_images


def _folder_used(experiment: Experiment, key: str) -> Path | None:
    record = REPOSITORY / experiment.pretrain / "run.json"
    configuration = _record(record).get("configuration") if record.is_file() else None
    folder = configuration.get(key) if isinstance(configuration, dict) else None
    used = REPOSITORY / str(folder)
    return used if folder and used.is_dir() else None


def kept_rows(experiment: Experiment) -> Path:
    """The rows that an experiment was trained with, as it kept them; another recipe may have replaced the original."""
    return REPOSITORY / experiment.pretrain / "pretrain_data.rows.jsonl"


def members(kind: str, experiment: Experiment) -> Iterator[tuple[str, Path]]:
    """(name in the zip, file) of everything that a submission of this kind, online or offline, takes along."""
    pretrain, finetune = REPOSITORY / experiment.pretrain, REPOSITORY / experiment.finetune
    files = [REPOSITORY / name for name in record_names(experiment)]
    files += [pretrain / "pretrain.log", finetune / "finetune.log"]
    for folder in (REPOSITORY / "solution", REPOSITORY / experiment.results):
        files += _files_of(folder)
    if kind == "offline":
        files += [pretrain / "mm_projector.bin", REPOSITORY / image_list(experiment)]
        files += {path for pattern in MODEL_FILES for path in finetune.glob(pattern)}
        rows = kept_rows(experiment)
        yield from (item for item in ((ROWS, rows),) if rows.is_file())
        folder = data_folder(experiment)
        for name in synthetic_images(line for _, line in read_rows(rows)) if rows.is_file() else ():
            if (folder / name).is_file():
                yield str(PurePosixPath(ROWS).parent / name), _no_link(folder / name)
    for path in files:
        if path.is_file():
            yield path.relative_to(REPOSITORY).as_posix(), path
    if (finetune / "train.sh").is_file():
        yield TRAIN_SCRIPT, finetune / "train.sh"


def latest_script() -> Path:
    """The script of whichever experiment was run last."""
    return REPOSITORY / TRAIN_SCRIPT


def _no_link(path: Path) -> Path:
    if path.is_symlink():
        raise UserError(f"{path} is a symbolic link; put the file itself there")
    return path


def _files_of(folder: Path) -> Iterator[Path]:
    """Files below a folder, but for hidden ones and what Python and notebooks leave.

    Raises:
        UserError: a symbolic link: its target would be missing in the zip.
    """
    for path in folder.rglob("*"):
        parts = path.relative_to(folder).parts
        if any(part.startswith(".") or part == "__pycache__" for part in parts):
            continue
        yield _no_link(path)


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


def summary(sizes: dict[str, int]) -> str:
    """Folders of files that the referee does not need, at most three deep, with their sizes in bytes; largest first."""
    folders: dict[str, list[int]] = defaultdict(list)
    for name, count in sizes.items():
        parts = PurePosixPath(name).parts
        folders["/".join(parts[:3]) + "/" * (len(parts) > 3)].append(count)
    lines = [f"not needed by the referee: {size(sum(sizes.values()))}"]
    for folder, counts in sorted(folders.items(), key=lambda item: -sum(item[1]))[:EXTRAS_SHOWN]:
        lines.append(f"    {folder}  {size(sum(counts))}")
    if len(folders) > EXTRAS_SHOWN:
        lines.append(f"    and {len(folders) - EXTRAS_SHOWN} more")
    return "\n".join(lines)
