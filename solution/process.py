"""Run a Data-Juicer recipe on the seed and write `processed_data.jsonl`.

    python solution/process.py --recipe solution/recipes/mini.yaml
    python solution/process.py check mini
    python solution/process.py analyze mini
    python solution/process.py report mini
    python solution/process.py operators

The second form reads a recipe and says what is wrong with it; the third scores all rows and drops none, for a page on
which to choose thresholds; the fourth makes a page about the last run of a recipe, the fifth lists Data-Juicer's
operators. Does not judge whether rows can be trained on:
`python -m toolkit check` does, on the file written here.
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
import shlex
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import partial
from importlib.metadata import version
from typing import Any

from solution.arguments import Arguments
from solution.attempts import finished_attempts
from solution.processes import InUseError, end_forks_with_this_process, owner_of, temporary_files
from solution.runner.configuration.dataset_files import DataSet
from solution.runner.configuration.keys import clipped, known_keys
from solution.runner.configuration.parameters import check_operators
from solution.runner.configuration.places import nearest
from solution.runner.errors import UserError
from solution.runner.files import ROOT, shown
from solution.runner.recipe import Recipe, load_recipe
from solution.runner.record import (
    RESULT,
    TESTED_DATA_JUICER,
    audits_in,
    datasets_of,
    describe_inputs,
    is_done,
    record_of,
    remove_unfinished,
    unfinished_folder,
    write_record,
)  # fmt: skip
from solution.terminal import visible

# An option of `dj-process` -> its name here; the others are keys of a recipe.
OF_DATA_JUICER = {
    "config": "--recipe",
    "dataset": "--dataset",
    "dataset_path": "--dataset",
    "export_path": "--output",
    "executor_type": "--executor",
}


class RecipeArguments(Arguments):
    """Arguments of a command on recipes, which also knows the options of `dj-process`."""

    def advice(self, name: str) -> str:  # Python 2 stops here: use python3
        """What to type in place of an unknown option: its name here, or the recipe's key, where it is Data-Juicer's."""
        key = name.lstrip("-").replace("-", "_").partition(".")[0]
        here = OF_DATA_JUICER.get(key, f"--{key.replace('_', '-')}")
        if here in self._option_string_actions:
            return f"{name} is {here} here"
        if key == "config":
            return f"the recipe is a word of its own here: {self.prog} RECIPE"
        return f"{name} is a key of the recipe here, {key}: ..." if key in known_keys() else super().advice(name)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = RecipeArguments(
        description="Run a Data-Juicer recipe on the seed; writes processed_data.jsonl.",
        epilog="`process.py check RECIPE` reads it and runs nothing; `process.py analyze [RECIPE]` scores all rows and "
        "drops none, for a page on which to choose thresholds; `process.py report [RECIPE]` makes a page about a "
        "finished run; each has its own --help.",
    )
    parser.add_argument("--recipe", type=Path, required=True, help="the recipe: a YAML file, or a name such as mini")
    _add_options(parser)
    return parser.parse_args(sys.argv[1:])


def _add_options(parser: argparse.ArgumentParser) -> None:
    """The options that a run and an analysis share."""
    parser.add_argument(
        "--dataset",
        type=Path,
        nargs="+",
        help="the seed: .jsonl, .json or .parquet (default: the recipe's dataset_path)",
    )
    parser.add_argument(
        "--images", type=Path, help="folder that image paths start from (default: the data set's folder)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="folder of the result (default: the recipe's export_path, else output/processed_data)",
    )
    parser.add_argument("--on-error", choices=("stop", "skip"), help="at a bad row (default: skip it)")
    parser.add_argument(
        "--max-failed",
        type=_share,
        metavar="SHARE",
        help="stop where a step fails more of its rows, and more than 20 (default: the recipe's max_failed, else 0.05)",
    )
    parser.add_argument("--executor", choices=("local", "ray"), help="where operators run (default: the recipe's)")
    parser.add_argument("--limit", type=int, metavar="N", help="a trial of the first N rows, which is no submission")
    parser.add_argument("--ray-address", metavar="HOST:PORT", help="a running Ray cluster (default: start one here)")
    parser.add_argument("--overwrite", action="store_true", help="run again even where the result is already there")


def parse_analyze_arguments(words: list[str]) -> argparse.Namespace:
    """The command line after `analyze`."""
    parser = RecipeArguments(
        prog="process.py analyze",
        description="Score all rows by every filter of a recipe, drop none, and make a page on which to choose "
        "thresholds. It lies in the folder analysis beside that of the result, which is not touched.",
    )
    parser.add_argument(
        "recipe", type=Path, nargs="?", default=Path("first_look"),
        help="the recipe's file or name (default: first_look, which needs no model)",
    )  # fmt: skip
    _add_options(parser)
    return parser.parse_args(words)


def _share(text: str) -> float:
    """A share of rows, 0 to 1. Raises ArgumentTypeError for another text."""
    with suppress(ValueError):
        if 0 <= float(text) <= 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"expected a share from 0 to 1, such as 0.1, found {text}")


def parse_check_arguments(words: list[str]) -> argparse.Namespace:
    """The command line after `check`."""
    parser = RecipeArguments(
        prog="process.py check", description="Read recipes and say what is wrong with them; runs and writes nothing."
    )
    parser.add_argument("recipes", type=Path, nargs="+", metavar="RECIPE", help="a recipe's file or name")
    parser.add_argument("--dataset", type=Path, nargs="+", help="the seed (default: each recipe's dataset_path)")
    return parser.parse_args(words)


def parse_report_arguments(words: list[str]) -> argparse.Namespace:
    """The command line after `report`."""
    parser = RecipeArguments(prog="process.py report", description="One HTML page about a finished run.")
    parser.add_argument("recipe", nargs="?", help="the recipe's file or name (default: the one that ran last)")
    parser.add_argument("--images", type=Path, help="folder that image paths start from (default: as in the run)")
    parser.add_argument("--output", type=Path, help="the run's --output")
    parser.add_argument(
        "--compare", metavar="OTHER", help="another recipe's run, or an audit's file: what one keeps and the other not"
    )
    return parser.parse_args(words)


def parse_operators_arguments(words: list[str]) -> argparse.Namespace:
    """The command line after `operators`."""
    parser = RecipeArguments(prog="process.py operators", description="Data-Juicer's operators and their needs.")
    parser.add_argument("--markdown", action="store_true", help="as the table in docs/operators.md")
    return parser.parse_args(words)


def main() -> None:
    """Run the recipe or report on it; a user's mistake ends in one line on stderr and exit status 1."""
    try:
        if sys.argv[1:2] == ["check"]:
            check(parse_check_arguments(sys.argv[2:]))
        elif sys.argv[1:2] == ["report"]:
            report(parse_report_arguments(sys.argv[2:]))
        elif sys.argv[1:2] == ["analyze"]:
            process(parse_analyze_arguments(sys.argv[2:]), is_analysis=True)
        elif sys.argv[1:2] == ["operators"]:
            list_operators(parse_operators_arguments(sys.argv[2:]))
        elif sys.argv[1:] and not sys.argv[1].startswith("-"):
            word = clipped(sys.argv[1])
            near = nearest(word, ["check", "analyze", "report", "operators"])
            is_near = near.endswith("?")
            advice = f"unknown command{near}" if is_near else f"a recipe is given as --recipe {shlex.quote(word)}"
            raise UserError(f"process.py {word}: {advice}")
        else:
            process(parse_arguments())
    except (UserError, InUseError) as error:
        lines = str(error).splitlines()
        sys.exit("\n".join(line if line.startswith("  ") else f"error: {line}" for line in lines))


