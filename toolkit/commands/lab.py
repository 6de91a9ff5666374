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
    ladder = actions.add_parser("ladder", help="run the lab at each size of its `ladder`; compare the ranks of arms")
    ladder.add_argument("lab", type=Path, help="a lab file with a `ladder`")
    ladder.add_argument("--plan", action="store_true", help="print cells and cost of each size; start nothing")


def run(args: argparse.Namespace) -> int:
    """Run one action; returns the exit status. Raises UserError where the lab file is wrong."""
    engine = importlib.import_module(f"{LAB}.run")
    if args.action == "ladder":
        return engine.run_ladder(args.lab, args.plan)
    return engine.run_lab(args.lab, args.plan)
