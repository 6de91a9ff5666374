"""What a finished run left on disk: scores, answers, losses, cost, and where its rows came from."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from experiments.lab.answers import Outcome, outcomes
from toolkit.errors import UserError
from toolkit.eval.score import answer_files, blind_folder, find_answers, score_answers
from toolkit.files import REPOSITORY, display_path, read_json, sha256_of

if TYPE_CHECKING:
    import numpy as np

Stage = Literal["pretrain", "finetune"]
STAGES: tuple[Stage, ...] = ("pretrain", "finetune")
Row = tuple[str, str, str]  # of the score table: benchmark, category ("" for all), credit (strict or tolerant)


@dataclass(frozen=True)
class Rows:
    """Where a run's pre-training rows came from.

    Args:
        path: of the file they were prepared from, as shown.
        counts: of `prepare`.
        remark: why recipe or text are missing; "" where they are there.
        recipe: its path; None where the file is no recipe's result, or that of another run since.
        text: of the recipe, if the file is still the one that ran.
        steps: of the recipe, see `Ledger.counts` in solution/.
        seconds: of the recipe.
    """

    path: str
    counts: dict[str, Any]
    remark: str = ""
    recipe: str | None = None
    text: str | None = None
    steps: list[dict[str, Any]] = field(default_factory=list)
    seconds: float | None = None


class FinishedRun:
    """A run whose answers are there; all else is shown if it is.

    Args:
        experiment, preset_name: as `find_answers` takes them.

    Raises:
        UserError: those of `find_answers`.
    """

    def __init__(self, experiment: str, preset_name: str | None):
        self.folder, self.preset = find_answers(experiment, preset_name)
        first = f"{self.preset.run_name}-Finetune-"
        plain = self.folder.resolve().name
        self.name = plain.removeprefix(first) if plain.startswith(first) else plain
        training = self.folder.resolve().parent.parent / "training_dirs"
        self.stage_folders = {stage: training / self.preset.run_folder(stage, self.name) for stage in STAGES}

    @property
    def files(self) -> list[Path]:
        """Everything its page is made from, whether it is there or not."""
        records = [
            folder / name for folder in self.stage_folders.values() for name in ("run.json", "trainer_state.json")
        ]
        prepared = self.stage_folders["pretrain"] / "pretrain_data.run.json"
        evaluations = [path.parent / "run.json" for path in answer_files(self.folder).values()]
        right = [self.preset.textvqa.questions, self.preset.textvqa.annotations, self.preset.mmbench.questions]
        rows = [self._rows_file.parent / "run.json"] if self._rows_file else []
        answers = [*answer_files(self.folder).values(), *answer_files(blind_folder(self.folder)).values()]
        return [*answers, *records, prepared, *evaluations, *right, *rows]

    @cached_property
    def score(self) -> tuple[dict[str, Any], list[str]]:
        """As `score_answers` gives it."""
        return score_answers(self.folder, self.preset)

    @cached_property
    def outcomes(self) -> list[Outcome]:
        """Every question."""
        return outcomes(self.folder, self.preset)

    @cached_property
    def blind(self) -> list[Outcome]:
        """Every question as answered without its image (`eval --no-image`); empty where that was not asked."""
        folder = blind_folder(self.folder)
        return outcomes(folder, self.preset) if folder.is_dir() else []

    def record(self, stage: Stage) -> dict[str, Any]:
        """The record of a stage; empty where there is none."""
        return _record(self.stage_folders[stage] / "run.json", "counts", "seconds", "configuration")

    def losses(self, stage: Stage) -> tuple[list[int], list[float]]:
        """Steps and losses as they were logged."""
        history = _record(self.stage_folders[stage] / "trainer_state.json").get("log_history", [])
        logged = [entry for entry in history if "loss" in entry and "step" in entry]
        return [entry["step"] for entry in logged], [float(entry["loss"]) for entry in logged]

    def evaluation(self, benchmark: str) -> dict[str, Any]:
        """The record of a benchmark's answers; empty where there is none, as with answers of another kit."""
        path = answer_files(self.folder).get(benchmark)
        return _record(path.parent / "run.json", "counts", "seconds") if path else {}

    @cached_property
    def _prepared(self) -> dict[str, Any]:
        return _record(self.stage_folders["pretrain"] / "pretrain_data.run.json")

    @property
    def _rows_file(self) -> Path | None:
        """The file that `prepare` read; relative paths start from the kit."""
        names = [name for name in self._prepared.get("inputs", {}) if name.endswith(".jsonl")]
        return REPOSITORY / names[0] if names else None

    @cached_property
    def rows(self) -> Rows | None:
        """Where the pre-training rows came from; None without a record of `prepare`."""
        file = self._rows_file
        if file is None:
            return None
        wanted = next(digest for name, digest in self._prepared["inputs"].items() if name.endswith(".jsonl"))
        rows = Rows(display_path(file), self._prepared.get("counts", {}))
        made = _record(file.parent / "run.json", "inputs", "outputs", "steps")
        if not made or not isinstance(made["inputs"].get("recipe"), dict):
            return replace(rows, remark="No recipe: the file was used as it is.")
        if wanted not in made["outputs"].values():
            return replace(rows, remark="Its recipe is not known: another one has written to that folder since.")
        recipe = made["inputs"]["recipe"]
        source = REPOSITORY / recipe["path"]
        same = source.is_file() and sha256_of(source) == recipe["sha256"]
        return replace(
            rows,
            remark="" if same else "The recipe's file has changed since this run, so it is not shown.",
            recipe=recipe["path"],
            text=source.read_text(encoding="utf-8", errors="replace") if same else None,
            steps=made["steps"],
            seconds=made.get("seconds"),
        )

    def credits(self, row: Row, blind: bool = False) -> dict[tuple[str, str, str], float]:
        """What each question of a row of the score table is worth, 0 to 1, by its key; `blind`: without its image."""
        benchmark, category, credit = row
        return {
            outcome.key: getattr(outcome, credit)
            for outcome in (self.blind if blind else self.outcomes)
            if outcome.benchmark == benchmark and category in ("", outcome.category)
        }

    def values(self, row: Row, blind: bool = False) -> np.ndarray:
        """The same without keys."""
        import numpy as np  # of which a page that is up to date needs nothing

        return np.array(list(self.credits(row, blind).values()))


def _record(path: Path, *keys: str) -> dict[str, Any]:
    """A record with these keys, or nothing where there is none or no whole one."""
    try:
        found = read_json(path)
    except UserError:
        return {}
    return found if isinstance(found, dict) and found.keys() >= set(keys) else {}