def check(arguments: argparse.Namespace) -> None:
    """Read each recipe with its operators. Raises UserError with the faults of all; each line names the recipe."""
    from solution.runner.pipeline import registry

    faults = []
    for path in arguments.recipes:
        try:
            recipe = load_recipe(path, arguments.dataset)
            check_operators(recipe, registry(recipe))
            print(f"{shown(recipe.path)}: no fault found")
        except UserError as error:
            lines = str(error).splitlines()
            faults += [line if line.startswith(("recipe", "  ")) else f"recipe {shown(path)}: {line}" for line in lines]
    if faults:
        raise UserError(*faults)


def process(arguments: argparse.Namespace, is_analysis: bool = False) -> None:
    """Check the recipe, run it unless its result is already there, print the funnel. Raises UserError.

    An analysis goes the same way and ends with a page.
    """
    started = time.monotonic()
    recipe = load_recipe(arguments.recipe, arguments.dataset)
    if recipe.faults:
        from solution.runner.pipeline import registry

        check_operators(recipe, registry(recipe))  # raises them with the operators' own
    for remark in recipe.remarks:
        print(f"note: {visible(remark)}", file=sys.stderr)
    executor_name = arguments.executor or recipe.executor
    if arguments.ray_address and executor_name != "ray":
        raise UserError("--ray-address is for --executor ray: give both or neither")
    if arguments.limit is not None and arguments.limit < 1:
        raise UserError(f"--limit {arguments.limit}: expected 1 or more rows")
    shared = common_folder(recipe.datasets)
    root = None if arguments.images else shared
    data = DataSet(recipe.datasets, root, recipe.text_key, recipe.image_key, recipe.ratio, arguments.limit)
    images = (arguments.images or shared).absolute()
    name = analysis_name(recipe, arguments.dataset) if is_analysis else ""
    result, audit = places_of(recipe, arguments.output, data.is_trial, name)
    on_error = arguments.on_error or recipe.on_error
    settings = {"on_error": on_error, **recipe.settings(), **({"limit": data.limit} if data.limit else {})}
    inputs = describe_inputs(recipe, images, settings | ({"trial": True} if data.is_trial else {}))
    about = "" if not data.is_trial else "trial; " if is_analysis else "trial, no submission; "
    if not arguments.overwrite and is_done(result, audit, images, inputs):
        remove_unfinished(result, audit, inputs)
        print(
            f"{about}already done: {shown(result)} is this recipe's {'page' if is_analysis else 'result'} on these "
            "inputs; --overwrite runs it again"
        )
        return
    earlier, today = datasets_of(result), ", ".join(map(shown, recipe.datasets))
    if is_analysis and result.is_file() and earlier not in ("", today):
        print(f"note: {shown(result)} is about {earlier}: the page about {today} takes its place", file=sys.stderr)
    warn_of_untested_version()
    set_environment(recipe, audit.parent.parent / "scores")
    # Imported here, as it takes seconds: Data-Juicer, torch and the operators.
    from solution.runner.failures import end_with_a_lost_worker
    from solution.runner.images.produced import send_to_the_run
    from solution.runner.run import Run, expect_images, log_to

    with ExitStack() as stack:
        stack.enter_context(owner_of(result.parent))
        send_to_the_run(unfinished_folder(audit))
        expect_images(images)
        log_to(audit.with_suffix(".log"))
        stack.push(lambda kind, *_: _remove_if_empty(audit.with_suffix(".log")) if kind else None)
        end_forks_with_this_process()
        end_with_a_lost_worker()
        executor = None
        if executor_name == "ray":
            from solution.runner.ray_executor import RayExecutor

            address = arguments.ray_address or recipe.ray_address
            executor = stack.enter_context(RayExecutor(recipe, str(result.parent), address))
        max_failed = recipe.max_failed if arguments.max_failed is None else arguments.max_failed
        places = (recipe, data, images, result, audit, inputs, on_error, arguments.overwrite, max_failed, executor)
        if is_analysis:
            from solution.analysis.page import write_page
            from solution.analysis.scoring import Analysis

            run: Run = Analysis(*places, present=partial(write_page, recipe, audit, result))
        else:
            run = Run(*places)

        def record(counts: dict[str, Any]) -> None:
            seconds = round(time.monotonic() - started, 1)
            tries = finished_attempts(unfinished_folder(audit), inputs, seconds)
            about = {"executor": executor_name, "audit": os.path.relpath(audit, result.parent), "attempts": tries}
            write_record(result, inputs, counts | about | {"seconds": seconds})

        run.execute(record)
    if is_analysis:
        print(f"{about}page: {shown(result)}; scores of every row: {shown(audit)}; record: {shown(record_of(result))}")
    else:
        print(f"{about}rows: {shown(result)}; audit of every row: {shown(audit)}; record: {shown(record_of(result))}")


