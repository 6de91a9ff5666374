"""One run of a recipe from the seed to processed_data.jsonl, with its audit."""

import logging
import math
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import pyarrow as pa
from datasets.fingerprint import get_temporary_cache_files_directory
from loguru import logger
from tqdm.auto import tqdm

from solution.attempts import attempt
from solution.operators.common.faults import IMAGE_ROOT
from solution.operators.common.measures import measures_of
from solution.runner.audit import Ledger, Step, funnel
from solution.runner.checkpoint import Checkpoint
from solution.runner.configuration.dataset_files import DataSet
from solution.runner.configuration.parameters import check_operators
from solution.runner.data_juicer import Mapper, NestedDataset, SpecialTokens
from solution.runner.errors import UserError, without_secrets
from solution.runner.files import ROOT, replaced, shown, stamp_of_files
from solution.runner.images.produced import ProducedImages
from solution.runner.pipeline import build_operators, registry, run_operator
from solution.runner.recipe import Recipe
from solution.runner.record import stopped_audit, unfinished_folder
from solution.runner.seed import SYNTHETIC, Folders, first_token, read_rows, write_rows
from solution.runner.tables import tables_of
from solution.terminal import visible

if TYPE_CHECKING:
    from solution.runner.ray_executor import RayExecutor  # needs ray


_FEW = 20  # failed rows that never stop a run
_LONGEST_TMPDIR = 75  # bytes: a socket's path may have 107, and multiprocess adds /pymp-xxxxxxxx/listener-xxxxxxxx


def log_to(path: Path) -> None:
    """Send the log of Data-Juicer and its libraries to a file.

    stderr shows our lines only and, where it is a terminal, a bar for the operator at work.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    logger.remove()
    logger.add(path, mode="w", level="INFO")
    logging.basicConfig(filename=path, level=logging.WARNING, force=True)
    logging.captureWarnings(True)
    logging.getLogger("datasets").handlers.clear()  # its own writes to stderr, a line for each part around a bad row
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()


def expect_images(folder: Path) -> None:
    """Have every process of the run know the image root: a file missing because all are gone is no row's fault."""
    os.environ[IMAGE_ROOT] = str(folder)


def keep_steps_in(folder: Path) -> None:
    """Keep an operator's result on the disk, next to the checkpoint, until it is saved there."""
    datasets.disable_caching()
    usual = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = str(folder / "steps")
    get_temporary_cache_files_directory()  # reads the variable once
    del os.environ["TMPDIR"]
    if usual is not None:
        os.environ["TMPDIR"] = usual


