"""One run of a recipe from the seed to processed_data.jsonl, with its audit."""

import logging
import os
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
from datasets.fingerprint import get_temporary_cache_files_directory
from loguru import logger

from solution.runner.audit import Ledger, funnel
from solution.runner.checkpoint import Progress
from solution.runner.data_juicer import NestedDataset
from solution.runner.errors import UserError
from solution.runner.files import shown
from solution.runner.pipeline import build_operators, registry, run_operator
from solution.runner.recipe import Recipe, check_operators
from solution.runner.seed import Folders, read_rows, write_rows
from solution.runner.tables import tables_of

if TYPE_CHECKING:
    from solution.runner.ray_executor import Cluster  # needs ray


def log_to(path: Path) -> None:
    """Send what Data-Juicer and its libraries say to a file; the terminal shows our lines only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    logger.remove()
    logger.add(path, mode="w", level="INFO")
    logging.basicConfig(filename=path, level=logging.WARNING, force=True)
    logging.captureWarnings(True)
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()


def keep_steps_in(folder: Path) -> None:
    """Let what an operator makes of the rows lie on the disk beside the unfinished run's state, until it is saved."""
    datasets.disable_caching()
    usual = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = str(folder / "steps")
    get_temporary_cache_files_directory()  # reads the variable once and for all
    del os.environ["TMPDIR"]
    if usual is not None:
        os.environ["TMPDIR"] = usual


@dataclass(frozen=True)
class Run:
    """A recipe with its places: where pictures lie, where the result, the audit and an unfinished run's state go."""

    recipe: Recipe
    images: Path  # the seed's image root
    result: Path  # processed_data.jsonl
    audit: Path  # the Parquet file
    inputs: dict[str, Any]  # what decides the result, as the record has it
    on_error: str  # stop or skip
    afresh: bool  # forget an unfinished run
    cluster: "Cluster | None" = None  # where row-wise operators run; None for this process

    def execute(self) -> dict[str, Any]:
        """Run all operators, write result and audit, print the funnel. Returns the counts for the record.

        Raises UserError for a fault of recipe or rows, and where no row is left.
        """
        process = check_operators(self.recipe, registry(self.recipe))
        operators = build_operators(process, self.recipe.processes, str(self.result.parent))
        folders = Folders(self.images, self.recipe.dataset.parent, self.result.parent)
        progress = Progress(self.audit.with_suffix(".unfinished"), self._identity(), process)
        done, dataset, ledger = progress.open(self.on_error, self.afresh)
        keep_steps_in(progress.folder)
        try:
            if dataset is None:
                dataset = self._read(folders, ledger, progress)
            else:
                _say(f"an unfinished run goes on behind operator {done} of {len(operators)}")
            for number, operator in enumerate(operators[done:], start=done + 1):
                _say(f"[{number}/{len(operators)}] {operator._name}: {len(dataset):,} rows in")
                elsewhere = partial(self.cluster.run, number - 1, operator) if self.cluster else None
                dataset = run_operator(operator, dataset, ledger, elsewhere)
                step = ledger.steps[-1]
                _say(
                    f"    {step.kept:,} kept, {step.dropped:,} dropped, {step.failed:,} failed in {step.seconds:.1f} s"
                )
                if not len(dataset):
                    raise UserError(self._nothing_left(ledger))
                dataset = progress.save(number, tables_of(dataset), ledger)
            write_rows(self.result, dataset, folders, ledger)
        finally:
            if ledger.steps and ledger.steps[0].rows_in:
                ledger.write(self.audit, images=str(self.images), output=str(self.result.parent))
            if dataset is None:  # nothing to go on from
                progress.clear(ledger)
        print(funnel(ledger))
        record = {"counts": ledger.totals(), "steps": ledger.counts(), "failed": ledger.failures()}
        progress.clear(ledger)
        return record

    def _identity(self) -> dict[str, Any]:
        """What an unfinished run must share with this one; operators are compared one by one instead of by recipe."""
        return self.inputs | {"inputs": {key: value for key, value in self.inputs["inputs"].items() if key != "recipe"}}

    def _read(self, folders: Folders, ledger: Ledger, progress: Progress) -> NestedDataset:
        """The seed's good rows as a data set. Raises UserError where there is none."""
        _say(f"reading {shown(self.recipe.dataset)} and decoding every picture")
        return progress.save(0, read_rows(self.recipe.dataset, folders, ledger), ledger)

    def _nothing_left(self, ledger: Ledger) -> str:
        """The message for an empty result: which operator took the last rows, and why."""
        step = ledger.steps[-1]
        why = ", ".join(f"{count:,} {reason}" for reason, count in step.reasons.most_common(3))
        return (
            f"no rows left: operator {len(ledger.steps) - 1} ({step.name}) dropped {step.dropped:,} and failed "
            f"{step.failed:,} of the last {step.rows_in:,} rows{f' ({why})' if why else ''}; "
            f"change its limits, every row's score is in {shown(self.audit)}"
        )


def _say(text: str) -> None:
    """One line of progress, on stderr as the result's summary has stdout."""
    print(text, file=sys.stderr, flush=True)
