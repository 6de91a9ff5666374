"""Where cells are made: the seed sets, evaluation questions and features that they share."""

from __future__ import annotations

import os
import shutil
import time
from functools import cached_property
from pathlib import Path
from typing import Any

from experiments.lab.arms import SeedSet
from experiments.lab.cells import Cell, Record, Store, hash_of, key_of
from experiments.lab.labfile import Arm, Lab
from experiments.lab.scoring import evaluate
from experiments.lab.training import CachedTrainer, Job, Trainer, train_by_commands
from experiments.lab.worlds import Draw, build_evaluation, with_evaluation, world_folder
from toolkit.dataset.rows import ImageRoots
from toolkit.dataset.training_file import read_samples
from toolkit.files import REPOSITORY, package_versions, read_json, sha256_of
from toolkit.fixed_part import read_fixed_part
from toolkit.presets import Preset, load_preset
from toolkit.processes import owner_of
from toolkit.training.plan import fingerprint


class Bench:
    """Makes the cells of one lab.

    Args:
        lab: the lab.
    """

    def __init__(self, lab: Lab):
        self.lab = lab
        self.store = Store(lab.records, lab.output / "cells", lab.reuse)
        self.trainer: Trainer = CachedTrainer() if lab.features == "cached" else train_by_commands
        self._seeds: dict[int, SeedSet] = {}
        self._hashes: dict[Path, str] = {}

    def seed_set(self, draw: int) -> SeedSet:
        """A draw of the mini world's seed, or the seed itself; what it holds is built when it is needed."""
        if draw not in self._seeds:
            preset, dataset = self.lab.preset, self.lab.dataset
            if self.lab.world:
                self._seeds[draw] = Draw(self._world_folder, draw, self.lab.world, preset)
            else:
                work = self.lab.output / "seeds" / hash_of([sha256_of(dataset), str(preset.seed_images)])
                self._seeds[draw] = SeedSet(dataset, preset.seed_images, preset.questions, work, draw, preset)
        return self._seeds[draw]

    @cached_property
    def _world_folder(self) -> Path:
        assert self.lab.world
        return world_folder(self.lab.output / "worlds", self.lab.world, self.lab.preset)

    @cached_property
    def preset(self) -> Preset:
        """The lab's preset with the evaluation's files, which are built here in a world."""
        if not self.lab.world:
            return self.lab.preset
        build_evaluation(self.lab.world, self._world_folder)
        return with_evaluation(self.lab.preset, self.lab.world, self._world_folder)

    def rows_of(self, cell: Cell, start: bool = True) -> tuple[list[dict[str, Any]], ImageRoots]:
        """A cell's rows and the folders of their images; a recipe is run for them unless it has been; see `key_of`.

        Raises:
            UserError: the recipe failed; a row cannot be trained.
        """
        if cell.arm.source == "none":
            return [], ImageRoots(self.lab.preset.seed_images, self.lab.preset.seed_images)
        return self.seed_set(cell.draw).rows(cell.arm, self.lab.arms, cell.seed, start)

    def is_ready(self, cell: Cell) -> bool:
        """Whether its inputs can be named without building a seed or running a recipe."""
        world = self.lab.world
        if world and not (self._world_folder / f"eval_{world.split}" / "mmbench.tsv").is_file():
            return False
        if cell.arm.source == "none":
            return True
        seed_set = self.seed_set(cell.draw)
        return seed_set.is_built and seed_set.is_ready(cell.arm, self.lab.arms)

    def inputs_of(self, rows: list[dict[str, Any]], roots: ImageRoots) -> dict[str, Any]:
        """Hashes of all that decides a cell, but its seed."""
        images = [self._hash(roots.resolve(row["image"])) for row in rows if row.get("image")]
        return self._shared | {"pretrain_rows": hash_of(rows), "pretrain_pictures": hash_of(images)}

    def _hash(self, file: Path) -> str:
        if file not in self._hashes:
            self._hashes[file] = sha256_of(file)
        return self._hashes[file]

    @cached_property
    def _shared(self) -> dict[str, Any]:
        """Hashes of the inputs that all cells of a table share."""
        preset = self.preset
        folder = preset.mmbench.questions.parent
        if self.lab.world:
            evaluation = sorted(folder.rglob("*.*"))
        else:
            evaluation = [preset.textvqa.questions, preset.textvqa.annotations, preset.mmbench.questions]
            evaluation += sorted(path for path in preset.textvqa.images.rglob("*.*") if path.is_file())
        return {
            "models": hash_of(fingerprint([], [preset.llm, preset.vision_tower, preset.vision_tower_aux])),
            "finetune": sha256_of(preset.finetune_data),
            "evaluation": hash_of([sha256_of(file) for file in evaluation]),
            "figures": self.figures,
        }

    @cached_property
    def figures(self) -> dict[str, Any]:
        """What of the preset decides a cell, but its files."""
        preset = self.lab.preset
        return {stage: vars(preset.stage(stage)) for stage in ("pretrain", "finetune")} | {
            "sample_cap": preset.sample_cap,
            "stochastic_depth": self.lab.features == "none",
            "precision": preset.precision,
            "max_length": preset.max_length,
            "image_size_aux": preset.image_size_aux,
            "new_tokens": [preset.textvqa.max_new_tokens, preset.mmbench.max_new_tokens],
        }

    def key_of(self, cell: Cell, start: bool = True) -> str:
        """The cell's key.

        Args:
            start: run the cell's recipe again if its inputs have changed; else take its result as it is.

        Raises:
            UserError: see `rows_of`.
        """
        return key_of(self.inputs_of(*self.rows_of(cell, start)), cell.seed)

    def about(self, arm: Arm) -> dict[str, Any]:
        """What a page tells of a recipe's arm: its text, and rows kept by operator of the first draw."""
        if arm.kind != "recipe":
            return {}
        recipe = REPOSITORY / arm.source
        record = self.seed_set(0).recipe_folder(recipe) / "run.json"
        steps = read_json(record).get("steps", []) if record.is_file() else []
        return {"text": recipe.read_text(encoding="utf-8-sig"), "steps": steps}

    def make(self, cell: Cell, may_train: bool = True) -> tuple[Record | None, bool]:
        """The cell's record, and whether the cell was trained for it here; no record where it may not be trained.

        Raises:
            UserError: those of `rows_of` and of the training.
            InUseError: another process is training this very cell.
        """
        rows, roots = self.rows_of(cell)
        inputs = self.inputs_of(rows, roots)
        key = key_of(inputs, cell.seed)
        if (record := self.store.find(cell, key)) or not may_train:
            return record, False
        with owner_of(self.store.cells, key):
            if record := self.store.find(cell, key):  # another process has just ended it
                return record, False
            folder = self.lab.output / "work" / key
            record = self._train(cell, key, inputs, Job(self.preset, rows, roots, cell.seed, folder))
            shutil.rmtree(folder, ignore_errors=True)  # weights of a full-size model take 6 GB
        return record, True

    def _train(self, cell: Cell, key: str, inputs: dict[str, Any], job: Job) -> Record:
        import torch

        started, started_cpu = time.perf_counter(), sum(os.times()[:4])
        done = self.trainer(job)
        by_kind = job.preset.run_name == load_preset("mini").run_name
        evaluation = evaluate(job.preset, done.texts, by_kind)
        seconds = time.perf_counter() - started
        gpu = torch.cuda.is_available()
        record = {
            "key": key, "arm": cell.arm.name, "draw": cell.draw, "seed": cell.seed, "preset": self.lab.preset.name,
            "split": self.lab.split,
            "scores": evaluation.scores,
            "samples": done.samples,
            "loss": {stage: [round(value, 5) for value in history] for stage, history in done.loss.items()},
            "warnings": [*done.warnings, *evaluation.warnings],
            "counts": {
                "rows": len(job.rows), "distinct_rows": len({hash_of(row) for row in job.rows}),
                "finetune_rows": len(read_samples(job.preset.finetune_data)),
                "pictures_encoded": done.encoded,
            },
            "seconds": round(seconds, 1),
            "cpu_seconds": round(sum(os.times()[:4]) - started_cpu, 1),
            "gpu_hours": round(seconds / 3600, 4) if gpu else 0.0,
            "inputs": inputs,
            "versions": package_versions(),
            "fixed_part": self._fixed_part,
            "device": torch.cuda.get_device_name() if gpu else "cpu",
        }  # fmt: skip
        self.store.add(cell, record, evaluation.answers, evaluation.questions)
        return record

    @cached_property
    def _fixed_part(self) -> str:
        return read_fixed_part().sha256
