"""The page of a finished run: scores, losses, rows, answers and cost, beside those of another run if one is named."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.lab.answers import Outcome
from experiments.lab.comparison.against import RUN, compare
from experiments.lab.comparison.results import BOTH, Analysis, Estimate
from experiments.lab.finished import STAGES, FinishedRun, Row
from experiments.lab.intervals import DRAWS, interval
from experiments.lab.pages.browser import Entry, browser
from experiments.lab.pages.markup import (
    BENCHMARK_NAMES,
    STAGE_NAMES,
    Table,
    duration,
    render,
    write_page,
)
from toolkit.files import display_path

OF_QUESTIONS = (
    "Beside a score: its 95 % interval over questions, Jeffreys's where an answer is right or wrong, a bootstrap of "
    f"{DRAWS:,} draws where it can be partly right."
)


def write_run_page(runs: Sequence[FinishedRun], path: Path, inputs: str) -> None:
    """Write the page of a run, and its plots into a folder beside it.

    Args:
        runs: the run, and one to compare with if there is one.
        path: of the page.
        inputs: hash of everything it shows.

    Raises:
        UserError: those of `score_answers`; no page can be written there.
    """
    plots = path.with_suffix("")
    names = _names(runs)
    drawn = _plots(runs, names)
    for plot in drawn:
        plot.write(plots)
    write_page(path, _page(runs, names, drawn, plots.name, inputs))


def _names(runs: Sequence[FinishedRun]) -> list[str]:
    names = [run.name for run in runs]
    return names if len(set(names)) == len(names) else [display_path(run.folder) for run in runs]


def _page(runs: Sequence[FinishedRun], names: Sequence[str], drawn: Sequence[Any], folder: str, inputs: str) -> str:
    run = runs[0]
    rows = score_rows(run)
    analysis = compare(runs) if len(runs) > 1 else None
    notes = analysis.notes if analysis else []
    return render(
        "run.html.j2",
        inputs,
        title=f"Run {names[0]}" + (f" beside {names[1]}" if len(runs) > 1 else ""),
        lead=_lead(runs, names, analysis),
        tiles=_tiles(run, rows),
        warnings=_warnings(runs, names),
        scores=_scores(runs, names, rows, analysis),
        scores_note=" ".join([OF_QUESTIONS, *(f"Differences: {note}" for note in notes), *_blind_note(run)]),
        strict_note=_strict_note(runs),
        plots={plot.name: plot for plot in drawn},
        folder=folder,
        rows=[(name, run.rows) for name, run in zip(names, runs, strict=True)],
        difference=_recipe_difference(runs, names),
        browser=browser(names, entries([run.outcomes for run in runs])),
        answers_note=_answers_note(run),
        cost=_cost(runs, names),
        about=f"Made by python -m toolkit lab page from {', '.join(display_path(run.folder) for run in runs)}.",
    )


def score_rows(run: FinishedRun) -> dict[Row, str]:
    """The rows of a run's score table with their labels: benchmarks first, then MMBench's categories."""
    score = run.score[0]
    rows: dict[Row, str] = {}
    if score["textvqa"]:
        rows["textvqa", "", "tolerant"] = "TextVQA soft accuracy"
    if score["mmbench"]:
        rows["mmbench", "", "tolerant"] = "MMBench tolerant"
        if score["mmbench"]["strict"] > 0:
            rows["mmbench", "", "strict"] = "MMBench strict"
        if len(score["mmbench"]["categories"]) > 1:
            rows |= {
                ("mmbench", name, "tolerant"): f"MMBench {name}" for name in score["mmbench"]["categories"] if name
            }
    return rows


def _blind_note(run: FinishedRun) -> list[str]:
    if not run.blind:
        return []
    return ["Without image: the same model's answers to one grey image, which is what can be told without looking."]


def _strict_note(runs: Sequence[FinishedRun]) -> str:
    scores = [run.score[0]["mmbench"] for run in runs]
    if any(score is None or score["strict"] > 0 for score in scores):
        return ""
    return "MMBench strict is 0 in all rows: no answer is the bare letter; tolerant counts an option's text too."


def _scores(
    runs: Sequence[FinishedRun], names: Sequence[str], rows: dict[Row, str], analysis: Analysis | None
) -> Table:
    """Per cent with intervals; with a baseline, its column and the difference; the blind score where there is one."""
    heads = ["per cent", "questions", *names, *(["difference"] if analysis else [])]
    cells = []
    for row, label in rows.items():
        values = [run.values(row) for run in runs]
        line = [label, f"{len(values[0]):,}"]
        line += [_percent(found.mean(), *interval(found)) if len(found) else "-" for found in values]
        cells.append([*line, *([_difference(row, values, analysis)] if analysis else [])])
    if analysis and (both := analysis.comparison(RUN, BOTH)):
        scores = [f"{arm.scores[BOTH].value:.2f}" for arm in analysis.arms]
        cells.append(["both, mean", "", *scores, _change(both.difference)])
    if blind := {row: runs[0].values(row, blind=True) for row in rows} if runs[0].blind else {}:
        heads.append("without image")
        found = [_percent(values.mean(), *interval(values)) if len(values) else "-" for values in blind.values()]
        for line, cell in zip(cells, [*found, ""], strict=False):
            line.append(cell)
    return Table(heads, cells)


def _difference(row: Row, values: Sequence[np.ndarray], analysis: Analysis) -> str:
    """Of a benchmark with its interval, as `score --baseline` has it; of a part of it the figure alone."""
    benchmark, category, credit = row
    found = None if category or credit == "strict" else analysis.comparison(RUN, benchmark)
    if found:
        return _change(found.difference)
    return f"{100 * (values[0].mean() - values[1].mean()):+.2f}" if all(map(len, values)) else "-"


def _change(estimate: Estimate) -> str:
    ends = "" if estimate.low is None or estimate.high is None else f" [{estimate.low:+.1f}, {estimate.high:+.1f}]"
    return f"{estimate.value:+.2f}{ends}"


def _percent(mean: float, low: float, high: float) -> str:
    return f"{100 * mean:.2f} [{100 * low:.1f}, {100 * high:.1f}]"


def _lead(runs: Sequence[FinishedRun], names: Sequence[str], analysis: Analysis | None) -> str:
    """The first sentence: what came out."""
    if analysis is None:
        preset = runs[0].preset.name
        return f"One training of {names[0]}, preset {preset}: what it was trained on, its scores, and every answer."
    if not analysis.comparisons:
        return f"{names[0]} and {names[1]} have no benchmark in common."
    labels = BENCHMARK_NAMES | {BOTH: "both"}
    told = [f"{labels.get(one.measure, one.measure)} {_change(one.difference)}" for one in analysis.comparisons]
    verdict = analysis.comparisons[-1].words
    return f"{names[0]} minus {names[1]}, one training each, in points: {', '.join(told)}. The verdict: {verdict}."


def _tiles(run: FinishedRun, rows: dict[Row, str]) -> list[tuple[str, str]]:
    tiles = [(f"{100 * run.values(row).mean():.1f} %", label) for row, label in rows.items() if row[1] == ""]
    for stage in STAGES:
        if counts := run.record(stage).get("counts"):
            tiles.append((f"{counts.get('samples_trained', 0):,}", f"samples in {STAGE_NAMES[stage]}"))
    seconds = [record["seconds"] for stage in STAGES if (record := run.record(stage))]
    if seconds:
        tiles.append((duration(sum(seconds)), "training"))
    return tiles


def _warnings(runs: Sequence[FinishedRun], names: Sequence[str]) -> list[str]:
    found = [f"{name}: {warning}" for run, name in zip(runs, names, strict=True) for warning in _warnings_of(run)]
    trained = {run.record("pretrain").get("counts", {}).get("samples_trained") for run in runs} - {None}
    if len(trained) > 1:
        counts = " and ".join(f"{count:,}" for count in sorted(trained))
        found.append(f"The runs were pre-trained on different numbers of samples: {counts}.")
    return found


def _warnings_of(run: FinishedRun) -> list[str]:
    """What is odd about one run's answers and stages."""
    found = list(run.score[1])
    for benchmark, score in run.score[0].items():
        if score and score["unanswered"]:
            missing = f"{score['unanswered']:,} of {score['questions']:,} questions"
            found.append(f"{BENCHMARK_NAMES[benchmark]}: {missing} have no answer and count 0")
    if run.folder.is_file():
        return [*found, "answers from a file alone: loss, rows and cost are not known"]
    for stage in STAGES:
        record = run.record(stage)
        if not record:
            folder = display_path(run.stage_folders[stage])
            found.append(f"no record of its {STAGE_NAMES[stage]} in {folder}: loss and cost are not known")
        found += [f"{STAGE_NAMES[stage]}: {warning}" for warning in record.get("warnings", [])]
        if changes := record.get("experiment_only"):
            found.append(f"{STAGE_NAMES[stage]} is no submission: {', '.join(map(str, changes))}")
    return found


