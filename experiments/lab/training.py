"""One cell's training and answers: by library calls on cached features, or by the very commands of the scripts."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from experiments.lab.scoring import BENCHMARKS, asked_of
from toolkit.dataset.rows import ImageRoots
from toolkit.errors import UserError
from toolkit.files import REPOSITORY, read_json, write_json
from toolkit.presets import INITIALISATION_SEED, SAMPLE_ORDER_SEED, Preset
from toolkit.processes import end_with_parent

ANSWER_BATCH = 32
NEVER = 1_000_000_000  # steps between checkpoints: a training in this process is too short to resume


@dataclass
class Trained:
    """What a training left.

    Args:
        texts: by benchmark, answers in the order of `asked_of`.
        loss: by stage, one value per step.
        samples: trained, by stage.
        warnings: of the stages.
        encoded: images that a tower had to see, where features are cached.
    """

    texts: dict[str, list[str]] = field(default_factory=dict)
    loss: dict[str, list[float]] = field(default_factory=dict)
    samples: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    encoded: int = 0


@dataclass
class Job:
    """What a training needs.

    Args:
        preset: with the evaluation's files.
        rows, roots: to pre-train on, LLaVA format, and their images; without rows finetuning starts from an untrained
            projector.
        seed: TRAIN_SEED.
        folder: for what is unfinished; the caller removes it.
    """

    preset: Preset
    rows: list[dict[str, Any]]
    roots: ImageRoots
    seed: int
    folder: Path

    def stages(self) -> list[Literal["pretrain", "finetune"]]:
        """In their order."""
        return ["pretrain", "finetune"] if self.rows else ["finetune"]


class CachedTrainer:
    """Trains and answers in this process; towers see each image once, for as long as the process lives.

    The training is that of `train --no-stochastic-depth`: same library calls, order, schedule and seeds.
    """

    def __init__(self):
        self.features: Any = None
        self._finetune: dict[Path, list[dict[str, Any]]] = {}

    def __call__(self, job: Job) -> Trained:
        """Train both stages, or finetuning alone, and answer both benchmarks.

        Raises:
            UserError: those of `fit` and of reading the questions.
        """
        import torch

        from experiments.lab.features import FeatureAnswerer, FeatureCache
        from toolkit.dataset.training_file import read_samples
        from toolkit.mgm.checkpoint import build_model, load_tokenizer

        preset, done = job.preset, Trained()
        model = build_model(
            llm=preset.llm,
            vision_tower=preset.vision_tower,
            vision_tower_aux=preset.vision_tower_aux,
            image_size_aux=preset.image_size_aux,
            max_length=preset.max_length,
            dtype=torch.float32,
            seed=INITIALISATION_SEED + job.seed,
        )
        tokenizer = load_tokenizer(preset.llm)
        self.features = self.features or FeatureCache(model)
        encoded = self.features.encoded
        self.features.attach(model)
        if preset.finetune_data not in self._finetune:
            self._finetune[preset.finetune_data] = read_samples(preset.finetune_data)
        finetune_roots = ImageRoots(preset.finetune_images, preset.finetune_images)
        for stage in job.stages():
            rows, roots = job.rows, job.roots
            if stage == "finetune":
                rows, roots = self._finetune[preset.finetune_data], finetune_roots
            self._stage(stage, model, tokenizer, rows, roots, job, done)
        answerer = FeatureAnswerer(model.eval(), tokenizer, self.features)
        for name in BENCHMARKS:
            asked, found = asked_of(preset, name), {}
            for answers in answerer.answers(asked, ANSWER_BATCH, getattr(preset, name).max_new_tokens):
                found |= answers
            done.texts[name] = [found[index] for index in range(len(asked))]
        done.encoded = self.features.encoded - encoded
        return done

    def _stage(
        self,
        stage: Literal["pretrain", "finetune"],
        model: Any,
        tokenizer: Any,
        rows: list[dict[str, Any]],
        roots: ImageRoots,
        job: Job,
        done: Trained,
    ) -> None:
        """Train one stage in place."""
        from experiments.lab.features import FeatureReader
        from toolkit.training.plan import RunOptions, Settings
        from toolkit.training.stage import fit

        preset, figures = job.preset, job.preset.stage(stage)
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
            stochastic_depth=False,
            initialisation_seed=INITIALISATION_SEED + job.seed,
            order_seed=SAMPLE_ORDER_SEED + job.seed,
            on_error="stop",
            images=str(roots.seed),
            synthetic_images=str(roots.processed),
        )
        model.config.image_aspect_ratio = settings.image_aspect_ratio
        reader = FeatureReader(
            roots=roots,
            tokenizer=tokenizer,
            image_size_aux=preset.image_size_aux,
            aspect=settings.image_aspect_ratio,
            max_length=preset.max_length,
            image_tokens=model.image_tokens,
            features=self.features,
        )
        # A stage whose towers' features are at hand starts from the beginning: its checkpoints hold no weights.
        shutil.rmtree(job.folder / stage, ignore_errors=True)
        options = RunOptions(workers=0, logging_steps=1, save_steps=NEVER, save_total_limit=1)
        with contextlib.redirect_stdout(io.StringIO()):
            outcome = fit(model, rows, reader, settings, options, job.folder / stage, lambda _folder: None)
        done.loss[stage] = [line["loss"] for line in outcome.trainer.state.log_history if "loss" in line]
        done.samples[stage] = outcome.samples
        done.warnings += [f"{stage}: {warning}" for warning in outcome.warnings]


def train_by_commands(job: Job) -> Trained:
    """Run `train` and `eval` as the training scripts do, on the GPU that is visible, if any.

    What was killed resumes in `job.folder`.

    Raises:
        UserError: a command failed; its last line.
    """
    import yaml

    preset, done = job.preset, Trained()
    job.folder.mkdir(parents=True, exist_ok=True)
    file = job.folder / f"{preset.name}.yaml"
    if not file.is_file():
        file.write_text(yaml.safe_dump(_as_yaml(vars(preset) | {"name": None}), sort_keys=False), encoding="utf-8")
    environment = os.environ | {"TRAIN_SEED": str(job.seed)}
    for stage in job.stages():
        out = job.folder / stage
        batch, accumulation = _command(["batch", stage, "--preset", file], environment).split()
        words = ["train", stage, "--preset", file, "--out", out, "--batch", batch, "--accumulation", accumulation]
        if stage == "pretrain":
            data = job.folder / "pretrain_data.json"
            if not data.is_file():
                write_json(data, job.rows)
            images = ["--images", job.roots.seed, "--synthetic-images", job.roots.processed]
        else:
            data, images = preset.finetune_data, ["--images", preset.finetune_images]
            if job.rows:
                words += ["--adapter", job.folder / "pretrain" / "mm_projector.bin"]
        _command([*words, "--data", data, *images], environment)
        record = read_json(out / "run.json")
        history = read_json(out / record["loss_history"])["log_history"]
        done.loss[stage] = [line["loss"] for line in history if "loss" in line]
        done.samples[stage] = record["counts"]["samples_trained"]
        done.warnings += [f"{stage}: {warning}" for warning in record["warnings"]]
    for name in BENCHMARKS:
        out = job.folder / name
        _command(["eval", name, "--preset", file, "--model", job.folder / "finetune", "--out", out], environment)
        done.texts[name] = _read_texts(out, asked_of(preset, name))
    return done


def _as_yaml(value: Any) -> Any:
    """A preset, or a part of it, as its YAML file has it."""
    if isinstance(value, dict):
        return {key: _as_yaml(part) for key, part in value.items() if part is not None}
    if isinstance(value, Path):
        return str(value)
    return _as_yaml(vars(value)) if hasattr(value, "__dataclass_fields__") else value


def _command(words: list[Any], environment: dict[str, str]) -> str:
    """Run a command of the toolkit, which ends with this process; returns what it printed."""
    completed = subprocess.run(
        [sys.executable, "-m", "toolkit", *map(str, words)], cwd=REPOSITORY, env=environment, text=True,
        capture_output=True, preexec_fn=lambda: end_with_parent(signal.SIGKILL),
    )  # fmt: skip
    if completed.returncode:
        *_, last = completed.stderr.strip().splitlines() or [""]
        if completed.returncode < 0:
            last = f"killed by signal {-completed.returncode}, as where memory is short"
        raise UserError(f"{' '.join(map(str, words[:2]))}: {last.removeprefix('error: ')}")
    return completed.stdout


def _read_texts(folder: Path, asked: list[Any]) -> list[str]:
    """The answers that `eval` wrote, in the order of the questions."""
    from toolkit.eval.answer_files import ANSWERS, read_answers

    found = {(answer.question_id, answer.prompt): answer.text for answer in read_answers(folder / ANSWERS)}
    return [found[question.question_id, question.prompt] for question in asked]


Trainer = Callable[[Job], Trained]
