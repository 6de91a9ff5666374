"""A lab file: which arms are compared, on what, and how often. `benchmarks/lab/example.yaml` comments every key."""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from toolkit.errors import UserError
from toolkit.files import REPOSITORY, display_path, require_file
from toolkit.mini.seed import DEFECTS, ROWS
from toolkit.presets import Preset, build, load_preset, shown

Kind = Literal["control", "recipe", "file"]
KINDS: tuple[Kind, ...] = ("control", "recipe", "file")
CONTROLS = ("none", "raw", "random", "reversed")
WORLD_CONTROLS = ("clean", *(f"no_{defect}" for defect in DEFECTS))
# Controls that have as many rows as another arm.
SIZED = ("random", "reversed")
# Per preset of the kit, the seed's file; a preset of one's own names it in the lab file.
DATASETS = {
    "mini": "input/mini/mgm_pretrain_mini.jsonl",
    "10k": "input/pretrain_stage_1_10k/mgm_pretrain_stage_1_10k.jsonl",
    "full": "input/pretrain_stage_1/mgm_pretrain_stage_1.jsonl",
}
OUTPUT = REPOSITORY / "output" / "lab"
RECIPES = REPOSITORY / "solution" / "recipes"
NAME = r"[A-Za-z0-9][A-Za-z0-9_.+]{0,59}"  # of arms and rungs: it becomes part of a file's name, whose parts `-` parts
NAME_RULE = (
    "a name has 1 to 60 letters, digits, _ and .; in quotes where YAML takes it for a number, a date or yes or no"
)
LARGEST_SEED = 999_999_999  # as TRAIN_SEED
MOST_SEEDS = 1000
LARGEST_WORLD = 100_000  # pairs, questions; drawing more takes days


@dataclass(frozen=True)
class World:
    """What only the mini world offers: other draws of its seed, larger evaluation sets, their splits.

    Args:
        draws: how many seeds are drawn; draw 0 is the committed one.
        split: of the evaluation questions: dev for choices, test for tables.
        questions: of each benchmark.
        rows: pairs of a draw.
        shares: of a draw's rows, by defect; the mini world's own where it is empty.
    """

    draws: int = 1
    split: Literal["dev", "test"] = "dev"
    questions: int = 600
    rows: int = ROWS
    shares: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Arm:
    """One way to choose pre-training rows.

    Args:
        name: of the arm in tables.
        kind: `control`, `recipe`, or `file` for a finished processed_data.jsonl.
        source: the control's name, or the path.
        size_of: arm whose number of distinct rows a sized control takes; empty for the others.
        seeds: TRAIN_SEEDs.
        draws: of the mini world's seed; 1 elsewhere.
    """

    name: str
    kind: Kind
    source: str
    size_of: str
    seeds: tuple[int, ...]
    draws: int


@dataclass(frozen=True)
class Lab:
    """A lab file as read; see `benchmarks/lab/example.yaml`.

    Args:
        name: of the file.
        preset: with the lab file's `sample_cap`, if it has one.
        dataset: the seed's jsonl; unused in a world, which draws its own.
        baseline: arm that the others are compared with.
        arms: by name, in the file's order.
        world: None outside the mini world's options.
        features: `cached` trains on features of frozen towers that are computed once (no stochastic depth), by library
            calls in one process; `none` runs the very commands of the training scripts.
        budget_hours: of all cells together; no cell starts that would exceed it. 0 is no limit.
        records: folder of this lab's records and tables.
        output: folder of seeds, recipes' results, unfinished and finished cells, which labs share.
        reuse: records folders of other labs, whose cells are taken where they are the same.
        rungs: labs of other sizes by name, cheapest first.
    """

    name: str
    preset: Preset
    dataset: Path
    baseline: str
    arms: dict[str, Arm]
    world: World | None
    features: Literal["cached", "none"]
    budget_hours: float
    records: Path
    output: Path = OUTPUT
    reuse: tuple[Path, ...] = ()
    rungs: dict[str, Lab] = field(default_factory=dict)

    @property
    def split(self) -> str:
        """Name of the evaluation questions: a world's split, else the preset's own set."""
        return self.world.split if self.world else "preset"


@dataclass(frozen=True)
class _Keys:
    """The keys of a lab file but `seeds`, which has two types; defaults stand for "not given"."""

    arms: dict
    preset: str = "mini"
    baseline: str = ""
    dataset: str = ""
    sample_cap: int = 0
    features: Literal["", "cached", "none"] = ""
    budget_hours: float = 0.0
    records: str = ""
    output: str = ""
    reuse: list[str] = field(default_factory=list)
    world: dict = field(default_factory=dict)
    ladder: dict = field(default_factory=dict)


