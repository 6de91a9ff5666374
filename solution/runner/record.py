"""The record of a run, `run.json`: all that decides its result, and whether a result is up to date."""

import json
import shutil
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from solution.attempts import finished_attempts
from solution.processes import InUseError, owner_of
from solution.runner.files import ROOT, replaced, sha256_of, shown, stamp_of, stamp_of_files
from solution.runner.recipe import Recipe

RESULT = "processed_data.jsonl"
TESTED_DATA_JUICER = "1.6.1"
RECORD = "run.json"
_PACKAGES = ("py-data-juicer", "datasets", "torch", "transformers", "pillow")


def unfinished_folder(audit: Path) -> Path:
    """The folder of the run whose audit this will be, while it is unfinished."""
    return audit.with_suffix(".unfinished")


def stopped_audit(audit: Path) -> Path:
    """The audit of the rows so far, where the last run did not come to its end."""
    return unfinished_folder(audit) / "audit.parquet"


def audits_in(folder: Path) -> dict[str, Path]:
    """Recipe's name -> the audit of its last run, finished or stopped, for each recipe that ran."""
    names = {file.stem for ending in ("parquet", "unfinished") for file in folder.glob(f"*.{ending}")}
    found = {}
    for name in names:
        finished = folder / f"{name}.parquet"
        latest = next(filter(Path.is_file, (stopped_audit(finished), finished)), None)
        if latest:
            found[name] = latest
    return found


def record_of(result: Path) -> Path:
    """The record of a result: `run.json` beside processed_data.jsonl, else a file of the result's own name."""
    return result.with_name(RECORD if result.name == RESULT else f"{result.stem}.{RECORD}")


def describe_inputs(recipe: Recipe, images: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """All that decides the result: inputs with their hashes, configuration, versions of code and packages."""
    datasets = [{"path": shown(file), "sha256": sha256_of(file)} for file in recipe.datasets]
    code = [
        *(ROOT / "solution").rglob("*.py"),
        *(file for path in recipe.operator_paths for file in _python_files(path)),
    ]
    return {
        "inputs": {
            "recipe": {"path": shown(recipe.path), "sha256": sha256_of(recipe.path)},
            "dataset": datasets[0] if len(datasets) == 1 else datasets,
            "images": shown(images),
            "models": {
                name: stamp_of(path) if path.is_dir() else sha256_of(path) for name, path in recipe.models().items()
            },
        },
        "configuration": settings,
        "versions": {
            "python": ".".join(map(str, sys.version_info[:3])),
            **{package: version(package) for package in _PACKAGES},
            "code": {shown(file): sha256_of(file) for file in sorted(set(code))},
        },
    }


def datasets_of(result: Path) -> str:
    """The data set that a result is of, by its record; empty where there is none that tells."""
    try:
        found = json.loads(record_of(result).read_text(encoding="utf-8"))["inputs"]["dataset"]
    except (OSError, ValueError, TypeError, KeyError):
        return ""
    return ", ".join(file["path"] for file in (found if isinstance(found, list) else [found]))


def _python_files(path: Path) -> list[Path]:
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]


def is_done(result: Path, audit: Path, images: Path, inputs: dict[str, Any]) -> bool:
    """Whether the file is the untouched result of the same inputs; ``images`` is the image root."""
    if not record_of(result).is_file() or not result.is_file():
        return False
    try:
        record = json.loads(record_of(result).read_text(encoding="utf-8"))
    except json.JSONDecodeError:
        return False
    return (
        {key: record.get(key) for key in inputs} == inputs
        and record["outputs"][result.name] == sha256_of(result)
        and audit.is_file()
        and record.get("images") == stamp_of_files(images, _seed_images(audit))
    )


def remove_unfinished(result: Path, audit: Path, inputs: dict[str, Any]) -> None:
    """Remove what a run of a finished result's inputs left that was killed after its record was written."""
    folder = unfinished_folder(audit)
    if not finished_attempts(folder, inputs, 0):
        return
    with suppress(InUseError, OSError), owner_of(result.parent):
        shutil.rmtree(folder)


def _seed_images(audit: Path) -> list[str]:
    """As `Ledger.seed_images`, of a finished run."""
    import pyarrow.parquet as pq  # takes a moment, and is needed only where a result may be up to date

    with pq.ParquetFile(audit) as file:  # `read_table`, and `filter` of a table, import pandas
        images, states = (column.to_pylist() for column in file.read(columns=["image", "image_state"]).columns)
    seen = (image for image, state in zip(images, states, strict=True) if state == "seed" and image)
    return list(dict.fromkeys(seen))


def write_record(result: Path, inputs: dict[str, Any], about: dict[str, Any]) -> None:
    """Write the record next to the result: ``inputs``, ``about`` the run, and the result's hash."""
    record = inputs | about | {"outputs": {result.name: sha256_of(result)}}
    with replaced(record_of(result)) as temporary:
        temporary.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
