"""`python -m toolkit score`: the local score of an experiment's answers, beside a baseline's."""

from __future__ import annotations

import argparse
from typing import Any

from toolkit.errors import positive
from toolkit.eval.score import explain, find_answers, score_answers
from toolkit.files import display_path, write_json


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
    scores = [score]
    if args.baseline:
        baseline_folder, _ = find_answers(args.baseline, args.preset or preset.name)
        scores.append(score_answers(baseline_folder, preset)[0])
    columns = [_flat(score) for score in scores]
    written = folder.with_name(f"{folder.name}.score.json") if folder.is_file() else folder / "score.json"
    write_json(written, {"answers": folder.name, "preset": preset.name, **score, "not_scored": notes})
    print(_table([args.experiment, args.baseline], columns, _unanswered(scores)))
    for note in notes:
        print(note)
    if args.explain:
        print(*explain(folder, preset, args.explain), sep="\n")
    print(f"written: {display_path(written)}")


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


def _unanswered(scores: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Further rows of the table, label -> cells: how many questions have no answer, where any has none."""
    rows = {}
    for benchmark, label in (("textvqa", "TextVQA unanswered"), ("mmbench", "MMBench unanswered")):
        if any(score[benchmark] and score[benchmark]["unanswered"] for score in scores):
            cells = [score[benchmark] for score in scores]
            rows[label] = [f"{cell['unanswered']}/{cell['questions']}" if cell else "-" for cell in cells]
    return rows


def _table(names: list[str | None], columns: list[dict[str, float]], unanswered: dict[str, list[str]]) -> str:
    """Per cent to two decimals; with a baseline, its column and the ratio to it."""
    width = max(len(label) for label in (*columns[0], *unanswered))
    heads = [name or "" for name in names[: len(columns)]] + ["ratio"] * (len(columns) > 1)
    widths = [max(8, len(head)) for head in heads]
    lines = [_line("per cent", width, heads, widths)]
    for label, value in columns[0].items():
        cells = [f"{100 * value:.2f}"]
        if len(columns) > 1:
            other = columns[1].get(label)
            cells.append("-" if other is None else f"{100 * other:.2f}")
            cells.append(f"{value / other:.2f}" if other else "-")
        lines.append(_line(label, width, cells, widths))
    return "\n".join(lines + [_line(label, width, cells, widths) for label, cells in unanswered.items()])


def _line(label: str, width: int, cells: list[str], widths: list[int]) -> str:
    return " ".join([f"{label:{width}}", *(f"{cell:>{w}}" for cell, w in zip(cells, widths, strict=False))])