def _remove_if_empty(file: Path) -> None:
    """Remove the log of a run that was refused before it had begun."""
    if file.is_file() and not file.stat().st_size:
        file.unlink()


def common_folder(files: Sequence[Path]) -> Path:
    """The folder that all files are in or below."""
    return Path(os.path.commonpath([file.absolute().parent for file in files]))


def analysis_name(recipe: Recipe, given: Sequence[Path] | None) -> str:
    """What an analysis is called: as its recipe, and as the data set that was given in place of the recipe's own."""
    if not given:
        return recipe.name
    return f"{recipe.name}.{recipe.dataset.stem[:80]}" + (f".and_{len(given) - 1}_more" if len(given) > 1 else "")


def places_of(recipe: Recipe, output: Path | None, is_trial: bool, analysis: str = "") -> tuple[Path, Path]:
    """The files of result and audit. Raises UserError where the result would take the place of the data set.

    A trial has a folder and names of its own, so that it is never taken for a submission. Of an ``analysis``, by its
    name, they are its page and its scores, in a folder beside the audits.
    """
    result = output.absolute() / RESULT if output else recipe.export_path or ROOT / "output" / "processed_data" / RESULT
    folder, name = audit_folder(recipe, result), analysis or recipe.name
    if analysis:
        folder = folder.with_name("analysis")
        name += ".trial" if is_trial else ""
        result = folder / f"{name}.html"
    elif is_trial:
        result = result.parent.with_name(f"{result.parent.name}.trial") / f"{result.stem}.trial.jsonl"
        name += ".trial"
    if result.exists() and any(file.exists() and result.samefile(file) for file in recipe.datasets):
        raise UserError(f"{shown(result)} is the data set itself: give another folder with --output")
    for needed in (result.parent, folder):
        there = next(parent for parent in (needed, *needed.parents) if parent.exists())
        if not there.is_dir() or not os.access(there, os.W_OK):
            what = "cannot be written to" if there.is_dir() else "is no folder"
            raise UserError(f"{shown(there)} {what}: give a folder for the result with --output")
    return result, folder / f"{name}.parquet"


