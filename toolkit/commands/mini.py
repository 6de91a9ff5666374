"""`python -m toolkit mini build | check | report`: rebuild the mini world, measure its models, compare data in it."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

# An experiment uses the referee and is no part of it: known here by its name only.
REPORT = "experiments.mini_world.report"
PART_NAMES = ("seed", "instruct", "eval", "clip", "convnext", "gemma", "captioner")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m toolkit mini`."""
    actions = parser.add_subparsers(dest="action", required=True)
    build = actions.add_parser("build", help="build the world, or parts of it, where the kit keeps them")
    build.add_argument("--only", choices=PART_NAMES, action="append", help="build this part only (may be repeated)")
    actions.add_parser("check", help="measure the models against their thresholds; fails if one is missed")
    larger = actions.add_parser("eval-set", help="write an evaluation split of any size into a folder")
    larger.add_argument("folder", type=Path, help="gets textvqa/ and mmbench/mmbench_mini.tsv")
    larger.add_argument("--split", choices=("dev", "test"), default="dev")
    larger.add_argument("--questions", type=int, default=600, help="questions of each benchmark (default 600)")
    draw = actions.add_parser("seed-draw", help="write another draw of the seed set into a folder")
    draw.add_argument("folder", type=Path, help="gets the jsonl, stage_1.json, images/ and seed_truth.jsonl")
    draw.add_argument("--draw", type=int, required=True, help="number of the draw; 0 is the committed one")
    report = actions.add_parser("report", help="train every arm that has no record yet; print the table")
    importlib.import_module(REPORT).add_arguments(report)


def run(args: argparse.Namespace) -> int:
    """Run one action; returns the exit status."""
    if args.action == "build":
        from toolkit.mini.build import build

        build([name for name in PART_NAMES if not args.only or name in args.only])
    elif args.action == "check":
        from toolkit.mini.checks import run_checks

        return run_checks()
    elif args.action == "report":
        return importlib.import_module(REPORT).run(args)
    elif args.action == "eval-set":
        from toolkit.mini.evaluation import build_mmbench, build_textvqa

        build_textvqa(args.folder / "textvqa", args.split, args.questions)
        build_mmbench(args.folder / "mmbench" / "mmbench_mini.tsv", args.split, args.questions)
    else:
        from toolkit.mini.seed import build_seed

        build_seed(args.folder, args.folder / "seed_truth.jsonl", args.draw)
    return 0
