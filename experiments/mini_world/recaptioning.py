"""Does recaptioning help where clean pairs are few? The mini recipe with its captioner and without.

    python -m experiments.mini_world.recaptioning [--split dev] [--rows 200]

Four pairs in five of a small seed are defective, so that few clean pairs have to fill a cap of 1,200 rows. Both recipes
fill up with copies; one first rewrites the captions of all pairs below the CLIP threshold. Every training writes a
record in `records/recaptioning` and is not repeated; two shells can share the work (`--only`). Prints the means of both
benchmarks, and their difference over the same draws and seeds with its 95 % interval. The trainings are cells of a lab.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import yaml

from experiments.lab.labfile import OUTPUT, lab_of
from experiments.lab.run import make, missing_lines
from experiments.mini_world.report import (
    QUESTIONS,
    RECIPE,
    RECORDS,
    both,
    estimate,
    mmbench,
    paired,
    read_records,
    textvqa,
)
from toolkit.errors import UserError, positive
from toolkit.mini.seed import DEFECTS

SHARES = DEFECTS | {"mismatched": 0.20, "half_wrong": 0.15, "boilerplate": 0.20}
RECAPTION, FILL = "conditional_recaption_mapper", "fill_to_cap_selector"
KINDS = ("with", "without")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", choices=("dev", "test"), default="dev", help="questions (default: dev)")
    parser.add_argument("--rows", type=positive, default=200, help="pairs of a seed (default: 200)")
    parser.add_argument("--seeds", type=positive, default=5, help="TRAIN_SEEDs per draw (default: 5)")
    parser.add_argument("--draws", type=positive, default=2, help="draws of the seed (default: 2)")
    parser.add_argument("--only", choices=KINDS, help="train one of the two")
    arguments = parser.parse_args()
    folder = RECORDS / "recaptioning" / f"{arguments.rows}_{arguments.split}"
    kinds = [arguments.only] if arguments.only else KINDS
    values = {
        "seeds": arguments.seeds, "baseline": kinds[-1], "records": str(folder),
        "arms": {kind: str(recipe(OUTPUT / "recaptioning" / f"{kind}.yaml", kind)) for kind in kinds},
        "world": {
            "draws": arguments.draws, "split": arguments.split, "questions": QUESTIONS, "rows": arguments.rows,
            "shares": SHARES,
        },
    }  # fmt: skip
    missing = [outcome for outcome in make(lab_of(values, "recaptioning", "recaptioning")) if not outcome.key]
    if missing:
        raise UserError("; ".join(missing_lines(missing)))
    found = read_records(folder, kinds)
    for kind, records in found.items():
        means = (estimate([measure(record) for record in records]).mean for measure in (textvqa, mmbench, both))
        distinct = estimate([record["counts"]["distinct_rows"] for record in records]).mean
        print(
            f"{kind} recaptioning: {distinct:.0f} different rows, "
            + "TextVQA {:.1f}, MMBench {:.1f}, both {:.1f}".format(*means),
            f"({len(records)} trainings)",
        )
    if not arguments.only:
        for name, measure in (("TextVQA", textvqa), ("MMBench", mmbench), ("both", both)):
            if gain := paired(found["with"], found["without"], measure):
                width = f" +- {gain.half_width:.1f}" if gain.half_width is not None else ""
                print(f"with - without, {name}: {gain.mean:+.1f}{width}")


def recipe(file: Path, kind: str) -> Path:
    """Write the mini recipe with every pair below the CLIP threshold recaptioned, or none, and copies up to the cap."""
    content = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    if kind == "without":
        content["process"] = [step for step in content["process"] if RECAPTION not in step]
    for step in content["process"]:
        if RECAPTION in step:
            step[RECAPTION]["min_score"] = -1.0
        if FILL in step:
            step[FILL]["max_copies"] = step[FILL]["cap"]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return file


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
