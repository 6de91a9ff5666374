"""`python -m toolkit lab run | page | ladder`: compare data sets and recipes by training on them."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

# An experiment uses the referee and is no part of it: known here by its name only.
LAB = "experiments.lab"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m toolkit lab`."""
    actions = parser.add_subparsers(dest="action", required=True)
    run = actions.add_parser("run", help="train and score every cell that has no record yet; print the table")
    run.add_argument("lab", type=Path, help="a lab file, such as benchmarks/lab/example.yaml")
    run.add_argument("--plan", action="store_true", help="print cells, cost and what is already there; start nothing")
    run.add_argument("--no-run", action="store_true", help="print the table of what is there; start nothing")
    page = actions.add_parser("page", help="make the page of a lab, or of one finished run")
    page.add_argument("subject", metavar="LAB.yaml|EXP", help="a lab file, or the name or answers folder of a run")
    page.add_argument("--baseline", metavar="EXP", help="of a run: another one, shown beside it")
    page.add_argument("--preset", help="of a run: full, 10k, mini or a YAML file (default: the one it was run with)")
    page.add_argument("--out", type=Path, metavar="FILE.html", help="the page (default: in output/pages)")
    ladder = actions.add_parser("ladder", help="run the lab at each size of its `ladder`; compare the ranks of arms")
    ladder.add_argument("lab", type=Path, help="a lab file with a `ladder`")
    ladder.add_argument("--plan", action="store_true", help="print cells and cost of each size; start nothing")


def run(args: argparse.Namespace) -> int:
    """Run one action; returns the exit status. Raises UserError for wrong names and files."""
    if args.action == "page":
        pages = importlib.import_module(f"{LAB}.pages.subject")
        path, written = pages.write(args.subject, args.baseline, args.preset, args.out)
        print(f"{'written' if written else 'up to date'}: {path}")
        return 0
    engine = importlib.import_module(f"{LAB}.run")
    if args.action == "ladder":
        return engine.run_ladder(args.lab, args.plan)
    return engine.print_table(args.lab) if args.no_run else engine.run_lab(args.lab, args.plan)
