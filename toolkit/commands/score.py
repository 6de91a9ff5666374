"""`python -m toolkit score`: the local score of an experiment's answers, beside a baseline's."""

from __future__ import annotations

import argparse
from typing import Any

from toolkit.eval.score import find_answers, score_answers
from toolkit.files import display_path, write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m toolkit score`."""
    parser.add_argument("experiment", metavar="EXP", help="experiment name, or a folder with textvqa/ and mmbench/")
    parser.add_argument("--baseline", metavar="EXP", help="experiment to compare with")
    parser.add_argument(
        "--preset", help="full, 10k, mini or a YAML file (default: the one this experiment was run with)"
    )


def run(args: argparse.Namespace) -> None:
    """Print the scores as a table, write score.json. Raises UserError as `find_answers` and `score_answers` do."""
    folder, preset = find_answers(args.experiment, args.preset)
    score, notes = score_answers(folder, preset)
    columns = [_flat(score)]
    if args.baseline:
        baseline_folder, _ = find_answers(args.baseline, args.preset or preset.name)
        columns.append(_flat(score_answers(baseline_folder, preset)[0]))
    write_json(folder / "score.json", {"answers": folder.name, "preset": preset.name, **score, "not_scored": notes})
    print(_table([args.experiment, args.baseline], columns))
    for note in notes:
        print(note)
    print(f"written: {display_path(folder / 'score.json')}")


def _flat(score: dict[str, Any]) -> dict[str, float]:
    """Rows of the table, label -> share."""
    rows = {}
    if score["textvqa"]:
        rows["TextVQA soft accuracy"] = score["textvqa"]["accuracy"]
    if score["mmbench"]:
        rows["MMBench strict"] = score["mmbench"]["strict"]
        rows["MMBench tolerant"] = score["mmbench"]["tolerant"]
        for name, share in score["mmbench"]["categories"].items():
            rows[f"  {name} strict ({share['groups']})"] = share["strict"]
            rows[f"  {name} tolerant ({share['groups']})"] = share["tolerant"]
    return rows


def _table(names: list[str | None], columns: list[dict[str, float]]) -> str:
    """Per cent to two decimals; with a baseline, its column and the ratio to it."""
    width = max(len(label) for label in columns[0])
    heads = [name or "" for name in names[: len(columns)]] + ["ratio"] * (len(columns) > 1)
    widths = [max(8, len(head)) for head in heads]
    lines = [" ".join([f"{'per cent':{width}}", *(f"{head:>{w}}" for head, w in zip(heads, widths, strict=True))])]
    for label, value in columns[0].items():
        cells = [f"{100 * value:.2f}"]
        if len(columns) > 1:
            other = columns[1].get(label)
            cells.append("-" if other is None else f"{100 * other:.2f}")
            cells.append(f"{value / other:.2f}" if other else "-")
        lines.append(" ".join([f"{label:{width}}", *(f"{cell:>{w}}" for cell, w in zip(cells, widths, strict=True))]))
    return "\n".join(lines)