def _plots(runs: Sequence[FinishedRun], names: Sequence[str]) -> list[Any]:
    from experiments.lab.pages.plots import Dot, Line, curves, dots

    panels: dict[str, list[Dot]] = {"": []}
    for run, name in zip(runs, names, strict=True):
        for row, label in score_rows(runs[0]).items():
            values = run.values(row)
            if len(values):
                low, high = interval(values)
                panels[""].append(Dot(label, name, 100 * values.mean(), 100 * low, 100 * high))
    drawn = [dots("scores", "Scores with their 95 % intervals over questions.", panels, "per cent", order=names)]
    lines = []
    for stage in STAGES:
        for run, name in zip(runs, names, strict=True):
            steps, losses = run.losses(stage)
            if losses:
                lines.append(Line(STAGE_NAMES[stage], name, steps, losses))
    if lines:
        caption = "Training loss as logged (faint), and its moving mean."
        if without := [name for name in names if name not in {line.series for line in lines}]:
            caption += f" No curve was recorded for {', '.join(without)}."
        drawn.append(curves("loss", caption, lines, "step", "loss", logged=True, order=names))
    return drawn


def entries(runs: Sequence[Sequence[Outcome]]) -> list[Entry]:
    """Questions of several runs side by side, in the first one's order."""
    of_run = [{outcome.key: outcome for outcome in run} for run in runs]
    keys = list(dict.fromkeys(key for run in of_run for key in run))
    found = []
    for key in keys:
        mine = [run.get(key) for run in of_run]
        first = next(outcome for outcome in mine if outcome)
        found.append(
            Entry(
                benchmark=first.benchmark,
                question_id=first.question_id,
                category=first.category,
                question=first.question,
                options=first.options,
                image=first.image,
                means=tuple(outcome.tolerant if outcome else None for outcome in mine),
                given=tuple(outcome.given if outcome else () for outcome in mine),
            )
        )
    return found


