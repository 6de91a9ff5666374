"""`python -m toolkit doctor`: what is there, what is missing, what that prevents, and the command for it."""

from __future__ import annotations

import argparse
import importlib.metadata
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from toolkit.download.inventory import Need, commands_for, needs_of_preset, needs_of_recipe
from toolkit.errors import UserError, nearest
from toolkit.files import REPOSITORY, display_path
from toolkit.presets import PRESETS, load_preset

RECIPES = REPOSITORY / "solution" / "recipes"
# Extras of single recipes and options: file -> what lacks them.
EXTRAS = {
    "grounding": "phrase_grounding_filter (recipe bronze_a)",
    "synthesis": "picture_painter_mapper (recipe synthvlm)",
    "ray": "process.py --executor ray",
    "stock": "some of Data-Juicer's own operators",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m toolkit doctor`."""
    parser.add_argument("--preset", choices=PRESETS, help="this preset only; exit status 1 where it cannot run")
    parser.add_argument("--recipe", help="this recipe only, a file or a name; exit status 1 where it cannot run")


def run(args: argparse.Namespace) -> None:
    """Print the state of the machine, then of presets and recipes.

    Raises:
        UserError: what was asked for cannot run; without a question, the mini preset or the packages.
    """
    faults = _machine()
    gpus = _gpus()
    if args.recipe:
        path = _recipe_file(args.recipe)
        faults += [] if _recipe(path) else [f"the recipe {_name(path)} cannot run here"]
    asked = [args.preset] if args.preset else [] if args.recipe else PRESETS
    unable = [name for name in asked if not _preset(name, gpus)]
    faults += [f"the preset {name} cannot run here" for name in unable if name in (args.preset, "mini")]
    if not args.preset and not args.recipe:
        _recipes()
    if faults:
        raise UserError("; ".join(faults) + ": see above")


def _machine() -> list[str]:
    """Print Python, packages and disk; what keeps everything from running."""
    print(f"Python     {'.'.join(map(str, sys.version_info[:3]))}, {sys.executable}")
    wrong = [*_wrong_packages("requirements.txt"), *_wrong_packages("solution/requirements.txt")]
    print(f"packages   {'; '.join(wrong) + '; do: bash install.sh' if wrong else 'as tested'}")
    for name, user in EXTRAS.items():
        file = f"solution/requirements-{name}.txt"
        if (REPOSITORY / file).is_file() and (absent := list(_wrong_packages(file))):
            print(f"  optional {', '.join(absent)}: needed by {user};")
            print(f"           pip install -r {file} -c constraints.txt")
    print(f"disk       {shutil.disk_usage(REPOSITORY).free / 1e9:.0f} GB free in {REPOSITORY}")
    return ["packages are missing"] if any("missing" in text for text in wrong) else []


def _wrong_packages(file: str) -> Iterator[str]:
    """Packages of a requirements file that are missing, or of another version than the tested one."""
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE))
    for name in re.findall(r"^([\w.-]+)", (REPOSITORY / file).read_text(), re.MULTILINE):
        try:
            version = importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            yield f"{name} is missing"
            continue
        if version != (pin := pins.get(name.lower().replace("_", "-"), version)):
            yield f"{name} {version} is not the tested {pin}"


def _gpus() -> int:
    """Print the GPUs; how many there are."""
    import torch  # here, as it takes seconds, and --help need not wait

    count = torch.cuda.device_count()
    for index in range(count):
        about = torch.cuda.get_device_properties(index)
        print(f"GPU {index}      {about.name}, {about.total_memory / 2**30:.0f} GB")
    if not count:
        print("GPU        none that PyTorch sees: 10k and full cannot be trained here")
        advice = "nvidia-smi and CUDA_VISIBLE_DEVICES tell more" if torch.version.cuda else "TORCH=cuda bash install.sh"
        print(f"  with one {advice}")
    return count


def _preset(name: str, gpus: int) -> bool:
    """Print what a preset lacks; whether it can run."""
    preset = load_preset(name)
    missing = [need for need in needs_of_preset(preset) if not need.is_there]
    no_gpu = preset.needs_gpu and not gpus
    print(f"preset {name:6}{'cannot run' if missing or no_gpu else 'can run'}")
    if no_gpu:
        print("  lacks    a CUDA GPU; recipes, check and prepare run without")
    _print_missing(missing)
    if missing:
        print(f"  do       {preset.download}")
    return not missing and not no_gpu


def _recipes() -> None:
    """Print which of the kit's recipes can run, one a line, with the command that brings what another lacks."""
    print("recipes")
    for path in sorted(RECIPES.rglob("*.yaml")):
        missing = [need for need in needs_of_recipe(path) if not need.is_there]
        print(f"  {_name(path):30} {'; '.join(commands_for(missing)) or 'can run'}")


def _recipe(path: Path) -> bool:
    """Print what one recipe lacks; whether it can run."""
    missing = [need for need in needs_of_recipe(path) if not need.is_there]
    print(f"recipe     {_name(path)} {'cannot run' if missing else 'can run'}")
    _print_missing(missing)
    for command in commands_for(missing):
        print(f"  do       {command}")
    return not missing


def _name(path: Path) -> str:
    return path.relative_to(RECIPES).with_suffix("").as_posix() if path.is_relative_to(RECIPES) else str(path)


def _print_missing(missing: list[Need]) -> None:
    for need in missing:
        print(f"  lacks    {need.what}: {display_path(need.path)}")


def _recipe_file(text: str) -> Path:
    """A recipe by path, or by its name under `solution/recipes/`."""
    for path in (Path(text), RECIPES / text, RECIPES / f"{text}.yaml"):
        if path.is_file():
            return path.resolve()
    known = sorted(map(_name, RECIPES.rglob("*.yaml")))
    near = nearest(text, known)
    raise UserError("\n  ".join((f"no recipe {text}{f'{near} There are:' if near else '; there are:'}", *known)))
