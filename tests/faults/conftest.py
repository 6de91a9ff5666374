"""The commands that are disturbed, each in a small world of its own."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.conftest import checkout
from tests.experiments.lab.conftest import toy_preset  # noqa: F401
from tests.experiments.lab.example import ANSWERS, write_run
from tests.faults.harness import Command, run_whole
from tests.solution.conftest import captioner_folder, clip_folder, make_recipe, make_seed  # noqa: F401
from tests.toolkit.commands.test_contamination import words as contaminated  # noqa: F401
from tests.toolkit.download.conftest import environment_of, server  # noqa: F401
from tests.toolkit.download.conftest import world as downloads  # noqa: F401
from tests.toolkit.eval.conftest import benchmarks, tiny_model  # noqa: F401
from tests.toolkit.submission.conftest import workspace  # noqa: F401
from tests.toolkit.training.conftest import small_world  # noqa: F401
from toolkit.files import REPOSITORY

WORDS = ["red", "blue", "dog", "cat", "on", "the", "car", "a"]


def toolkit(*words: object) -> list[str]:
    """Words of a `python -m toolkit` command."""
    return [sys.executable, "-m", "toolkit", *map(str, words)]


def process(*words: object) -> list[str]:
    """Words of a `solution/process.py` command."""
    return [sys.executable, str(REPOSITORY / "solution" / "process.py"), *map(str, words)]


@pytest.fixture
def recipe_of(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Command]:
    """recipe_of(np=2, "--executor", "ray"): a recipe over 120 rows, with two models and a score store."""
    names = ("make_seed", "make_recipe", "clip_folder", "captioner_folder")
    seed_of, written, clip, captioner = (request.getfixturevalue(name) for name in names)

    def make(*options: str, np: int = 1) -> Command:
        captions = [" ".join(WORDS[(number * step) % 8] for step in range(1, 2 + number % 6)) for number in range(120)]
        seed = seed_of(captions)
        models = {"hf_clip": str(clip)}
        recaption = models | {"hf_captioner": str(captioner), "below": 0.05, "min_words": 1, "max_new_tokens": 5}
        steps = [
            {"caption_cleanup_mapper": None},
            {"conditional_recaption_mapper": recaption},
            {"clip_similarity_filter": models | {"min_score": -0.2}},
            {"fill_to_cap_selector": {"cap": 100}},
        ]
        output = tmp_path / "output"
        words = process("--recipe", written(steps, np=np), "--dataset", seed, *options)
        store = {"SCORE_STORE": str(output / "scores")}
        return Command(
            [*words, "--output", str(output / "processed_data")], output, environment=store, unequal=(".log",)
        )

    return make


@pytest.fixture
def command(request: pytest.FixtureRequest, tmp_path: Path) -> Command:
    """The command that a test names as its parameter."""
    return COMMANDS[request.param](request, tmp_path)


def _recipe(request: pytest.FixtureRequest, _tmp_path: Path, *options: str, np: int = 1) -> Command:
    return request.getfixturevalue("recipe_of")(*options, np=np)


def _report(request: pytest.FixtureRequest, tmp_path: Path) -> Command:
    recipe = request.getfixturevalue("recipe_of")()
    run_whole(recipe)
    kept = tmp_path / "kept"
    shutil.copytree(recipe.folder, kept)
    return Command(
        process("report", "trial", "--output", recipe.folder / "processed_data", "--images", tmp_path / "seed"),
        recipe.folder,
        lambda: shutil.copytree(kept, recipe.folder, dirs_exist_ok=True),
        unequal=(".log",),
    )


def _analyze(request: pytest.FixtureRequest, _tmp_path: Path) -> Command:
    recipe = request.getfixturevalue("recipe_of")()
    words = [word if word != "--recipe" else "analyze" for word in recipe.words]
    return Command(words, recipe.folder, environment=recipe.environment, unequal=(".log",))


def _rows(request: pytest.FixtureRequest) -> tuple[list[str], Path]:
    """The arguments that `check` and `prepare` share, over six rows; and the seed's folder."""
    seed = request.getfixturevalue("small_seed")
    return seed.arguments(seed.write(*(seed.row(number) for number in range(6)))), seed.folder


def _check(request: pytest.FixtureRequest, tmp_path: Path) -> Command:
    out = tmp_path / "out"
    words, _ = _rows(request)
    return Command(toolkit("check", *words, "--json", out / "report.json", "--fixes", out / "fixes.jsonl"), out)


def _contamination(request: pytest.FixtureRequest, tmp_path: Path) -> Command:
    *words, _ = request.getfixturevalue("contaminated")
    out = tmp_path / "out"
    return Command(toolkit(*words, out / "found", "--on-error", "skip"), out)


def _prepare(request: pytest.FixtureRequest, tmp_path: Path) -> Command:
    out = tmp_path / "out"
    words, _ = _rows(request)
    return Command(toolkit("prepare", *words, "--out", out / "run" / "llava.json"), out)


def _convert(request: pytest.FixtureRequest, tmp_path: Path) -> Command:
    out = tmp_path / "out"
    _, seed = _rows(request)
    return Command(toolkit("convert", "llava-to-dj", seed / "stage_1.json", "--out", out / "seed.jsonl"), out)


def _pretrain(request: pytest.FixtureRequest, tmp_path: Path, *more: str) -> Command:
    world = request.getfixturevalue("small_world")
    out = tmp_path / "out"
    words = world.command("pretrain", out / "run", "--save-steps", "2", "--workers", "2", *more)
    return Command(words, out)