@dataclass(frozen=True)
class Run:
    """A recipe with its paths: images, result, audit (and next to it the checkpoint of an unfinished run)."""

    recipe: Recipe
    data: DataSet
    images: Path  # the seed's image root
    result: Path  # processed_data.jsonl
    audit: Path  # the Parquet file
    inputs: dict[str, Any]  # what decides the result, as the record has it
    on_error: str  # stop or skip
    overwrite: bool  # do not resume an unfinished run
    max_failed: float  # the largest share of its rows that a step may fail
    executor: "RayExecutor | None" = None  # where row-wise operators run; None for this process

    def execute(self, write_record: Callable[[dict[str, Any]], None]) -> None:
        """Run all operators, write result and audit, have the counts recorded, print the funnel.

        Result, audit and record of an earlier run stay as they are until all of the new ones are there. Raises
        UserError for a fault of recipe or rows, and where no row is left; an audit of the rows so far is then in the
        folder of the unfinished run.
        """
        process = check_operators(self.recipe, registry(self.recipe))
        operators = build_operators(process, self.recipe.processes, str(self.result.parent))
        if any((operator.num_proc or 1) > 1 for operator in operators):
            check_temporary_folder(self.recipe.temp_dir)
        for number, (name, parameters) in enumerate(self.recipe.process, start=1):
            if "save_dir" in parameters:
                target = shown(self.result.parent / SYNTHETIC)
                _say(f"note: operator {number} ({name}): its images go to {target}, not to save_dir")
        # What statistics of a text count is the text that the recipe's author had, image token included.
        SpecialTokens.image = self.recipe.image_token or first_token(self.data)
        unfinished = unfinished_folder(self.audit)
        folders = Folders(self.images, self.data.root or self.data.files[0].parent, self.result.parent, unfinished)
        produced = ProducedImages(folders)
        checkpoint = Checkpoint(unfinished, self._identity(), process, self.images)
        done, dataset, ledger = checkpoint.open(self.on_error, self.overwrite)
        keep_steps_in(checkpoint.folder)
        with attempt(checkpoint.folder, self.inputs, {}, UserError):
            try:
                if dataset is None:
                    which = "every image of the trial" if self.data.is_trial else "every image"
                    _say(f"reading {self.data.shown()} and decoding {which}")
                    tables = read_rows(self.data, folders, ledger, measures_of(operators))
                    dataset = checkpoint.save(0, self._watched(_counted(tables), ledger), ledger)
                else:
                    _say(f"resuming after operator {done} of {len(operators)}")
                for number, operator in enumerate(operators[done:], start=done + 1):
                    _say(f"[{number}/{len(operators)}] {operator._name}: {len(dataset):,} rows in")
                    run = partial(self.executor.run, number - 1, operator) if self.executor else None
                    produced.begin()
                    before, dataset = dataset, self._apply(number, operator, dataset, ledger, run)
                    if isinstance(operator, Mapper):
                        dataset = produced.settle(before, dataset, ledger)
                    step = ledger.steps[-1]
                    _say(f"    {self._said(step)} in {step.seconds:.1f} s")
                    if step.remark:
                        _say(f"    {visible(step.remark)}")
                    if not len(dataset):
                        raise UserError(self._nothing_left(ledger))
                    self._check_failures(ledger)
                    dataset = checkpoint.save(number, tables_of(dataset), ledger)
                checkpoint.check_images(ledger)
                self._finish(operators, dataset, folders, ledger, write_record)
            except BaseException:
                if ledger.steps and ledger.steps[0].rows_in:
                    ledger.write(stopped_audit(self.audit), **self._places())
                checkpoint.leave(ledger, is_resumable=dataset is not None)
                raise
            checkpoint.clear(ledger)

    def _apply(self, number: int, operator: Any, dataset: NestedDataset, ledger: Ledger, run: Any) -> NestedDataset:
        """What the operator at this place of the recipe leaves of the rows."""
        return run_operator(operator, dataset, ledger, run)

    def _watched(self, tables: Iterable[pa.Table], ledger: Ledger) -> Iterator[pa.Table]:
        """The tables of a step that is not saved where it failed too many rows."""
        yield from tables
        self._check_failures(ledger)

    def _check_failures(self, ledger: Ledger) -> None:
        """Raise UserError where the last step failed more rows than a data set has bad ones."""
        step = ledger.steps[-1]
        if step.failed <= max(_FEW, self.max_failed * step.rows_in):
            return
        reason, count = ledger.failure_reasons(step.name)[0]
        report = self._report()
        where = f"Look at the reasons with `{report}`" if report else f"Reasons: {shown(stopped_audit(self.audit))}"
        raise UserError(
            f"{step.name} failed {step.failed:,} of {step.rows_in:,} rows, more than the share of {self.max_failed:g} "
            f"that is allowed (most often, {count:,}: {reason}); nothing of it was saved. "
            f"{where}; where the rows are that bad, give --max-failed "
            f"{min(1.0, math.ceil(100 * step.failed / step.rows_in + 1) / 100):g}"
        )

    def _said(self, step: Step) -> str:
        """What the user is told of an operator that is done."""
        return f"{step.kept:,} kept, {step.dropped:,} dropped, {step.failed:,} failed"

    def _finish(
        self,
        operators: list[Any],
        dataset: NestedDataset,
        folders: Folders,
        ledger: Ledger,
        write_record: Callable[[dict[str, Any]], None],
    ) -> None:
        """Put result and audit in the place of earlier ones, then the record; a page about the earlier run goes."""
        with replaced(self.audit) as audit, replaced(self.result) as result:
            write_rows(result, dataset, folders, ledger, self.recipe.keep_stats)
            ledger.write(audit, **self._places())
            text = funnel(ledger)
        images = stamp_of_files(self.images, ledger.seed_images())
        about = {"counts": ledger.totals(), "steps": ledger.counts(), "failed": ledger.failures(), "images": images}
        write_record(about)
        self.audit.with_suffix(".html").unlink(missing_ok=True)
        print(text)

    def _report(self) -> str:
        """The command that makes a page about this run, where there is one."""
        command = f"python solution/process.py report {shlex.quote(self.audit.stem)}"
        output = self.audit.parent.parent / self.result.parent.name
        return command if output.parent == ROOT / "output" else f"{command} --output {shlex.quote(shown(output))}"

    def _places(self) -> dict[str, Any]:
        """What the audit says of the run: where images lie, and what a reader wants to know of it."""
        versions = {name: number for name, number in self.inputs["versions"].items() if isinstance(number, str)}
        return {
            "images": str(self.images),
            "output": str(self.result.parent),
            "recipe": {"path": shown(self.recipe.path), "text": without_secrets(self.recipe.text)},
            "dataset": [shown(file) for file in self.recipe.datasets],
            "limit": self.data.limit,
            "versions": versions,
            "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        }

    def _identity(self) -> dict[str, Any]:
        """What an unfinished run must share with this one, except the recipe: its operators are compared one by one."""
        inputs = {key: value for key, value in self.inputs["inputs"].items() if key != "recipe"}
        return self.inputs | {"inputs": inputs, "image_token": SpecialTokens.image}

    def _nothing_left(self, ledger: Ledger) -> str:
        """The message for an empty result: which operator took the last rows, and why."""
        step = ledger.steps[-1]
        why = [f"{count:,} {reason}" for reason, count in step.reasons.most_common(3)]
        why += [f"{count:,} failed: {reason}" for reason, count in ledger.failure_reasons(step.name)[:1]]
        details = f" ({', '.join(why)})" if why else ""
        page = f"; `{report}` makes a page of it" if (report := self._report()) else ""
        advice = "change its thresholds, every row's score is" if step.dropped else "every row's reason is"
        return (
            f"no rows left: operator {len(ledger.steps) - 1} ({step.name}) dropped {step.dropped:,} and failed "
            f"{step.failed:,} of the last {step.rows_in:,} rows{details}; "
            f"{advice} in {shown(stopped_audit(self.audit))}{page}"
        )


def check_temporary_folder(of_recipe: Path | None) -> None:
    """Raise UserError where the sockets of an operator's processes would have too long a path."""
    folder = tempfile.gettempdir()
    if len(os.fsencode(folder)) > _LONGEST_TMPDIR:
        raise UserError(
            f"{'temp_dir' if of_recipe else 'TMPDIR'}={folder}: too long a path for several processes (np or num_proc "
            f"above 1), whose sockets lie there (at most {_LONGEST_TMPDIR} bytes); choose another: "
            f"{'temp_dir: /tmp in the recipe' if of_recipe else 'TMPDIR=/tmp'}"
        )


def _counted(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The tables, with a bar of the rows so far where stderr is a terminal."""
    with tqdm(desc="read", unit=" rows", leave=False, disable=None) as bar:
        for table in tables:
            bar.update(len(table))
            yield table


def _say(text: str) -> None:
    """One line of progress, on stderr as the result's summary has stdout."""
    print(text, file=sys.stderr, flush=True)
