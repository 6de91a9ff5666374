"""The rows that each arm of a lab pre-trains on.

| control | pre-training rows |
|---|---|
| `none` | no pre-training: finetuning starts from an untrained projector |
| `raw` | the seed as it is; as in the challenge, the cap draws from it |
| `random` | as many random pairs as another arm keeps, others for every training seed, repeated up to the cap |
| `reversed` | as many pairs as another arm keeps, those of the lowest CLIP similarity, repeated up to the cap |

`worlds.py` adds the mini world's own. Another arm is a recipe, which runs as a participant's does, or a finished file.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from experiments.lab.cells import hash_of
from experiments.lab.labfile import Arm
from toolkit.dataset.llava import Original, load_originals
from toolkit.dataset.rows import ImageRoots, Line, id_of, parse_row, read_rows
from toolkit.dataset.training_file import convert_rows, draw_rows
from toolkit.errors import RowFault, UserError
from toolkit.files import REPOSITORY, read_json, require_file, write_json
from toolkit.presets import Preset
from toolkit.processes import InUseError, end_with_parent, owner_of
from toolkit.terminal import visible

PROCESS = REPOSITORY / "solution" / "process.py"
RESULT = "processed_data.jsonl"
CLIP_BATCH = 32
SECONDS_BETWEEN_LOOKS = 1.0


class SeedSet:
    """A seed and the arms' rows from it; each part is built when it is first needed.

    Args:
        dataset: the seed's jsonl.
        images: folder that its image paths start from.
        questions: LLaVA-format original of the seed.
        work: gets `recipes/` and `similarity.json`.
        number: of the draw, for random choices.
        preset: gives the cap, the seed of its draw, and CLIP.
    """

    def __init__(self, dataset: Path, images: Path, questions: Path, work: Path, number: int, preset: Preset):
        self.dataset, self.images, self.questions = dataset, images, questions
        self.work, self.number, self.preset = work, number, preset
        self._failed: dict[str, str] = {}
        self._finished: set[Path] = set()
        self._start = True

    @property
    def is_built(self) -> bool:
        """Whether the seed is there."""
        return self.dataset.is_file()

    def rows(
        self, arm: Arm, arms: Mapping[str, Arm], seed: int, start: bool = True
    ) -> tuple[list[dict[str, Any]], ImageRoots]:
        """LLaVA-format rows of an arm, and the folders of their images.

        Args:
            arm: any but `none`.
            arms: all of the lab by name, for the size of another.
            seed: TRAIN_SEED. `random` depends on it: the chance of one sample must not look like an effect.
            start: a recipe; else its last result is taken as it is.

        Raises:
            UserError: the recipe failed; a row cannot be trained.
        """
        self._start = start
        chosen, roots, file = self._chosen(arm, arms, seed)
        samples, skipped = convert_rows(list(enumerate(chosen, 1)), self._originals, roots, file, "skip")
        if skipped:
            first = skipped[0]
            raise UserError(
                f"{file}: {len(skipped)} of the {len(chosen)} rows of arm {arm.name} cannot be trained; the first has "
                f"id {visible(first.id)} ({first.reason}: {first.detail}); `python -m toolkit check` lists every fault"
            )
        return samples, roots

    @functools.cached_property
    def _originals(self) -> dict[str, Original]:
        return load_originals(self.questions)

    def _chosen(self, arm: Arm, arms: Mapping[str, Arm], seed: int) -> tuple[list[Line], ImageRoots, Path]:
        """Rows in the seed's format, the folders of their images, and where they are from, for messages."""
        roots = ImageRoots(seed=self.images, processed=self.images)
        if arm.kind != "control":
            file = self.finished_file(arm)
            roots = ImageRoots(seed=self.images, processed=file.parent)
            return self._drawn([line for _, line in read_rows(file, roots)]), roots, file
        if arm.source == "raw":
            return self._drawn(self.lines), roots, self.dataset
        size = self._distinct(arms[arm.size_of])
        if arm.source == "random":
            rng = random.Random(f"random {self.number} {seed}")
            chosen = rng.sample(self.lines, min(size, len(self.lines)))
        else:
            scores = self._similarities
            judged = [line for line in self.lines if id_of(line) in scores]
            chosen = sorted(judged, key=lambda line: scores[id_of(line)])[:size]
        return repeat(chosen, self.preset.sample_cap), roots, self.dataset

    @functools.cached_property
    def lines(self) -> list[Line]:
        """The seed's rows."""
        return [line for _, line in read_rows(self.dataset, ImageRoots(seed=self.images, processed=self.images))]

    def _drawn(self, lines: list[Line]) -> list[Line]:
        return draw_rows(lines, self.preset.sample_cap, self.preset.sample_seed)

    def finished_file(self, arm: Arm) -> Path:
        """The file of a recipe's arm, which is run unless it has been, or of a file's arm.

        Raises:
            UserError: the recipe failed; the file is missing.
        """
        if arm.kind == "file":
            require_file(REPOSITORY / arm.source)
            return REPOSITORY / arm.source
        if arm.source in self._failed:
            raise UserError(self._failed[arm.source])
        try:
            return self._run_recipe(REPOSITORY / arm.source)
        except UserError as error:
            self._failed[arm.source] = str(error)
            raise

    def recipe_folder(self, recipe: Path) -> Path:
        """Where a recipe's result goes; comments and the order of keys do not matter.

        Raises:
            UserError: it is no YAML.
        """
        try:
            content = yaml.safe_load(recipe.read_text(encoding="utf-8-sig"))
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
            raise UserError(f"{recipe}: not a YAML document ({' '.join(str(error).split())[:200]})") from None
        folder = self.work / "recipes" / f"{recipe.stem}-{hash_of(repr(content))}"
        return folder / "processed_data"

    def is_ready(self, arm: Arm, arms: Mapping[str, Arm]) -> bool:
        """Whether the arm's rows can be read without running a recipe or a model."""
        if arm.source == "reversed" and arm.kind == "control" and not (self.work / "similarity.json").is_file():
            return False
        other = arms[arm.size_of] if arm.size_of else arm
        return other.kind != "recipe" or (self.recipe_folder(REPOSITORY / other.source) / "run.json").is_file()

    def _run_recipe(self, recipe: Path) -> Path:
        """Run a recipe as a participant does; `process.py` itself skips a finished run and resumes a killed one."""
        output = self.recipe_folder(recipe)
        if not self._start or recipe in self._finished:
            return output / RESULT
        command = [sys.executable, str(PROCESS), "--recipe", str(recipe), "--dataset", str(self.dataset)]
        command += ["--images", str(self.images), "--output", str(output)]
        with in_turn(output.parent):
            completed = subprocess.run(
                command, cwd=REPOSITORY, capture_output=True, text=True,
                env=os.environ | {"SCORE_STORE": str(self.work / "scores")},
                preexec_fn=lambda: end_with_parent(signal.SIGKILL),
            )  # fmt: skip
        if completed.returncode:
            *_, last = completed.stderr.strip().splitlines() or [f"exit status {completed.returncode}"]
            raise UserError(f"recipe {recipe} failed on {self.dataset}: {last.removeprefix('error: ')}")
        self._finished.add(recipe)
        return output / RESULT

    def _distinct(self, arm: Arm) -> int:
        """Distinct pairs of another arm: its size before it was filled up with copies."""
        return len({id_of(line) for _, line in read_rows(self.finished_file(arm))})

    @functools.cached_property
    def _similarities(self) -> dict[str, float]:
        """CLIP similarity of every pair of the seed, by id."""
        file = self.work / "similarity.json"
        if not file.is_file():
            write_json(file, clip_similarities(self.lines, self.images, self.preset.vision_tower))
        return read_json(file)


