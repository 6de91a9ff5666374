"""`python -m toolkit score`: the local score of an experiment's answers, beside a baseline's."""

from __future__ import annotations

import argparse
import importlib
import textwrap
from pathlib import Path

from toolkit.errors import UserError, positive
from toolkit.eval.score import blind_folder, explain, find_answers, score_answers, training_warnings
from toolkit.eval.score_table import ScoredRun, table
from toolkit.files import display_path, write_json
from toolkit.presets import Preset

# An experiment uses the referee and is no part of it: known here by its name only.
COMPARISON = "experiments.lab.comparison.remembered"
WIDTH = 80


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m toolkit score`."""
    parser.add_argument(
        "experiment",
        metavar="EXP",
        help="experiment name, a folder with textvqa/ and mmbench/, or a file of answers to MMBench (jsonl; or "
        "VLMEvalKit's xlsx, JSON or TSV)",
    )
    parser.add_argument("--baseline", metavar="EXP", help="experiment to compare with")
    parser.add_argument(
        "--explain", type=positive, metavar="N", help="also show how N answers of each benchmark were read"
    )
    parser.add_argument(
        "--preset", help="full, 10k, mini or a YAML file (default: the one this experiment was run with)"
    )


def run(args: argparse.Namespace) -> None:
    """Print the scores as a table, write score.json. Raises UserError as `find_answers` and `score_answers` do."""
    folder, preset = find_answers(args.experiment, args.preset)
    score, notes = score_answers(folder, preset)
    name = args.preset or preset.name
    runs = [ScoredRun(_short(args.experiment, preset), score)]
    if args.baseline is not None:
        baseline_folder, _ = find_answers(args.baseline, name)
        if baseline_folder.resolve() == folder.resolve():
            raise UserError(f"--baseline {args.baseline}: the same answers; name another run to compare with")
        runs.append(ScoredRun(_short(args.baseline, preset), score_answers(baseline_folder, preset)[0]))
    written = folder.with_name(f"{folder.name}.score.json") if folder.is_file() else folder / "score.json"
    write_json(written, {"answers": folder.name, "preset": preset.name, **score, "not_scored": notes})
    differences, remarks = _differences(args.experiment, args.baseline, name) if args.baseline is not None else ({}, [])
    if len(runs) > 1 and differences:
        remarks[-1] = f"{runs[0].name} against {runs[1].name}: {remarks[-1]}."
    blind, hidden = _blind(folder, preset)
    print("\n".join(table(runs, blind, differences)))
    if blind:
        print(f"blind: {runs[0].name} without the images (eval --no-image), MMBench tolerant")
    for remark in remarks:
        print(textwrap.fill(remark, WIDTH, break_long_words=False, break_on_hyphens=False))
    for note in (*hidden, *notes, *training_warnings(folder, preset)):
        print(note)
    if args.explain:
        print(*explain(folder, preset, args.explain), sep="\n")
    print(f"written: {display_path(written)}")


def _short(experiment: str, preset: Preset) -> str:
    """A name that heads a column: of a folder the experiment's."""
    return Path(experiment).name.removeprefix(f"{preset.run_name}-Finetune-") or experiment


def _blind(folder: Path, preset: Preset) -> tuple[ScoredRun | None, list[str]]:
    """The score of the answers that were given without images, where there are any; why they are not shown."""
    if not blind_folder(folder).is_dir():
        return None, []
    try:
        return ScoredRun("blind", score_answers(blind_folder(folder), preset, blind=True)[0]), []
    except UserError as error:
        return None, [f"blind not shown: {error}"]


def _differences(experiment: str, baseline: str, preset: str) -> tuple[dict[str, str], list[str]]:
    """Differences with their intervals by row of the table, and what to say of them; the verdict comes last."""
    try:
        return importlib.import_module(COMPARISON).differences(experiment, baseline, preset)
    except ModuleNotFoundError as error:
        return {}, [f"No intervals: {error.name} is missing; bash install.sh brings all packages."]
