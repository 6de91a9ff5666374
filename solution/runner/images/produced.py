"""Images that operators make: each ends in `synthetic_images/` beside the result, named by row and content.

Data-Juicer's own operators would write into the seed's folder, under a name of process and time. Its switch
`DJ_PRODUCED_DATA_DIR` sends them to the folder of the unfinished run; what a mapper made is taken from there as soon as
it ends. The result's folder gets only what a row of the result shows (`seed.write_rows`).
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from solution.operators.common import reasons
from solution.operators.common.images import ImageError, check_image, made_name, stat_image
from solution.operators.common.rows import ROW, parts_of
from solution.runner.audit import Ledger
from solution.runner.data_juicer import STATS, NestedDataset
from solution.runner.files import linked, sha256_of
from solution.runner.seed import SYNTHETIC, Folders
from solution.runner.tables import numbers_of, positions_of, rows_of_step, tables_of

VARIABLE = "DJ_PRODUCED_DATA_DIR"  # Data-Juicer's name for it


def _raw_folder(unfinished: Path) -> Path:
    return unfinished / "produced"


def send_to_the_run(unfinished: Path) -> None:
    """Have operators write what they make into the folder of the unfinished run, in all processes started later."""
    os.environ[VARIABLE] = str(_raw_folder(unfinished))


def sent_to_the_run(parameters: dict[str, Any], name: str) -> dict[str, Any]:
    """An operator's parameters; a `save_dir` of the recipe gives way to the run's own folder."""
    folder = os.environ.get(VARIABLE)
    return parameters | {"save_dir": f"{folder}/{name}"} if folder and "save_dir" in parameters else parameters


class ProducedImages:
    """The images that the operators of one run make."""

    def __init__(self, folders: Folders) -> None:
        self.folders = folders
        self.raw = _raw_folder(folders.unfinished)
        self._began = folders.unfinished / "operator_began"  # its time tells older files from new ones

    def begin(self) -> None:
        """An operator is about to run."""
        self.raw.mkdir(parents=True, exist_ok=True)
        self._began.unlink(missing_ok=True)
        self._began.touch()

    def settle(self, before: NestedDataset, after: NestedDataset, ledger: Ledger) -> NestedDataset:
        """The rows ``after`` a mapper with the images that it made under their lasting names.

        The ledger counts rows of ``before`` whose image is another now. A row whose new image cannot be read, or was
        written elsewhere, fails; one whose path was only edited as a text (`pii_redaction_mapper`) keeps its image.
        Scores of the old images go. Raises UserError where the policy is stop.
        """
        rows = numbers_of(after, ROW)
        origins = positions_of(rows, numbers_of(before, ROW))
        moved: dict[int, list[str]] = {}  # position -> where its images are
        changed: list[tuple[int, bool]] = []  # row, and whether its text is another one too
        bad: list[int] = []
        start = 0
        for part in parts_of(after, ROW, "id", "images", "text"):
            own = origins[start : start + len(part[ROW])]
            places = own[own >= 0]
            earlier = dict(
                zip(places.tolist(), zip(before["text"][places], before["images"][places], strict=True), strict=True)
            )
            known = {image for _, images in earlier.values() for image in images}
            for position, row, name, images, text, origin in zip(
                range(start, start + len(own)), part[ROW], part["id"], part["images"], part["text"], own, strict=True
            ):
                old_text, old_images = earlier.get(origin, (text, None))
                if images == old_images:
                    continue
                if old_images and any(map(self._is_no_path, images)):
                    moved[position] = old_images
                    continue
                try:
                    settled = [image if image in known else self._settled(image, name) for image in images]
                except (ImageError, ValueError) as fault:
                    ledger.fail(row, str(fault))
                    bad.append(position)
                    continue
                if settled != images:
                    moved[position] = settled
                if origin >= 0:
                    changed.append((row, text != old_text))
            start += len(own)
        ledger.replace_images(changed)
        result = rows_of_step(_with_images(after, moved)) if moved else after
        if changed and STATS in result.column_names:
            result = result.remove_columns(STATS)
        return result.select(np.delete(np.arange(len(result)), bad)) if bad else result

    def _is_no_path(self, image: str) -> bool:
        """Whether an operator made the path a text that names no file, wherever it may start from."""
        places = (self.raw, self.folders.output, self.folders.images, Path.cwd())
        return not os.path.isabs(image) and not any(os.path.lexists(place / image) for place in places)

    def _settled(self, image: str, identifier: str) -> str:
        """Where an image that no row had before lies from now on.

        Raises ImageError where it cannot be read, ValueError where it was written elsewhere.
        """
        path = Path(os.path.normpath(image))
        folders = self.folders
        if path.is_relative_to(self.raw):
            check_image(path)
            target = folders.unfinished / SYNTHETIC / made_name(identifier, sha256_of(path), path.suffix)
            linked(path, target)
            return str(target)
        if any(path.is_relative_to(folder / SYNTHETIC) for folder in (folders.output, folders.unfinished)):
            check_image(path)
            return str(path)
        if any(path.is_relative_to(folder) for folder in (folders.images, folders.dataset / SYNTHETIC)):
            if stat_image(path).st_ctime_ns >= self._began.stat().st_ctime_ns:
                raise ValueError(reasons.written_into_seed(str(path)))
            return str(path)
        raise ValueError(reasons.written_elsewhere(str(path)))


def _with_images(dataset: NestedDataset, images: dict[int, list[str]]) -> Iterator[pa.Table]:
    """All of a data set, part by part, with other ``images`` in the rows at some positions."""
    start = 0
    for table in tables_of(dataset):
        column = table["images"].to_pylist()
        for position in range(start, start + len(table)):
            column[position - start] = images.get(position, column[position - start])
        index = table.schema.get_field_index("images")
        yield table.set_column(index, table.schema.field(index), pa.array(column, table.schema.field(index).type))
        start += len(table)
