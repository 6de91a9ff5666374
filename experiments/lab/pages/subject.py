"""The pages of `python -m toolkit lab page`: that of a lab, or that of a finished run."""

from __future__ import annotations

from pathlib import Path

from experiments.lab.finished import FinishedRun
from experiments.lab.pages.markup import PAGES, hash_of, is_current
from toolkit.errors import UserError
from toolkit.files import display_path, require_output

PAGE_SUFFIXES = (".html", ".htm")


def write(subject: str, baseline: str | None, preset: str | None, target: Path | None) -> tuple[str, bool]:
    """Write a page, unless it is up to date.

    Args:
        subject: a lab file, or a finished run as `python -m toolkit score` takes it.
        baseline, preset: of a run only.
        target: of the page; None for its place in output/pages.

    Returns:
        the page's path as shown, and whether it was written now.

    Raises:
        UserError: no such lab or run, or no page can be written there.
    """
    if target:
        if target.suffix.lower() not in PAGE_SUFFIXES:
            raise UserError(f"--out {target}: expected a name that ends in .html")
        require_output(target)
        if (plots := target.with_suffix("")).exists() and not plots.is_dir():
            raise UserError(f"--out {target}: its plots go into a folder {plots}, which is a file; name another page")
    if not subject.lower().endswith((".yaml", ".yml")):
        path, written = _run_page(subject, baseline, preset, target)
    elif baseline or preset:
        raise UserError(f"{subject}: a lab names its own baseline and preset; --baseline and --preset are for a run")
    else:
        from experiments.lab.pages.page import write_lab_page

        path, written = write_lab_page(Path(subject), target)
    return display_path(path), written


def _run_page(experiment: str, baseline: str | None, preset: str | None, target: Path | None) -> tuple[Path, bool]:
    """The page's path, and whether it was written now: nothing is done where page and plots are up to date."""
    runs = [FinishedRun(experiment, preset)]
    if baseline:
        runs.append(FinishedRun(baseline, preset or runs[0].preset.name))
        if runs[0].folder.resolve() == runs[1].folder.resolve():
            raise UserError(f"--baseline {baseline}: the same run; name another one to compare with")
    path = target or PAGES / f"{runs[0].preset.run_name}-{runs[0].name}.html"
    inputs = hash_of(
        [file for run in runs for file in run.files], *(str(run.folder.resolve()) for run in runs), str(path)
    )
    if is_current(path, inputs) and path.with_suffix("").is_dir():
        return path, False
    from experiments.lab.pages.run_page import write_run_page  # it draws: pandas, SciPy and Matplotlib take a second

    write_run_page(runs, path, inputs)
    return path, True