def _answers_note(run: FinishedRun) -> str:
    note = "Every question with what was answered, how it was read, and what it is worth."
    if any(len(outcome.given) > 1 for outcome in run.outcomes):
        note += " A question of MMBench that is asked with its options rotated is right only where each rotation is."
    return note


def _recipe_difference(runs: Sequence[FinishedRun], names: Sequence[str]) -> list[str]:
    """What the recipe changes against the baseline's recipe, as lines of a diff."""
    texts = [run.rows.text if run.rows else None for run in runs]
    if len(texts) < 2 or texts[0] is None or texts[1] is None or texts[0] == texts[1]:
        return []
    old, new = texts[1].splitlines(), texts[0].splitlines()
    return list(difflib.unified_diff(old, new, names[1], names[0], lineterm="", n=2))


def _cost(runs: Sequence[FinishedRun], names: Sequence[str]) -> Table:
    """A line for every step of every run that left a record; hours of GPUs only."""
    gpus = runs[0].preset.needs_gpu
    heads = ["run", "step", "size", "on", "time", *(["GPU hours"] if gpus else [])]
    cells = [
        [name, *line[: len(heads) - 1]]
        for run, name in zip(runs, names, strict=True)
        for line in _cost_of(run, "GPU" if gpus else "CPU")
    ]
    return Table(heads, cells, texts=(0, 1))


def _cost_of(run: FinishedRun, device: str) -> Iterator[list[str]]:
    if run.rows and run.rows.seconds:
        yield ["recipe", f"{run.rows.steps[0]['rows_in']:,} rows", "", duration(run.rows.seconds), ""]
    for stage in STAGES:
        if record := run.record(stage):
            processes, seconds = record["configuration"].get("processes", 1), record["seconds"]
            resumed = record["counts"].get("resumed_at_step", 0)
            yield [
                STAGE_NAMES[stage],
                f"{record['counts']['samples_trained']:,} samples",
                f"{processes} x {device}",
                duration(seconds) + (f" since step {resumed:,}, where it resumed" if resumed else ""),
                f"{processes * seconds / 3600:.3g}",
            ]
    for benchmark, label in BENCHMARK_NAMES.items():
        if "seconds" in (record := run.evaluation(benchmark)):
            size = f"{record['counts']['questions']:,} questions"
            yield [f"answers to {label}", size, "", duration(record["seconds"]), ""]