RUNG_KEYS = ("preset", "dataset", "sample_cap", "seeds", "features", "budget_hours", "world")


def read_lab(path: Path) -> Lab:
    """Read a lab file.

    Raises:
        UserError: it is no YAML; a key, arm, control, seed, preset or file is unknown, missing or named twice; a line
            for each fault, with the nearest known name.
    """
    if path.is_dir():
        raise UserError(f"{path}: a folder; name a lab file, such as benchmarks/lab/example.yaml")
    require_file(path, "a lab file looks like benchmarks/lab/example.yaml")
    try:
        values = yaml.load(path.read_text(encoding="utf-8-sig"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise UserError(f"{path}: not a YAML document ({' '.join(str(error).split())[:200]})") from None
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise UserError(f"{path}: expected a lab's keys and values, as in benchmarks/lab/example.yaml")
    if "process" in values:
        raise UserError(f"{path}: a recipe; a lab file names it among its arms, as benchmarks/lab/example.yaml does")
    return lab_of(values, path.stem, str(path))


class _Loader(yaml.SafeLoader):
    """Refuses a mapping that names a key twice, of which YAML would take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key := key_node.value, str):
                continue
            if key in seen:
                raise ValueError(f"line {key_node.start_mark.line + 1}: {key!r} occurs twice")
            seen.add(key)
        return super().construct_mapping(node, deep)


def lab_of(values: Mapping[str, Any], name: str, where: str) -> Lab:
    """A lab from its keys and values.

    Args:
        values: as in a lab file.
        name: of the lab.
        where: file, for messages.

    Raises:
        UserError: see `read_lab`.
    """
    faults: list[str] = []
    for key in values:
        with _gathered(faults):
            _known(key, ("seeds", *(field.name for field in dataclasses.fields(_Keys))), where, "key")
    if "seeds" not in values and not faults:
        faults.append(f"{where}: key 'seeds' is missing: how many trainings of each arm, or a list of seeds")
    if faults:  # the other faults may come of these
        raise LabError(faults)
    keys = build(_Keys, {key: value for key, value in values.items() if key != "seeds"}, where)
    preset, world, seeds = load_preset("mini"), None, (0,)  # in place of faulty ones, to look at what follows
    with _gathered(faults):
        preset = _preset(keys, where)
    has_preset = not faults
    with _gathered(faults):
        world = _world(keys, preset, where) if "world" in values else None
    if not 0 <= keys.budget_hours < float("inf"):
        faults.append(f"{where}: budget_hours must be 0 (no limit) or more, found {keys.budget_hours}")
    features = keys.features or ("none" if preset.needs_gpu else "cached")
    if features == "cached" and preset.needs_gpu:
        faults.append(f"{where}: features: cached is for small presets; one image of {preset.name} takes megabytes")
    with _gathered(faults):
        seeds = _seeds(values["seeds"], f"{where}: seeds")
    arms: dict[str, Arm] = {}
    with _gathered(faults):
        if world or "world" not in values:  # controls depend on it
            arms = _arms(keys.arms, seeds, world, where)
    baseline = keys.baseline or ("raw" if "raw" in keys.arms else next(map(str, keys.arms), ""))
    with _gathered(faults):
        _known(baseline, map(str, keys.arms or [baseline]), f"{where}: baseline", "arm")
    output = records = REPOSITORY / keys.output if keys.output else OUTPUT
    with _gathered(faults):
        _to_write(output, f"{where}: output")
        records = _to_write(REPOSITORY / keys.records if keys.records else output / name, f"{where}: records")
    reuse = []
    for folder in keys.reuse:
        with _gathered(faults):
            reuse.append(_folder(folder, f"{where}: reuse"))
    dataset = REPOSITORY / (keys.dataset or DATASETS.get(keys.preset, ""))
    if "world" not in values and (has_preset or keys.dataset) and not dataset.is_file():
        advice = f"run `{preset.download}`" if not keys.dataset else "paths start at the repository's root"
        faults.append(f"{where}: dataset {display_path(dataset)}: no such file; {advice}")
    if faults:
        raise LabError(faults)
    lab = Lab(
        name=name,
        preset=preset,
        dataset=dataset,
        baseline=baseline,
        arms=arms,
        world=world,
        features=features,
        budget_hours=keys.budget_hours,
        records=records,
        output=output,
        reuse=tuple(reuse),
    )
    return dataclasses.replace(lab, rungs=_rungs(values, keys.ladder, lab, where))


class LabError(UserError):
    """The faults of a lab file, a line each."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__(faults[0] if len(faults) == 1 else "\n  ".join([f"{len(faults)} faults:", *faults]))
        self.faults = faults


@contextmanager
def _gathered(faults: list[str]) -> Iterator[None]:
    """Add what the block raises to ``faults``, and go on after it."""
    try:
        yield
    except LabError as error:
        faults += error.faults
    except UserError as error:
        faults.append(str(error))


def _world(keys: _Keys, preset: Preset, where: str) -> World:
    if preset.run_name != load_preset("mini").run_name:
        raise UserError(f"{where}: world is an option of the mini preset; preset is {keys.preset}")
    world = build(World, keys.world, f"{where}: world")
    _check_world(world, f"{where}: world")
    return world


def _check_world(world: World, where: str) -> None:
    for figure in ("draws", "questions", "rows"):
        if not 0 < getattr(world, figure) <= LARGEST_WORLD:
            raise UserError(f"{where}: {figure} must be 1 to {LARGEST_WORLD:,}, found {getattr(world, figure)}")
    for defect, share in world.shares.items():
        _known(defect, DEFECTS, f"{where}: shares", "defect")
        if type(share) not in (int, float) or not 0 <= share <= 1:
            raise UserError(f"{where}: shares: {defect} must be a share of the rows, 0 to 1, found {shown(share)}")
    if (total := sum(world.shares.values())) > 1:
        raise UserError(f"{where}: shares: the sum must be 1 at most, found {total:g}")


def _preset(keys: _Keys, where: str) -> Preset:
    try:
        preset = load_preset(keys.preset if not keys.preset.endswith(".yaml") else str(REPOSITORY / keys.preset))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    if keys.sample_cap < 0:
        raise UserError(f"{where}: sample_cap must be above 0, found {keys.sample_cap}")
    return dataclasses.replace(preset, sample_cap=keys.sample_cap) if keys.sample_cap else preset


def _folder(name: str, where: str) -> Path:
    if not (REPOSITORY / name).is_dir():
        raise UserError(f"{where}: {name}: no such folder; paths start at the repository's root")
    return REPOSITORY / name


def _to_write(folder: Path, where: str) -> Path:
    """A folder that can be written to, or be made: a day of training must not end at that."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir():
        raise UserError(f"{where}: {display_path(there)} is a file; name a folder")
    if not os.access(there, os.W_OK):
        raise UserError(f"{where}: {there} cannot be written to; name another folder")
    return folder


def _known(name: Any, known: Iterable[str], where: str, what: str) -> None:
    known = list(known)
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(known)}"
        raise UserError(f"{where}: no {what} {name!r}; {hint}")


def _seeds(value: Any, where: str) -> tuple[int, ...]:
    if type(value) is int and 0 < value <= MOST_SEEDS:
        return tuple(range(value))
    if isinstance(value, list) and value and all(type(seed) is int and 0 <= seed <= LARGEST_SEED for seed in value):
        if len(set(value)) < len(value):
            raise UserError(f"{where}: a seed occurs twice in {value}")
        return tuple(value)
    raise UserError(
        f"{where} must be how many (1 to {MOST_SEEDS}) or a list of whole numbers from 0 to {LARGEST_SEED}, found "
        f"{shown(value)}"
    )


def _arms(values: Mapping[Any, Any], seeds: tuple[int, ...], world: World | None, where: str) -> dict[str, Arm]:
    if not values:
        raise UserError(f"{where}: arms: none named; two at least make a comparison")
    arms, faults = {}, []
    for name, value in values.items():
        here = f"{where}: arms: {name if isinstance(name, str) else shown(name)}"
        if not isinstance(name, str) or not re.fullmatch(NAME, name):
            faults.append(f"{here[:200]}: {NAME_RULE}")
            continue
        with _gathered(faults):
            arms[name] = _arm(name, value, seeds, world, here)
    if faults:
        raise LabError(faults)
    data = [name for name, arm in arms.items() if arm.kind != "control"]
    for name, arm in arms.items():
        here = f"{where}: arms: {name}"
        if arm.source in SIZED and arm.kind == "control":
            if not arm.size_of and not data:
                raise UserError(
                    f"{here}: {arm.source} is as large as a recipe's output, and no arm is a recipe or file"
                )
            arms[name] = arm = dataclasses.replace(arm, size_of=arm.size_of or data[0])
            _known(arm.size_of, data, f"{here}: size_of", "recipe or file among the arms called")
        elif arm.size_of:
            raise UserError(f"{here}: size_of belongs to {' and '.join(SIZED)}")
    return arms


def _arm(name: str, value: Any, seeds: tuple[int, ...], world: World | None, where: str) -> Arm:
    options = dict(value) if isinstance(value, dict) else {}
    for key in options:
        _known(key, (*KINDS, "size_of", "seeds", "draws"), where, "key")
    kinds = [kind for kind in KINDS if kind in options]
    kind: Kind
    controls = (*CONTROLS, *WORLD_CONTROLS) if world else CONTROLS
    if isinstance(value, str):
        named = value not in controls and (RECIPES / f"{value}.yaml").is_file()
        kind = "recipe" if named or value.endswith((".yaml", ".yml")) else "control"
        kind, source = "file" if value.endswith(".jsonl") else kind, value
    elif len(kinds) == 1:
        kind, source = kinds[0], options[kinds[0]]
    else:
        raise UserError(f"{where}: expected a control, a recipe or a file, found {shown(value)}")
    if not isinstance(source, str):
        raise UserError(f"{where}: {kind} must be a text, found {shown(source)}")
    if kind == "control":
        if source in WORLD_CONTROLS and not world:
            raise UserError(f"{where}: {source} is a control of the mini world; add the key `world`")
        recipes = [path.relative_to(RECIPES).with_suffix("").as_posix() for path in sorted(RECIPES.rglob("*.yaml"))]
        if source not in controls:
            near = difflib.get_close_matches(source, [*controls, *recipes], n=1)
            hint = (
                f"did you mean {near[0]!r}?" if near else f"expected {', '.join(CONTROLS)}, a recipe or a .jsonl file"
            )
            raise UserError(f"{where}: no control or recipe {source!r}; {hint}")
    else:
        source = _path(source, kind, where)
    draws = options.get("draws", world.draws if world else 1)
    if type(draws) is not int or not 0 < draws <= (world.draws if world else 1):
        raise UserError(f"{where}: draws must be 1 to the world's {world.draws if world else 1}, found {shown(draws)}")
    own = _seeds(options["seeds"], f"{where}: seeds") if "seeds" in options else seeds
    size_of = options.get("size_of", "")
    if not isinstance(size_of, str):
        raise UserError(f"{where}: size_of must be an arm's name, found {shown(size_of)}")
    return Arm(name, kind, source, size_of, own, draws)


def _path(source: str, kind: str, where: str) -> str:
    """The path of a recipe or file, from the repository's root; recipes of the kit by their short name as well."""
    candidates = [REPOSITORY / source, RECIPES / source, RECIPES / f"{source}.yaml"]
    found = next((path for path in candidates[: 3 if kind == "recipe" else 1] if path.is_file()), None)
    if not found:
        known = [display_path(path) for path in RECIPES.rglob("*.yaml")] if kind == "recipe" else []
        near = difflib.get_close_matches(source, known, n=1) or difflib.get_close_matches(
            Path(source).stem, [Path(name).stem for name in known], n=1
        )
        hint = f"did you mean {near[0]!r}?" if near else "paths start at the repository's root"
        if source in (*CONTROLS, *WORLD_CONTROLS):
            hint = f"{source} is a control: write control: {source}"
        raise UserError(f"{where}: {kind} {source}: no such file; {hint}")
    return display_path(found)


def _rungs(values: Mapping[str, Any], ladder: Mapping[Any, Any], lab: Lab, where: str) -> dict[str, Lab]:
    """Each rung is the lab with some keys replaced and records of its own; without any, it is the lab itself."""
    rungs: dict[str, Lab] = {}
    faults: list[str] = []
    for name, changes in ladder.items():
        with _gathered(faults):
            rungs[name] = _rung(values, name, changes, lab, f"{where}: ladder: {name}")
    if faults:
        raise LabError(faults)
    return rungs


def _rung(values: Mapping[str, Any], name: Any, changes: Any, lab: Lab, where: str) -> Lab:
    if not isinstance(name, str) or not re.fullmatch(NAME, name):
        raise UserError(f"{where[:200]}: {NAME_RULE}")
    if not isinstance(changes or {}, dict):
        raise UserError(f"{where}: expected keys and values, found {shown(changes)}")
    for key in changes or {}:
        _known(key, RUNG_KEYS, where, "key of a rung")
    if not changes:  # the lab itself, whose records it shares
        return lab
    rest = {key: value for key, value in values.items() if key != "ladder"}
    if "seeds" in changes:  # of all arms, those with seeds of their own too
        rest["arms"] = {
            arm: {key: own for key, own in value.items() if key != "seeds"} if isinstance(value, dict) else value
            for arm, value in values["arms"].items()
        }
    rest["records"] = display_path(lab.records / name)
    if lab.records.is_dir():  # a rung may have cells of the lab itself
        rest["reuse"] = [*values.get("reuse", []), display_path(lab.records)]
    return lab_of(rest | changes, f"{lab.name}-{name}", where)
