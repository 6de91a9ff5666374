"""Run a Data-Juicer recipe on the seed and write `processed_data.jsonl`.

    python solution/process.py --recipe solution/recipes/mini.yaml
    python solution/process.py report mini
    python solution/process.py operators

The second form makes a page about the last run of a recipe, the third lists Data-Juicer's operators. Does not judge
whether rows can be trained on: `python -m toolkit check` does, on the file written here.
"""

import sys
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # run as a script, this folder is on the path, not the root

from solution.entry import begin, run

if __name__ == "__main__":  # first of all: what follows cannot be imported without the packages
    begin(("data_juicer", "torch", "transformers", "pyarrow"))

import argparse
import os
import time
from contextlib import ExitStack
from importlib.metadata import version
from typing import Any

from solution.processes import InUseError, end_forks_with_this_process, owner_of
from solution.runner.errors import UserError
from solution.runner.files import ROOT, shown
from solution.runner.recipe import Recipe, load_recipe
from solution.runner.record import (
    RECORD,
    RESULT,
    TESTED_DATA_JUICER,
    audits_in,
    describe_inputs,
    is_done,
    unfinished_folder,
    write_record,
)  # fmt: skip


def parse_arguments() -> argparse.Namespace:  # Python 2 stops here: use python3
    """The command line."""
    parser = argparse.ArgumentParser(description="Run a Data-Juicer recipe on the seed; writes processed_data.jsonl.")
    parser.add_argument("--recipe", type=Path, required=True, help="the recipe, a YAML file")
    parser.add_argument("--dataset", type=Path, help="the seed's jsonl (default: the recipe's dataset_path)")
    parser.add_argument(
        "--images", type=Path, help="folder that image paths start from (default: the data set's folder)"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "processed_data", help="folder of the result")
    parser.add_argument("--on-error", choices=("stop", "skip"), default="skip", help="at a bad row (default: skip it)")
    parser.add_argument(
        "--max-failed",
        type=_share,
        default=0.05,
        metavar="SHARE",
        help="stop where a step fails more of its rows, and more than 20 (default: 0.05)",
    )
    parser.add_argument("--executor", choices=("local", "ray"), default="local", help="where operators run")
    parser.add_argument("--ray-address", metavar="HOST:PORT", help="a running Ray cluster (default: start one here)")
    parser.add_argument("--overwrite", action="store_true", help="run again even where the result is already there")
    return parser.parse_args()


def _share(text: str) -> float:
    """A share of rows, 0 to 1. Raises ValueError for another text."""
    share = float(text)
    if not 0 <= share <= 1:
        raise ValueError
    return share


def parse_report_arguments(words: list[str]) -> argparse.Namespace:
    """The command line after `report`."""
    parser = argparse.ArgumentParser(prog="process.py report", description="One HTML page about a finished run.")
    parser.add_argument("recipe", nargs="?", help="the recipe's file or name (default: the one that ran last)")
    parser.add_argument("--images", type=Path, help="folder that image paths start from (default: as in the run)")
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "processed_data", help="the run's --output")
    return parser.parse_args(words)


def parse_operators_arguments(words: list[str]) -> argparse.Namespace:
    """The command line after `operators`."""
    parser = argparse.ArgumentParser(
        prog="process.py operators", description="Data-Juicer's operators and their needs."
    )
    parser.add_argument("--markdown", action="store_true", help="as the table in docs/operators.md")
    return parser.parse_args(words)


def main() -> None:
    """Run the recipe or report on it; a user's mistake ends in one line on stderr and exit status 1."""
    try:
        if sys.argv[1:2] == ["report"]:
            report(parse_report_arguments(sys.argv[2:]))
        elif sys.argv[1:2] == ["operators"]:
            list_operators(parse_operators_arguments(sys.argv[2:]))
        else:
            process(parse_arguments())
    except (UserError, InUseError) as error:
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
    warn_of_untested_version()
    set_environment(recipe, output.parent / "scores")
    # Imported here, as it takes seconds: Data-Juicer, torch and the operators.
    from solution.runner.produced import send_to_the_run
    from solution.runner.run import Run, expect_images, log_to

    audit = output.parent / "audit" / f"{recipe.name}.parquet"
    with ExitStack() as stack:
        stack.enter_context(owner_of(output))
        send_to_the_run(unfinished_folder(audit))
        expect_images(images)
        log_to(audit.with_suffix(".log"))
        end_forks_with_this_process()
        executor = None
        if arguments.executor == "ray":
            from solution.runner.ray_executor import RayExecutor

            executor = stack.enter_context(RayExecutor(recipe, str(output), arguments.ray_address))
        run = Run(
            recipe,
            images,
            output / RESULT,
            audit,
            inputs,
            arguments.on_error,
            arguments.overwrite,
            arguments.max_failed,
            executor,
        )

        def record(counts: dict[str, Any]) -> None:
            seconds = round(time.monotonic() - started, 1)
            write_record(output, inputs, counts | {"executor": arguments.executor, "seconds": seconds})

        run.execute(record)
    print(f"rows: {shown(output / RESULT)}; audit of every row: {shown(audit)}; record: {shown(output / RECORD)}")


def list_operators(arguments: argparse.Namespace) -> None:
    """Print what Data-Juicer's operators need to run here."""
    from solution.runner.catalogue import entries, markdown  # imports all operators

    if arguments.markdown:
        print(markdown(), end="")
        return
    for entry in entries():
        needs = ", ".join((*entry.packages, *entry.models))
        print(f"{entry.name:50} {entry.verdict}{f': {needs}' if needs else ''}")


def report(arguments: argparse.Namespace) -> None:
    """Write the page next to the run's audit. Raises UserError where there is no audit."""
    folder = arguments.output.absolute().parent / "audit"
    found = audits_in(folder)
    if not found and not arguments.recipe:
        raise UserError(f"no audit in {shown(folder)}: run a recipe first (--recipe FILE)")
    latest = max(found, key=lambda name: found[name].stat().st_mtime, default="")
    name = Path(arguments.recipe).stem if arguments.recipe else latest
    audit = found.get(name, folder / f"{name}.parquet")
    from solution.report.report import write_report  # the image and table libraries take a second

    page = audit.with_suffix(".html")
    missing = write_report(audit, name, arguments.images, page)
    print(f"report: {shown(page)}")
    if missing:
        print(f"note: {missing} of its images cannot be read: --images DIR says where they are", file=sys.stderr)


def warn_of_untested_version() -> None:
    """One line on stderr under a Data-Juicer that the runner's adapter was not tested with."""
    found = version("py-data-juicer")
    if found != TESTED_DATA_JUICER:
        print(
            f"note: Data-Juicer {found} is untested here, {TESTED_DATA_JUICER} is tested: "
            f"pip install py-data-juicer=={TESTED_DATA_JUICER}",
            file=sys.stderr,
        )


def set_environment(recipe: Recipe, scores: Path) -> None:
    """Where scores are kept; no packages installed by Data-Juicer; a silent model hub where all models are local."""
    os.environ.setdefault("SCORE_STORE", str(scores))
    os.environ |= {"UV_OFFLINE": "1", "PIP_NO_INDEX": "1", "TOKENIZERS_PARALLELISM": "false"}
    os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "TQDM_LEAVE": ""}  # tqdm: a finished bar goes away
    models = [value for _, params in recipe.process for key, value in params.items() if key.startswith("hf_")]
    if models and all(Path(model).is_absolute() for model in models):
        os.environ["HF_HUB_OFFLINE"] = "1"


if __name__ == "__main__":
    run(main)
