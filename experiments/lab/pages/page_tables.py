"""The tables of a lab's page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from experiments.lab.cells import Record
from experiments.lab.comparison.results import RankAgreement
from experiments.lab.comparison.table import interval
from experiments.lab.ladder import interval as correlation
from experiments.lab.pages.findings import NAMES, Found
from experiments.lab.pages.markup import STAGE_NAMES, Table, duration


def leaderboard(found: Found) -> Table:
    """Arms, the best first."""
    measures = found.analysis.measures
    heads = ["arm", "trainings", "rows (distinct)", *(NAMES.get(name, name) for name in measures), "verdict"]
    rows = []
    for name in found.ranked:
        counts = found.records[name][0]["counts"]
        line = [
            name,
            str(found.arms[name].trainings),
            f"{counts.get('rows', 0):,} ({counts.get('distinct_rows', 0):,})",
        ]
        line += [interval(found.arms[name].scores.get(measure)) for measure in measures]
        comparison = found.comparison(name)
        rows.append([*line, comparison.words if comparison else "the baseline"])
    return Table(heads, rows, texts=(0, len(heads) - 1))


def differences(found: Found) -> Table:
    """Every comparison of every measure."""
    minus = f"minus {found.analysis.baseline}"
    heads = ["arm", "measure", minus, "pairs", "p", "p (Holm)", "detectable gain", "verdict"]
    order = found.ranked
    rows = [
        [
            one.arm,
            NAMES.get(one.measure, one.measure),
            interval(one.difference, "+"),
            str(one.pairs),
            _p(one.p),
            _p(one.holm),
            "-" if one.detectable is None else f"{one.detectable:.1f}",
            one.words,
        ]
        for one in sorted(found.analysis.comparisons, key=lambda one: order.index(one.arm))
    ]
    return Table(heads, rows, texts=(0, 1, len(heads) - 1))


def _p(value: float | None) -> str:
    return "-" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def ladder(ranks: Sequence[RankAgreement]) -> Table:
    """How well each size ranks the arms as the next one does."""
    heads = ["sizes", "arms", "Spearman", "Kendall", "in words"]
    rows = [
        [
            f"{one.small} and {one.large}",
            str(len(one.arms)),
            correlation(one.spearman),
            correlation(one.kendall),
            one.words,
        ]
        for one in ranks
    ]
    return Table(heads, rows, texts=(0, len(heads) - 1))


def categories(found: Found) -> Table:
    """Mean scores by category, per cent, arms in columns."""
    rows = []
    for (benchmark, kind), label in kinds_of(found).items():
        means = [found.mean(arm, partial(score_of, benchmark, kind)) for arm in found.ranked]
        rows.append([label, *("-" if mean is None else f"{100 * mean:.1f}" for mean in means)])
    return Table(["per cent", *found.ranked], rows)


def kinds_of(found: Found) -> dict[tuple[str, str], str]:
    """Categories of all benchmarks, each with its label."""
    return {
        (benchmark, kind): f"{NAMES.get(benchmark, benchmark)} {kind}"
        for records in found.records.values()
        for record in records
        for benchmark, scores in record["scores"].items()
        for kind in scores
        if kind and kind != "all"
    }


def score_of(benchmark: str, kind: str, record: Record) -> float | None:
    """A record's score in a category, 0 to 1; None where it has none."""
    return record["scores"].get(benchmark, {}).get(kind)


def cost(found: Found) -> Table:
    """What a training of each arm takes, on average."""
    label, hours = cost_of(found)
    heads = ["arm", "pre-training samples", "finetuning samples", label, "time of one training", "of all"]
    rows = []
    each = {arm: found.mean(arm, lambda record: record["seconds"]) or 0.0 for arm in found.ranked}
    every = {arm: seconds * len(found.records[arm]) for arm, seconds in each.items()}
    for arm in found.ranked:
        trained = [_number(found.mean(arm, partial(samples, stage))) for stage in STAGE_NAMES]
        price = found.mean(arm, hours)
        cells = [
            "-" if price is None else f"{price:.2f}",
            duration(each[arm], max(each.values())),
            duration(every[arm], max(every.values())),
        ]
        rows.append([arm, *trained, *cells])
    return Table(heads, rows)


def cost_of(found: Found) -> tuple[str, Callable[[Record], float | None]]:
    """What a training costs, as an axis says it: GPU hours, or CPU minutes where no cell ran on a GPU."""
    if any(record.get("gpu_hours") for records in found.records.values() for record in records):
        return "GPU hours of one training", lambda record: record.get("gpu_hours")
    return "CPU minutes of one training", lambda record: record.get("cpu_seconds", record["seconds"]) / 60


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def samples(stage: str, record: Record) -> float:
    """Samples trained in a stage; of records of before the lab, their rows."""
    if "samples" in record:
        return record["samples"].get(stage, 0)
    return record["counts"]["rows" if stage == "pretrain" else "finetune_rows"]
