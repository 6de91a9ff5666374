"""One trial of the mini world's experiment: train on an arm's rows, answer both benchmarks, write a record.

The training is that of `train` (same library calls, order, schedule, seeds), without the cost of starting processes, of
writing weights and, unless stochastic depth is asked for, of encoding the same images again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch

from experiments.lab.arms import Draw
from experiments.lab.features import FeatureAnswerer, FeatureCache, FeatureReader
from toolkit.dataset.rows import ImageRoots
from toolkit.eval import mmbench, textvqa
from toolkit.eval.questions import Question
from toolkit.files import REPOSITORY, package_versions, read_json, sha256_of, write_json
from toolkit.mgm.checkpoint import build_model, load_tokenizer
from toolkit.mgm.model import MGMGemmaForCausalLM
from toolkit.mini.evaluation import build_mmbench, build_textvqa
from toolkit.mini.questions import SIGN_QUESTIONS
from toolkit.mini.seed import DEFECTS
from toolkit.presets import INITIALISATION_SEED, SAMPLE_ORDER_SEED, Preset
from toolkit.training.data import SampleReader, read_rows
from toolkit.training.plan import Settings, fingerprint
from toolkit.training.stage import RunOptions, fit

ANSWER_BATCH = 32
# Modules that, with the assets, decide draws and evaluation sets.
SOURCES = ("captions", "evaluation", "questions", "scenes", "seed", "sprites")
NEVER = 1_000_000_000  # steps between checkpoints: a trial is too short to resume


@dataclass(frozen=True)
class Trial:
    """One training: its rows and its seeds.

    Args:
        arm: see arms.py.
        draw: of the seed set.
        seed: TRAIN_SEED.
    """

    arm: str
    draw: int
    seed: int

    @property
    def name(self) -> str:
        """Name of its record."""
        return f"{self.arm}-draw{self.draw}-seed{self.seed}"


@dataclass
class TrialRunner:
    """Runs trials and keeps what they share: draws, evaluation sets, the towers' features.

    Args:
        preset: mini, or one with smaller figures.
        work: folder for draws and evaluation sets, with a subfolder per world; missing parts are rebuilt.
        records: folder that gets one JSON file per trial.
        split: evaluation set, dev or test.
        recipe: of the arm `recipe`.
        rows, questions: sizes of a draw and of each benchmark.
        stochastic_depth: train exactly as the scripts do: the aux tower encodes every image in every step.
        shares: of a draw's rows, by defect.
    """

    preset: Preset
    work: Path
    records: Path
    split: Literal["dev", "test"]
    recipe: Path
    rows: int
    questions: int
    stochastic_depth: bool = False
    shares: Mapping[str, float] = field(default_factory=lambda: DEFECTS)

    def __post_init__(self):
        self.draws: dict[int, Draw] = {}
        self.features: FeatureCache | None = None

    def run(self, trial: Trial) -> dict[str, Any]:
        """Run a trial, or read its record if that was written for the same inputs.

        Raises:
            UserError: those of `Draw.training_rows` and `fit`.
        """
        rows, roots = [], ImageRoots(self.preset.seed_images, self.preset.seed_images)
        if trial.arm != "none":
            with self._locked():
                rows, roots = self._draw(trial.draw).training_rows(trial.arm, trial.seed)
        file = self.records / f"{trial.name}.json"
        inputs = self._shared_inputs | {
            "pretrain_rows": _hash(rows),
            "pretrain_pictures": _hash([sha256_of(roots.resolve(row["image"])) for row in rows]),
        }
        if file.is_file() and (record := read_json(file))["inputs"] == inputs:
            return record
        started, started_cpu = time.perf_counter(), time.process_time()
        model = self._new_model(trial.seed)
        features = self.features = self.features or FeatureCache(model)
        encoded = len(features.indices)
        losses = self._train(model, features, rows, roots, trial.seed)
        scores = self._evaluate(model.eval(), features)
        record = {
            "arm": trial.arm, "draw": trial.draw, "seed": trial.seed, "split": self.split,
            "scores": scores,
            "loss": losses,
            "counts": {
                "rows": len(rows), "distinct_rows": len({_hash(row) for row in rows}),
                "finetune_rows": len(self._finetune_rows),
                "pictures_encoded": len(features.indices) - encoded,
            },
            "seconds": round(time.perf_counter() - started, 1),
            "cpu_seconds": round(time.process_time() - started_cpu, 1),
            "inputs": inputs,
            "versions": package_versions(),
        }  # fmt: skip
        write_json(file, record)
        return record

    def _draw(self, number: int) -> Draw:
        if number not in self.draws:
            folder = self.world / f"draw_{number}"
            self.draws[number] = Draw(folder, number, self.rows, self.preset, self.recipe, self.shares)
        return self.draws[number]

    @cached_property
    def world(self) -> Path:
        """Folder of the draws and evaluation sets of this code, these sizes and this CLIP, by their hash."""
        here = REPOSITORY / "toolkit" / "mini"
        sources = [here / f"{name}.py" for name in SOURCES] + sorted((here / "assets").rglob("*.*"))
        sizes = [self.rows, self.questions, dict(self.shares)]
        return self.work / _hash([*map(sha256_of, sources), fingerprint([], [self.preset.vision_tower]), sizes])

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Lock the world's folder: of two shells that share the work one builds it and the other waits."""
        self.world.mkdir(parents=True, exist_ok=True)
        with (self.world / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # released when the file is closed
            yield

    @cached_property
    def _shared_inputs(self) -> dict[str, Any]:
        """Hashes of the inputs that all trials of a table share."""
        preset = self.preset
        models = fingerprint([], [preset.llm, preset.vision_tower, preset.vision_tower_aux])
        figures = {stage: vars(preset.stage(stage)) for stage in ("pretrain", "finetune")}
        return {
            "models": _hash(models),
            "finetune": sha256_of(preset.finetune_data),
            "evaluation": _hash([sha256_of(file) for file in sorted(self._evaluation_folder.rglob("*.*"))]),
            "figures": figures | {"sample_cap": preset.sample_cap, "stochastic_depth": self.stochastic_depth},
        }

    @cached_property
    def _finetune_rows(self) -> list[dict[str, Any]]:
        return read_rows(self.preset.finetune_data)

    @cached_property
    def _evaluation_folder(self) -> Path:
        folder = self.world / f"eval_{self.split}"
        with self._locked():
            if not (folder / "mmbench.tsv").is_file():
                build_textvqa(folder, self.split, self.questions)
                build_mmbench(folder / "mmbench.tsv", self.split, self.questions)
        return folder

    def _new_model(self, seed: int) -> MGMGemmaForCausalLM:
        preset = self.preset
        return build_model(
            llm=preset.llm,
            vision_tower=preset.vision_tower,
            vision_tower_aux=preset.vision_tower_aux,
            image_size_aux=preset.image_size_aux,
            max_length=preset.max_length,
            dtype=torch.float32,
            seed=INITIALISATION_SEED + seed,
        )

    def _train(
        self,
        model: MGMGemmaForCausalLM,
        features: FeatureCache,
        rows: list[dict[str, Any]],
        roots: ImageRoots,
        seed: int,
    ) -> dict[str, float]:
        """Train both stages in place, or finetuning alone without rows; returns each one's loss, see `_stage`."""
        if not self.stochastic_depth:
            features.attach(model)
        losses = {}
        if rows:
            losses["pretrain"] = self._stage("pretrain", model, features, rows, roots, seed)
        roots = ImageRoots(self.preset.finetune_images, self.preset.finetune_images)
        losses["finetune"] = self._stage("finetune", model, features, self._finetune_rows, roots, seed)
        return losses

    def _stage(
        self,
        stage: Literal["pretrain", "finetune"],
        model: MGMGemmaForCausalLM,
        features: FeatureCache,
        rows: list[dict[str, Any]],
        roots: ImageRoots,
        seed: int,
    ) -> float:
        """Train one stage in place; returns the mean loss of its last tenth."""
        preset, figures = self.preset, self.preset.stage(stage)
        settings = Settings(
            stage=stage,
            preset=preset.name,
            batch=figures.global_batch,
            accumulation=1,
            processes=1,
            learning_rate=figures.learning_rate,
            image_aspect_ratio=figures.image_aspect_ratio,
            group_by_modality_length=figures.group_by_modality_length,
            precision="fp32",
            max_length=preset.max_length,
            stochastic_depth=self.stochastic_depth,
            initialisation_seed=INITIALISATION_SEED + seed,
            order_seed=SAMPLE_ORDER_SEED + seed,
            on_error="stop",
            images=str(roots.seed),
            synthetic_images=str(roots.processed),
        )
        model.config.image_aspect_ratio = settings.image_aspect_ratio
        fields = {
            "roots": roots,
            "tokenizer": self._tokenizer,
            "image_size_aux": preset.image_size_aux,
            "aspect": settings.image_aspect_ratio,
            "max_length": preset.max_length,
            "image_tokens": model.image_tokens,
        }
        reader = SampleReader(**fields) if self.stochastic_depth else FeatureReader(**fields, features=features)
        options = RunOptions(workers=0, logging_steps=1, save_steps=NEVER, save_total_limit=1)
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            outcome = fit(model, rows, reader, settings, options, Path(folder), lambda _folder: None)
        history = [line["loss"] for line in outcome.trainer.state.log_history if "loss" in line]
        last = history[-max(1, len(history) // 10) :]
        return sum(last) / len(last)

    @cached_property
    def _tokenizer(self) -> Any:
        return load_tokenizer(self.preset.llm)

    def _evaluate(self, model: MGMGemmaForCausalLM, features: FeatureCache) -> dict[str, dict[str, float]]:
        """Accuracies from 0 to 1 by benchmark: `all`, and by kind of question."""
        answerer = FeatureAnswerer(model, self._tokenizer, features)
        folder = self._evaluation_folder
        asked = textvqa.read_questions(folder / "llava_textvqa_mini_ocr.jsonl", folder / "train_images")
        texts = _answers(answerer, asked, self.preset.textvqa.max_new_tokens)
        wanted = textvqa.read_annotations(folder / "textvqa_mini_annotations.json")
        kinds: dict[str, list[float]] = {"all": [], "text": [], "object": []}
        for question, text in zip(asked, texts, strict=True):
            key = textvqa.annotation_key(question.question_id, question.prompt)
            accuracy = textvqa.soft_accuracy(text, wanted[key])
            kinds["all"].append(accuracy)
            kinds["text" if key[1] in SIGN_QUESTIONS else "object"].append(accuracy)

        table = mmbench.read_table(folder / "mmbench.tsv")
        asked = mmbench.questions_of(table, "en")
        texts = _answers(answerer, asked, self.preset.mmbench.max_new_tokens)
        found = {int(question.question_id): text for question, text in zip(asked, texts, strict=True)}
        overall, categories = mmbench.accuracy(table, found)
        return {
            "textvqa": {kind: sum(values) / max(1, len(values)) for kind, values in kinds.items()},
            "mmbench": {"all": overall.tolerant} | {name: share.tolerant for name, share in categories.items()},
        }


def _answers(answerer: FeatureAnswerer, questions: list[Question], max_new_tokens: int) -> list[str]:
    texts = {}
    for answers in answerer.answers(questions, ANSWER_BATCH, max_new_tokens):
        texts |= answers
    return [texts[index] for index in range(len(questions))]


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