@functools.cache
def faults_of(recipes: tuple[str, ...], dataset: Path) -> dict[str, str]:
    """What is wrong with recipes, by their path: the faults of each that cannot run, a line each. Runs none of them.

    Asked once for all sizes of a ladder.

    Args:
        recipes: paths from the repository's root.
        dataset: the seed.
    """
    command = [sys.executable, str(PROCESS), "check", *recipes, "--dataset", str(dataset)]
    completed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    faults: dict[str, list[str]] = {}
    for line in completed.stderr.splitlines():
        named = [recipe for recipe in recipes if line.startswith(f"error: recipe {recipe}")]
        if named:
            faults.setdefault(max(named, key=len), []).append(line.removeprefix("error: "))
    if completed.returncode and not faults:
        *_, last = completed.stderr.strip().splitlines() or [f"exit status {completed.returncode}"]
        raise UserError(f"recipes cannot be checked: {last.removeprefix('error: ')}")
    return {recipe: "\n  ".join(lines) for recipe, lines in faults.items()}


@contextlib.contextmanager
def in_turn(folder: Path) -> Iterator[None]:
    """Own a folder while the block runs; where another process owns it, wait."""
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(owner_of(folder, "lab"))
                break
            except InUseError:
                time.sleep(SECONDS_BETWEEN_LOOKS)
        yield


def repeat(rows: list[Line], cap: int) -> list[Line]:
    """Cycle through the rows until there are `cap`."""
    return list(itertools.islice(itertools.cycle(rows), cap))


def clip_similarities(lines: list[Line], images: Path, clip: Path) -> dict[str, float]:
    """Cosine of image and caption under a CLIPModel, by row id; rows without image or faulty ones have none.

    Args:
        lines: rows of the seed.
        images: folder that their paths are relative to.
        clip: folder of the model.
    """
    import torch
    from transformers import CLIPModel, CLIPProcessor

    from toolkit.mgm.images import open_image

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, processor = CLIPModel.from_pretrained(clip), CLIPProcessor.from_pretrained(clip, use_fast=False)
    model = model.eval().to(device)
    longest = model.config.text_config.max_position_embeddings
    roots, pairs = ImageRoots(images, images), []
    for line in lines:
        with contextlib.suppress(RowFault):
            row = parse_row(line)
            if row.image:
                pairs.append((row.id, row.caption, roots.resolve(row.image)))
    scores: dict[str, float] = {}
    for start in range(0, len(pairs), CLIP_BATCH):
        ids, captions, files = zip(*pairs[start : start + CLIP_BATCH], strict=True)
        inputs = processor(
            text=list(captions), images=[open_image(file) for file in files],
            return_tensors="pt", padding=True, truncation=True, max_length=longest,
        ).to(device)  # fmt: skip
        with torch.inference_mode():
            outputs = model(**inputs)
        scores |= zip(ids, (outputs.image_embeds * outputs.text_embeds).sum(dim=1).tolist(), strict=True)
    return scores
