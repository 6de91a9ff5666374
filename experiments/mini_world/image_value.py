"""Do image value and text read into captions pay? Their recipes against raw and the mini recipe, over several draws.

    python -m experiments.mini_world.image_value [--split dev]

A judge is pre-trained on each draw of the seed and says what its pairs are worth (`python -m toolkit judge`); then the
recipes run on each draw and are trained on, as cells of a lab: a rerun does what is missing. Records are in
`records/image_value`; those of raw and the mini recipe are taken from the mini world's own. Prints the lab's table.
On `dev` there are also the thresholds that `image_value_first.yaml` has its own from.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from experiments.lab.labfile import OUTPUT, RECIPES, lab_of
from experiments.lab.run import finish, make
from experiments.lab.worlds import SEED_FILE, TRUTH_FILE
from experiments.mini_world.report import QUESTIONS, RECIPE, RECORDS
from toolkit.errors import UserError, positive
from toolkit.files import REPOSITORY, display_path
from toolkit.mini.seed import build_seed

WORK = OUTPUT / "image_value"
OPERATOR = "image_value_filter"
# Shares of the seed that `image_value_first.yaml` might drop as well, tried on dev.
OTHER_RANKS = (0.2, 0.5)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", choices=("dev", "test"), default="dev", help="questions (default: dev)")
    parser.add_argument("--seeds", type=positive, default=5, help="TRAIN_SEEDs per draw (default: 5)")
    parser.add_argument("--draws", type=positive, default=2, help="draws of the seed (default: 2)")
    arguments = parser.parse_args()
    values = [judged(draw) for draw in range(arguments.draws)]
    own = RECORDS / arguments.split
    other_ranks = OTHER_RANKS if arguments.split == "dev" else ()
    keys = {
        "seeds": arguments.seeds, "baseline": "raw", "records": str(RECORDS / "image_value" / arguments.split),
        "arms": {"raw": "raw", "recipe": display_path(RECIPE), **recipes(values, other_ranks)},
        "reuse": [display_path(own)] if own.is_dir() else [],
        "world": {"draws": arguments.draws, "split": arguments.split, "questions": QUESTIONS},
    }  # fmt: skip
    lab = lab_of(keys, "image_value", "image_value")
    return finish(lab, make(lab))


def judged(draw: int) -> Path:
    """The file of image values of a draw; makes it, or what it lacks.

    Raises:
        UserError: the judge failed.
    """
    folder, file = WORK / f"draw_{draw}", WORK / f"draw_{draw}.parquet"
    if not (folder / TRUTH_FILE).is_file():  # it is written last
        build_seed(folder, folder / TRUTH_FILE, draw)
    command = [
        sys.executable,
        "-m",
        "toolkit",
        "judge",
        str(folder / SEED_FILE),
        "--preset",
        "mini",
        "--out",
        str(file),
    ]
    if subprocess.run(command, cwd=REPOSITORY, check=False).returncode:
        raise UserError(f"draw {draw} was not judged; the same command resumes")
    return file


def recipes(values: Sequence[Path], other_ranks: Sequence[float] = ()) -> dict[str, str]:
    """The kit's recipes by arm; those that read image values read these.

    Args:
        values: files of `judged`.
        other_ranks: each makes an arm more, `image_value_first.yaml` with this `min_rank`.
    """
    chosen = {"image_value": ("image_value", {}), "image_value_first": ("image_value_first", {})}
    chosen |= {f"image_value_first_{rank}": ("image_value_first", {"min_rank": rank}) for rank in other_ranks}
    found = {"reading": display_path(RECIPES / "mini" / "reading.yaml")}
    for arm, (recipe, changed) in chosen.items():
        content = yaml.safe_load((RECIPES / "mini" / f"{recipe}.yaml").read_text(encoding="utf-8"))
        for step in content["process"]:
            if OPERATOR in step:
                step[OPERATOR] |= {"values": list(map(str, values)), **changed}
        file = WORK / f"{len(values)}_draws" / f"{arm}.yaml"  # another shell may be at work on another number of draws
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        found[arm] = display_path(file)
    return found


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"error: {error}")
