"""The pages of `python -m toolkit lab page`: that of a lab, or that of a finished run."""

from __future__ import annotations

from pathlib import Path

from experiments.lab.pages.run_page import write_run_page
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
        path, written = write_run_page(subject, baseline, preset, target)
    elif baseline or preset:
        raise UserError(f"{subject}: a lab names its own baseline and preset; --baseline and --preset are for a run")
    else:
        from experiments.lab.pages.page import write_lab_page

        path, written = write_lab_page(Path(subject), target)
    return display_path(path), written
