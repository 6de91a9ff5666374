"""`python -m toolkit lab page`: what came out, as a page to read in a browser."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

# An experiment uses the referee and is no part of it: known here by its name only.
LAB = "experiments.lab"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m toolkit lab`."""
    actions = parser.add_subparsers(dest="action", required=True)
    page = actions.add_parser("page", help="make the page of a lab, or of one finished run")
    page.add_argument("subject", metavar="LAB.yaml|EXP", help="a lab file, or the name or answers folder of a run")
    page.add_argument("--baseline", metavar="EXP", help="of a run: another one, shown beside it")
    page.add_argument("--preset", help="of a run: full, 10k, mini or a YAML file (default: the one it was run with)")
    page.add_argument("--out", type=Path, metavar="FILE.html", help="the page (default: in output/pages)")


def run(args: argparse.Namespace) -> int:
    """Run one action; returns the exit status. Raises UserError for wrong names and files."""
    path, written = importlib.import_module(f"{LAB}.pages").write(args.subject, args.baseline, args.preset, args.out)
    print(f"{'written' if written else 'up to date'}: {path}")
    return 0
