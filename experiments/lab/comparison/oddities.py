"""What is odd about a lab's trainings, so that a difference may be an accident: warnings, one line each."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

import pandas as pd

from toolkit.eval.questions import collapse_warning

# Measured on the mini world's 121 records: the last losses of one arm differ by 1.3 times and less, once by 1.6, in a
# training that had not learnt to read.
ODD_LOSS = 1.5
RISEN = 1.2  # from its lowest stretch to its last
STRETCH = 10  # parts that a loss curve is cut into
LETTER = re.compile(r"\(?([A-I])\)?[.:]?")


def warnings_of(records: Sequence[Mapping[str, Any]], answers: pd.DataFrame | None = None) -> list[str]:
    """Warnings about a lab's cells.

    Args:
        records: of finished cells.
        answers: columns `arm, draw, seed, benchmark, answer`; the answers to the rotations of one question may stand in
            one text, separated by ` | `. None where there are none.
    """
    found = [f"{_name(record)}: {warning}" for record in records for warning in _loss_warnings(record)]
    found += _outliers(records)
    found += _fewer_samples(records)
    collapsed = list(_collapsed(answers)) if answers is not None and "answer" in answers else []
    told = {f"{_name(record)}: {warning}" for record in records for warning in record.get("warnings", ())}
    return found + collapsed + sorted(told.difference(collapsed))


def _name(record: Mapping[str, Any]) -> str:
    draw = f", draw {record['draw']}" if record.get("draw") else ""
    return f"{record['arm']}, seed {record['seed']}{draw}"


def _losses(record: Mapping[str, Any]) -> Iterator[tuple[str, list[float]]]:
    """Stage and curve; older records hold one number, the mean of the last tenth."""
    for stage, loss in record.get("loss", {}).items():
        yield (
            stage,
            [float("nan") if value is None else value for value in (loss if isinstance(loss, list) else [loss])],
        )


def _stretches(losses: Sequence[float]) -> list[float]:
    """Means of equal parts of a curve, in order."""
    size = max(1, len(losses) // STRETCH)
    return [sum(losses[at : at + size]) / size for at in range(0, len(losses) - size + 1, size)]


def _loss_warnings(record: Mapping[str, Any]) -> Iterator[str]:
    for stage, losses in _losses(record):
        if not all(math.isfinite(loss) for loss in losses):
            yield f"the loss of {stage} is not a number at some step: the training diverged"
            continue
        means = _stretches(losses)
        if len(means) > 2 and means[-1] > RISEN * min(means):
            yield f"the loss of {stage} rose from {min(means):.2f} to {means[-1]:.2f} at its end: has it diverged?"
        elif stage == "pretrain" and len(means) > 2 and means[-1] >= means[0]:
            yield f"the loss of {stage} has not fallen (from {means[0]:.2f} to {means[-1]:.2f})"


def _outliers(records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Trainings whose last loss is far above that of the same arm's others."""
    last: dict[tuple[str, str], list[tuple[float, Mapping[str, Any]]]] = {}
    for record in records:
        for stage, losses in _losses(record):
            if losses and math.isfinite(end := _stretches(losses)[-1]):
                last.setdefault((record["arm"], stage), []).append((end, record))
    for (_, stage), ends in last.items():
        usual = median(end for end, _ in ends)
        for end, record in ends:
            if len(ends) > 2 and end > ODD_LOSS * usual:
                yield f"{_name(record)}: the loss of {stage} ended at {end:.2f}, the arm's others at {usual:.2f}"


def _fewer_samples(records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Arms that a stage trained on fewer samples than others; the arm without pre-training is meant to be so."""
    by_stage: dict[str, dict[str, int]] = {}
    for record in records:
        counts = record.get("counts", {})
        samples = record.get("samples") or {
            "pretrain": counts.get("rows", 0),
            "finetune": counts.get("finetune_rows", 0),
        }
        for stage, count in samples.items():
            arms = by_stage.setdefault(stage, {})
            arms[record["arm"]] = max(count, arms.get(record["arm"], 0))
    for stage, arms in by_stage.items():
        most = max(arms.values())
        for arm, count in arms.items():
            if 0 < count < most:
                yield f"{arm}: {stage} had {count:,} samples, others {most:,}; some of a difference may be due to that"


def _collapsed(answers: pd.DataFrame) -> Iterator[str]:
    for _, rows in answers.groupby(["arm", "draw", "seed", "benchmark"], sort=False):
        texts = [_letter(text) for answer in rows["answer"].astype(str) for text in answer.split(" | ")]
        if warning := collapse_warning(texts):
            yield f"{_name(rows.iloc[0].to_dict())}: {rows['benchmark'].iloc[0]}: {warning}"


def _letter(answer: str) -> str:
    """A letter in any plain writing as the letter, so that "A", "A." and "(A)" are one; other texts as they are."""
    found = LETTER.fullmatch(answer.strip())
    return found[1] if found else answer