def _finetune(request: pytest.FixtureRequest, tmp_path: Path) -> Command:
    world = request.getfixturevalue("small_world")
    before = _pretrain(request, tmp_path / "before")
    run_whole(before)
    adapter = before.folder / "run" / "mm_projector.bin"
    out = tmp_path / "out"
    return Command(world.command("finetune", out / "run", "--save-steps", "2", "--adapter", str(adapter)), out)


def _eval(request: pytest.FixtureRequest, tmp_path: Path, benchmark: str) -> Command:
    files, model = request.getfixturevalue("benchmarks"), request.getfixturevalue("tiny_model")
    out = tmp_path / "out"
    words = ("eval", benchmark, "--preset", files.preset, "--model", model, "--out", out / "answers", "--batch", 2)
    return Command(toolkit(*words), out)


def _script(request: pytest.FixtureRequest, tmp_path: Path) -> Command:
    """A training script from preflight to score, in a checkout whose preset is small, over eight rows."""
    root, world = checkout(tmp_path / "kit"), request.getfixturevalue("small_world")
    preset = root / "toolkit/presets/mini.yaml"
    values = yaml.safe_load(world.preset.read_text())
    values |= {"finetune_data": str(world.data), "finetune_images": str(world.images), "sample_cap": 8}
    tests = yaml.safe_load(request.getfixturevalue("benchmarks").preset.read_text())
    preset.write_text(yaml.safe_dump(values | {name: tests[name] for name in ("textvqa", "mmbench")}))
    settings = {
        "EXP_NAME": "tiny", "PRETRAIN_DATASET": "../input/mini/mgm_pretrain_mini.jsonl",
        "PRETRAIN_GRADIENT_ACCUMULATION_STEPS": "2", "CKPT_SAVE_STEPS": "2", "LOGGING_STEP": "1",
    }  # fmt: skip
    words = ["bash", str(root / "toolkit/train_mgm_mini_stage_1.sh")]
    return Command(words, root / "output", environment=settings, cwd=root, unequal=(".log",))


def _judge(request: pytest.FixtureRequest, tmp_path: Path) -> Command:
    model = request.getfixturevalue("tiny_model")
    words, _ = _rows(request)
    out = tmp_path / "out"
    words = ["judge", *words, "--model", model, "--out", out / "values.parquet", "--batch", 2, "--workers", 2]
    return Command(toolkit(*words), out)


def _download(request: pytest.FixtureRequest, tmp_path: Path) -> Command:
    world = request.getfixturevalue("downloads")
    world.server.pause = 0.02
    other = world.at(tmp_path / "root")
    return Command(other.command(), other.root, environment=environment_of())


def _pack(request: pytest.FixtureRequest, tmp_path: Path, kind: str) -> Command:
    root = request.getfixturevalue("workspace")
    shutil.copytree(REPOSITORY / "toolkit", root / "toolkit", ignore=shutil.ignore_patterns("__pycache__", "models"))
    out = tmp_path / "out"
    words = toolkit("pack", kind, "best", "--out", out / "submit.zip", "--images", root / "seed")
    return Command(words, out, cwd=root)


def _export(request: pytest.FixtureRequest, tmp_path: Path) -> Command:
    out = tmp_path / "out"
    words, _ = _rows(request)
    return Command(toolkit("export", *words[:3], "--to", "parquet", "--out", out / "export"), out)


def _mini(_request: pytest.FixtureRequest, tmp_path: Path) -> Command:
    out = tmp_path / "out"
    return Command(toolkit("mini", "eval-set", out / "set", "--questions", 40), out)


def _page(request: pytest.FixtureRequest, tmp_path: Path) -> Command:
    files = request.getfixturevalue("benchmarks")
    run, other = (write_run(tmp_path / "results", files, name, 9, ANSWERS) for name in ("recipe", "raw"))
    out = tmp_path / "out"
    words = toolkit("lab", "page", run, "--baseline", other, "--preset", files.preset, "--out", out / "page.html")
    return Command(words, out)


def _lab(request: pytest.FixtureRequest, tmp_path: Path) -> Command:
    """Two arms and two seeds in a small mini world, none trained for long."""
    out, file = tmp_path / "out", tmp_path / "lab.yaml"
    values = {
        "preset": str(request.getfixturevalue("toy_preset")),
        "seeds": 2, "sample_cap": 8, "arms": {"none": "none", "raw": "raw"},
        "world": {"rows": 30, "questions": 6}, "output": str(out / "lab"), "records": str(out / "records"),
    }  # fmt: skip
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    return Command(toolkit("lab", "run", file), out, unequal=("failures.log",))


COMMANDS: dict[str, Callable[[pytest.FixtureRequest, Path], Command]] = {
    "recipe": _recipe,
    "recipe, np 2": lambda request, path: _recipe(request, path, np=2),
    "recipe, Ray": lambda request, path: _recipe(request, path, "--executor", "ray", np=2),
    "analyze": _analyze,
    "report": _report,
    "check": _check,
    "check --contamination": _contamination,
    "convert": _convert,
    "prepare": _prepare,
    "train pretrain": _pretrain,
    "train finetune": _finetune,
    "eval textvqa": lambda request, path: _eval(request, path, "textvqa"),
    "eval mmbench": lambda request, path: _eval(request, path, "mmbench"),
    "eval all": lambda request, path: _eval(request, path, "all"),
    "train script": _script,
    "judge": _judge,
    "download": _download,
    "pack online": lambda request, path: _pack(request, path, "online"),
    "pack offline": lambda request, path: _pack(request, path, "offline"),
    "export": _export,
    "mini eval-set": _mini,
    "lab run": _lab,
    "lab page": _page,
}
