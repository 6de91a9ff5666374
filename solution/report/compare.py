"""`process.py report A --compare B`: what one run keeps of the seed and the other does not, and why."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from solution.report.page import Gallery, Section, page
from solution.report.report import CARDS, Report, opened
from solution.runner.errors import UserError
from solution.runner.files import replaced, shown
from solution.terminal import visible


def write_comparison(audits: Sequence[Path], names: Sequence[str], images: Path | None, target: Path) -> int:
    """Write the page about two runs, by their audits and what they are called.

    Rows are those of the seed, told by their line where both runs have the same seed, else by their id; a row counts as
    kept where it, or one that was created from it, is. Returns how many images are not there. Raises UserError for a
    missing or foreign audit, and for two runs that have no row in common.
    """
    one, other = (_Kept(opened(audit, images), name) for audit, name in zip(audits, names, strict=True))
    by_line = one.same_lines(other)
    common = _common(one.keys(by_line), other.keys(by_line))
    if not len(common[0]):
        raise UserError(f"{shown(audits[0])} and {shown(audits[1])} are of different seeds: they have no row in common")
    kept = [run.is_kept[lines] for run, lines in zip((one, other), common, strict=True)]
    totals = {
        "rows in both seeds": len(common[0]),
        "kept by both": int((kept[0] & kept[1]).sum()),
        f"only by {names[0]}": int((kept[0] & ~kept[1]).sum()),
        f"only by {names[1]}": int((kept[1] & ~kept[0]).sum()),
        "by neither": int((~kept[0] & ~kept[1]).sum()),
    }
    sections = [
        Section(f"Only {names[0]} keeps", list(_gone(other, common[1][kept[0] & ~kept[1]]))),
        Section(f"Only {names[1]} keeps", list(_gone(one, common[0][kept[1] & ~kept[0]]))),
        Section("Kept by both with different captions", list(_rewritten(one, other, common, kept[0] & kept[1]))),
    ]
    about = f"Galleries show at most {CARDS} rows each; all rows are in {shown(audits[0])} and {shown(audits[1])}."
    runs = [run.report.as_shown(run.name) for run in (one, other)]
    title = f"{names[0]} and {names[1]}"
    text = page(title, about, runs, [section for section in sections if section.galleries], totals)
    with replaced(target) as temporary:
        temporary.write_text(visible(text, kept="\n\t"), encoding="utf-8")
    return one.report.missing + other.report.missing


class _Kept:
    """Which of the seed's rows a run keeps; arrays over its audit's lines of the seed."""

    def __init__(self, report: Report, name: str) -> None:
        self.report = report
        self.name = name
        lines = report.file.read(["row", "parent", "state", "id"])
        rows, parents = (lines[key].to_numpy() for key in ("row", "parent"))
        kept = set(rows[pc.equal(lines["state"], "kept").to_numpy()].tolist())
        for row, parent in zip(rows[::-1].tolist(), parents[::-1].tolist(), strict=True):  # parents come before
            if parent == parent and row in kept:  # not NaN: a created row
                kept.add(int(parent))
        is_seed = np.isnan(parents.astype(float))
        self.rows = rows[is_seed]
        self.ids = np.array(lines["id"].to_pylist(), object)[is_seed]
        self.is_kept = np.isin(self.rows, np.fromiter(kept, np.int64, len(kept)))

    def same_lines(self, other: "_Kept") -> bool:
        """Whether the lines of both seeds hold the same ids, as far as both go."""
        _, own, others = np.intersect1d(self.rows, other.rows, return_indices=True)
        return bool(len(own)) and bool((self.ids[own] == other.ids[others]).all())

    def keys(self, by_line: bool) -> np.ndarray:
        """What tells the rows: their line or their id."""
        return self.rows if by_line else self.ids.astype(str)

    def lines(self, positions: np.ndarray) -> list[dict]:
        """The audit's lines of some seed rows, in the order of rows."""
        found = self.report.by("row", self.rows[positions].tolist())
        return [found[row] for row in self.rows[positions].tolist()]


def _common(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the keys that both have; of one key's rows the first."""
    _, first, second = np.intersect1d(one, other, return_indices=True)
    return first, second


def _gone(run: _Kept, positions: np.ndarray) -> Iterator[Gallery]:
    """Rows that a run does not keep, by the operator that dropped or failed them, the most frequent one first."""
    if not len(positions):
        return
    operators = run.report.file.read(["row", "operator"])
    of_row = dict(zip(operators["row"].to_pylist(), operators["operator"].to_pylist(), strict=True))
    names = np.array([of_row[row] for row in run.rows[positions].tolist()], object)
    for name, count in Counter(names.tolist()).most_common():
        own = positions[names == name]
        spread = own[np.linspace(0, len(own) - 1, min(CARDS, len(own))).astype(int)]
        cards = [run.report.card(line) for line in run.lines(spread)]
        yield Gallery(f"{run.name}: {name}", f"{count:,} rows go there; some, evenly over the seed", cards)


def _rewritten(
    one: _Kept, other: _Kept, common: tuple[np.ndarray, np.ndarray], are_kept: np.ndarray
) -> Iterator[Gallery]:
    """Rows whose captions differ."""
    texts = []
    for run, positions in zip((one, other), common, strict=True):
        lines = run.report.file.read(["row", "text_after"])
        of_row = dict(zip(lines["row"].to_pylist(), lines["text_after"].to_pylist(), strict=True))
        texts.append([of_row[row] for row in run.rows[positions[are_kept]].tolist()])
    differ = np.flatnonzero([before != after for before, after in zip(*texts, strict=True)])
    if not len(differ):
        return
    spread = differ[np.linspace(0, len(differ) - 1, min(CARDS, len(differ))).astype(int)]
    pairs = [run.lines(positions[are_kept][spread]) for run, positions in zip((one, other), common, strict=True)]
    cards = [
        one.report.card(after | {"text_before": before["text_after"]}) for before, after in zip(*pairs, strict=True)
    ]
    yield Gallery(
        "Captions", f"{len(differ):,} rows; struck through as {one.name} has them, then as {other.name}", cards
    )