def audit_folder(recipe: Recipe | None, result: Path) -> Path:
    """The folder of the audits: in the recipe's work_dir, else next to the folder of the result."""
    return (recipe.work_dir if recipe and recipe.work_dir else result.parent.parent) / "audit"


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
    given = Path(arguments.recipe) if arguments.recipe else None
    here = Path(f"{given}.yaml")  # whose audit may be in a work_dir of its own
    if here.is_file() and not (ROOT / "solution" / "recipes" / here).is_file():
        given = here
    recipe = load_recipe(given, None) if given and given.suffix in (".yaml", ".yml") and given.is_file() else None
    result = ROOT / "output" / "processed_data" / RESULT
    if arguments.output:
        result = arguments.output.absolute() / RESULT
    elif recipe and recipe.export_path:
        result = recipe.export_path
    folder = audit_folder(recipe, result)
    found = audits_in(folder)
    if not found and not given:
        raise UserError(f"no audit in {shown(folder)}: run a recipe first (--recipe FILE)")
    latest = max(found, key=lambda name: found[name].stat().st_mtime, default="")
    name = latest if given is None else given.name if given.name in found else given.stem
    audit = found.get(name, folder / f"{name}.parquet")
    # The image and table libraries take a second.
    if arguments.compare:
        from solution.report.compare import write_comparison

        other = Path(arguments.compare)
        names = [name, other.name if other.name in found else other.stem]
        audits = [audit, other if other.suffix == ".parquet" else found.get(names[1], folder / f"{names[1]}.parquet")]
        page = folder / f"{names[0]}.and.{names[1]}.html"
        if names[0] == names[1]:
            names = [f"{each} ({shown(file.parent)})" for each, file in zip(names, audits, strict=True)]
        missing = write_comparison(audits, names, arguments.images, page)
    else:
        from solution.report.report import write_report

        page = audit.with_suffix(".html")
        missing = write_report(audit, name, arguments.images, page)
    print(f"report: {shown(page)}")
    if missing:
        print(
            f"note: {missing} of its images are not where the run found them: --images DIR says where", file=sys.stderr
        )


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
    if recipe.temp_dir:
        recipe.temp_dir.mkdir(parents=True, exist_ok=True)
        os.environ["TMPDIR"] = str(recipe.temp_dir)
        tempfile.tempdir = None  # read again
    os.environ |= {"UV_OFFLINE": "1", "PIP_NO_INDEX": "1", "TOKENIZERS_PARALLELISM": "false"}
    os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "TQDM_LEAVE": ""}  # tqdm: a finished bar goes away
    models = [value for _, params in recipe.process for key, value in params.items() if key.startswith("hf_")]
    models = [model for model in models if isinstance(model, str)]
    if models and all(Path(model).is_absolute() for model in models):
        os.environ["HF_HUB_OFFLINE"] = "1"


if __name__ == "__main__":
    run(temporary_files()(main))
