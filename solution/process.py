"""Run a Data-Juicer recipe on the seed and write `processed_data.jsonl`.

    python solution/process.py --recipe solution/recipes/mini.yaml
    python solution/process.py report mini

The second form makes a page about the last run of a recipe. Does not judge whether rows can be trained on:
`python -m toolkit check` does, on the file written here.
"""

import argparse
import json
import os
import sys
import time
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # run as a script, this folder is on the path, not the root

from solution.runner.errors import UserError
from solution.runner.files import ROOT, replaced, sha256_of, shown, stamp_of
from solution.runner.recipe import Recipe, load_recipe

RESULT = "processed_data.jsonl"
PACKAGES = ("py-data-juicer", "datasets", "torch", "transformers", "pillow")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Run a Data-Juicer recipe on the seed; writes processed_data.jsonl.")
    parser.add_argument("--recipe", type=Path, required=True, help="the recipe, a YAML file")
    parser.add_argument("--dataset", type=Path, help="the seed's jsonl (default: the recipe's dataset_path)")
    parser.add_argument(
        "--images", type=Path, help="folder that image paths start from (default: the data set's folder)"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "processed_data", help="folder of the result")
    parser.add_argument("--on-error", choices=("stop", "skip"), default="skip", help="at a bad row (default: skip it)")
    parser.add_argument("--executor", choices=("local", "ray"), default="local", help="where operators run")
    parser.add_argument("--ray-address", metavar="HOST:PORT", help="a running Ray cluster (default: start one here)")
    parser.add_argument("--overwrite", action="store_true", help="run again even where the result is already there")
    return parser.parse_args()


def parse_report_arguments(words: list[str]) -> argparse.Namespace:
    """The command line behind `report`."""
    parser = argparse.ArgumentParser(prog="process.py report", description="One HTML page about a finished run.")
    parser.add_argument("recipe", nargs="?", help="the recipe's file or name (default: the one that ran last)")
    parser.add_argument("--images", type=Path, help="folder that image paths start from (default: as in the run)")
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "processed_data", help="the run's --output")
    return parser.parse_args(words)


def main() -> None:
    """Run the recipe or report on it; a user's mistake ends in one line on stderr and exit status 1."""
    try:
        if sys.argv[1:2] == ["report"]:
            report(parse_report_arguments(sys.argv[2:]))
        else:
            process(parse_arguments())
    except UserError as error:
        sys.exit(f"error: {error}")


def process(arguments: argparse.Namespace) -> None:
    """Check the recipe, run it unless its result is already there, print the funnel. Raises UserError."""
    started = time.monotonic()
    if arguments.ray_address and arguments.executor != "ray":
        raise UserError("--ray-address is for --executor ray: give both or neither")
    recipe = load_recipe(arguments.recipe.absolute(), arguments.dataset)
    output = arguments.output.absolute()
    images = (arguments.images or recipe.dataset.parent).absolute()
    inputs = describe_inputs(recipe, images, arguments.on_error)
    if not arguments.overwrite and is_done(output, inputs):
        print(
            f"already done: {shown(output / RESULT)} is this recipe's result on these inputs; --overwrite runs it again"
        )
        return
    set_environment(recipe, output.parent / "scores")
    # Only now what takes seconds: Data-Juicer, torch and the operators.
    from solution.runner.run import Run, log_to

    audit = output.parent / "audit" / f"{recipe.name}.parquet"
    log_to(audit.with_suffix(".log"))
    with ExitStack() as stack:
        cluster = None
        if arguments.executor == "ray":
            from solution.runner.ray_executor import Cluster

            cluster = stack.enter_context(Cluster(recipe, str(output), arguments.ray_address))
        run = Run(recipe, images, output / RESULT, audit, inputs, arguments.on_error, arguments.overwrite, cluster)
        counts = run.execute()
    record = inputs | counts | {
        "outputs": {RESULT: sha256_of(output / RESULT)},
        "executor": arguments.executor,
        "seconds": round(time.monotonic() - started, 1),
    }  # fmt: skip
    with replaced(output / "run.json") as temporary:
        temporary.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"rows: {shown(output / RESULT)}; every row's fate: {shown(audit)}; record: {shown(output / 'run.json')}")


def report(arguments: argparse.Namespace) -> None:
    """Write the page beside the run's audit. Raises UserError where there is no audit."""
    folder = arguments.output.absolute().parent / "audit"
    audits = sorted(folder.glob("*.parquet"), key=lambda file: file.stat().st_mtime)
    if not audits and not arguments.recipe:
        raise UserError(f"no audit in {shown(folder)}: run a recipe first (--recipe FILE)")
    audit = folder / f"{Path(arguments.recipe).stem}.parquet" if arguments.recipe else audits[-1]
    from solution.report.report import (
        write_report,  # Data-Juicer and with it torch: seconds that --help does not need
    )

    page = audit.with_suffix(".html")
    write_report(audit, arguments.images, page)
    print(f"report: {shown(page)}")


def describe_inputs(recipe: Recipe, images: Path, on_error: str) -> dict[str, Any]:
    """All that decides the result: inputs with their hashes, configuration, versions of code and packages."""
    code = [
        *(ROOT / "solution").rglob("*.py"),
        *(file for path in recipe.operator_paths for file in _python_files(path)),
    ]
    return {
        "inputs": {
            "recipe": {"path": shown(recipe.path), "sha256": sha256_of(recipe.path)},
            "dataset": {"path": shown(recipe.dataset), "sha256": sha256_of(recipe.dataset)},
            "images": shown(images),
            "models": {name: stamp_of(folder) for name, folder in recipe.models().items()},
        },
        "configuration": {"on_error": on_error},
        "versions": {
            "python": ".".join(map(str, sys.version_info[:3])),
            **{package: version(package) for package in PACKAGES},
            "code": {shown(file): sha256_of(file) for file in sorted(set(code))},
        },
    }


def _python_files(path: Path) -> list[Path]:
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]


def is_done(output: Path, inputs: dict[str, Any]) -> bool:
    """Whether the folder holds the untouched result of the same inputs."""
    record_file, result = output / "run.json", output / RESULT
    if not record_file.is_file() or not result.is_file():
        return False
    try:
        record = json.loads(record_file.read_text(encoding="utf-8"))
    except json.JSONDecodeError:
        return False
    return {key: record.get(key) for key in inputs} == inputs and record["outputs"][RESULT] == sha256_of(result)


def set_environment(recipe: Recipe, scores: Path) -> None:
    """Where scores are kept; no packages installed by Data-Juicer; a silent model hub where all models are local."""
    os.environ.setdefault("SCORE_STORE", str(scores))
    os.environ |= {"UV_OFFLINE": "1", "PIP_NO_INDEX": "1", "TOKENIZERS_PARALLELISM": "false"}
    os.environ |= {"TRANSFORMERS_VERBOSITY": "error"}
    models = [value for _, params in recipe.process for key, value in params.items() if key.startswith("hf_")]
    if models and all(Path(model).is_absolute() for model in models):
        os.environ["HF_HUB_OFFLINE"] = "1"


if __name__ == "__main__":
    main()
