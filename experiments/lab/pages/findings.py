"""What a lab found: its records with answers and analysis, as the page and its plots read them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.lab.answers import Given
from experiments.lab.cells import SUMMARY, Record, read_answers, read_lab_records
from experiments.lab.comparison.results import BOTH, Analysis, ArmResult, Comparison
from experiments.lab.labfile import Lab
from experiments.lab.pages.browser import Entry
from experiments.lab.pages.markup import BENCHMARK_NAMES
from toolkit.errors import UserError, advised
from toolkit.eval import mmbench
from toolkit.files import REPOSITORY, display_path, read_json

if TYPE_CHECKING:
    import pandas

OPTION = re.compile(r"[A-I]\. ")
NAMES = BENCHMARK_NAMES | {BOTH: "both"}


@dataclass(frozen=True)
class Found:
    """All that a lab's page shows.

    Args:
        lab: as its file says.
        summary: its `lab.json`; empty before a run has ended.
        records: of every arm that has any, the arms in the lab's order.
        answers: see `cells.read_answers`.
        analysis: of the records.
    """

    lab: Lab
    summary: dict[str, Any]
    records: dict[str, list[Record]]
    answers: pandas.DataFrame
    analysis: Analysis

    @property
    def deciding(self) -> str:
        """The measure that decides: both benchmarks where there are two."""
        return self.analysis.measures[-1]

    @property
    def arms(self) -> dict[str, ArmResult]:
        """Results by arm."""
        return {arm.arm: arm for arm in self.analysis.arms}

    def comparison(self, arm: str) -> Comparison | None:
        """Of an arm in the measure that decides; None for the baseline."""
        return self.analysis.comparison(arm, self.deciding)

    @property
    def ranked(self) -> list[str]:
        """Arms, the best first by the measure that decides."""
        scores = {arm: found.scores.get(self.deciding) for arm, found in self.arms.items()}
        return sorted(self.records, key=lambda arm: -score.value if (score := scores[arm]) else float("inf"))

    @property
    def answered(self) -> list[str]:
        """Arms of which single answers are kept, in the lab's order; records of before the lab have scores alone."""
        known = set(self.answers["arm"])
        return [arm for arm in self.records if arm in known]

    def mean(self, arm: str, value: Callable[[Record], float | None]) -> float | None:
        """Mean over the trainings of an arm of what `value` finds in a record; None where it finds nothing."""
        found = [number for record in self.records[arm] if (number := value(record)) is not None]
        return sum(found) / len(found) if found else None


def findings(lab: Lab, file: Path) -> Found:
    """Read and analyse what there is.

    Args:
        lab, file: the lab and where it was read from.

    Raises:
        UserError: no cell of it is there yet; a record is none.
    """
    from experiments.lab.comparison.earlier import earlier_noise
    from experiments.lab.comparison.measures import scores_of_records
    from experiments.lab.comparison.oddities import warnings_of
    from experiments.lab.comparison.statistics import analyse

    records = read_lab_records(lab.records, lab.arms)
    if not records:
        raise UserError(f"{display_path(lab.records)}: no cell of {file} is there yet; {advised('lab', 'run', file)}")
    every = [record for arm in records.values() for record in arm]
    answers = read_answers(lab.records, every)
    baseline = lab.baseline if lab.baseline in records else next(iter(records))
    asked = answers if len(answers) else None
    earlier = earlier_noise(lab.preset.name)
    distinct = {record["key"]: record for record in reversed(every)}  # what is odd of equal data is told once
    warnings = warnings_of(list(reversed(distinct.values())), asked)
    analysis = analyse(scores_of_records(every), baseline, asked, earlier, warnings)
    summary = read_json(lab.records / SUMMARY) if (lab.records / SUMMARY).is_file() else {}
    return Found(lab, summary, records, answers, analysis)


def same_data(found: Found) -> list[str]:
    """A line for every arm that is an earlier one under another name: not a cell of it was trained."""
    keys: dict[tuple[str, ...], str] = {}
    lines = []
    for arm, records in found.records.items():
        own = tuple(record["key"] for record in records)
        if (first := keys.setdefault(own, arm)) != arm:
            lines.append(f"{arm} has the same data as {first}, trained once: they tie by design")
    return lines


def recipes_of(found: Found) -> Iterator[dict[str, Any]]:
    """Each recipe: its difference to the baseline's, or to the first one's where the baseline is none; its funnel."""
    arms: Mapping[str, Any] = found.summary.get("arms", {})
    texts = {name: arm["text"] for name, arm in arms.items() if arm.get("text") and name in found.records}
    base = found.analysis.baseline if found.analysis.baseline in texts else next(iter(texts), "")
    for name, text in texts.items():
        lines = list(difflib.unified_diff(texts[base].splitlines(), text.splitlines(), base, name, lineterm="", n=2))
        yield {
            "name": name,
            "source": arms[name].get("source", ""),
            "base": base,
            "difference": lines,
            "text": text,
            "steps": arms[name].get("steps", []),
        }


def entries_of(found: Found) -> Iterator[Entry]:
    """Every question with the answers of the arms that have any, see `Found.answered`."""
    images = Images()
    arms = found.answered
    for _, rows in found.answers.groupby(["benchmark", "question"], sort=False):
        first = rows.iloc[0]
        lines = str(first["text"]).split("\n")
        options = tuple(line for line in lines[1:] if OPTION.match(line))
        given: dict[str, list[Given]] = {arm: [] for arm in arms}
        for arm, answer, credit in zip(rows["arm"], rows["answer"], rows["correct"], strict=True):
            given[arm].append(Given(str(answer), "", str(first["wanted"]), float(credit)))
        yield Entry(
            benchmark=str(first["benchmark"]),
            question_id=str(first["question"]),
            category=str(first["category"]),
            question="\n".join(line for line in lines if line not in options),
            options=options,
            image=images.find(str(first["image"])),
            means=tuple(
                sum(one.credit for one in given[arm]) / len(given[arm]) if given[arm] else None for arm in arms
            ),
            given=tuple(tuple(given[arm]) for arm in arms),
        )


class Images:
    """The images of questions, by what their table calls them: a path, or a TSV and an index."""

    def __init__(self) -> None:
        self._tables: dict[Path, dict[str, str]] = {}

    def find(self, name: str) -> Path | str | None:
        """Its path, or its bytes in base64; None where it is gone."""
        table, mark, index = name.rpartition("#")
        if not mark or not table.endswith(".tsv"):
            path = REPOSITORY / name
            return path if path.is_file() else None
        path = REPOSITORY / table
        if path not in self._tables:
            rows = mmbench.read_table(path) if path.is_file() else []
            self._tables[path] = {row["index"]: row["image"] for row in rows}
        return self._tables[path].get(index)
