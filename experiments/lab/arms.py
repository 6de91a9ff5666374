"""The arms of the mini world's experiment: the rows each one pre-trains on, all from the same draw of the seed.

| arm | pre-training rows |
|---|---|
| `none` | no pre-training: finetuning starts from an untrained projector |
| `raw` | the seed as it is; as in the challenge, the cap draws half of it |
| `random` | as many random pairs as the recipe keeps, others for every training seed, repeated up to the cap |
| `reversed` | as many pairs as the recipe keeps, those of the lowest CLIP similarity, repeated up to the cap |
| `recipe` | the output of a recipe |
| `clean` | raw's rows with every defect undone, near-duplicates replaced by other repaired pairs |
| `no_DEFECT` | raw's rows, those of one defect replaced by rows of the seed that raw did not draw and that lack it |
"""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from toolkit.dataset.llava import load_originals
from toolkit.dataset.rows import ImageRoots
from toolkit.dataset.training_file import convert_rows, draw_rows
from toolkit.errors import UserError
from toolkit.files import REPOSITORY, read_json, read_jsonl, write_json
from toolkit.mini.seed import DEFECTS, build_seed
from toolkit.presets import Preset

MAIN_ARMS = ("none", "raw", "random", "reversed", "recipe", "clean")
DEFECT_ARMS = tuple(f"no_{defect}" for defect in DEFECTS)
SEED_FILE, TRUTH_FILE = "mgm_pretrain_mini.jsonl", "seed_truth.jsonl"
PROCESS = REPOSITORY / "solution" / "process.py"
CLIP_BATCH = 32


@dataclass(frozen=True)
class Draw:
    """One draw of the seed set and the arms' rows from it; each part is built when it is first needed.

    Args:
        folder: gets `seed/`, `repaired/`, `recipe/` and `similarity.json`.
        number: of the draw; 0 is the committed seed.
        rows: pairs of the seed.
        preset: gives the cap, the seed of its draw, and CLIP.
        recipe: of the arm `recipe`, a YAML file.
        shares: of the seed's rows, by defect.
    """

    folder: Path
    number: int
    rows: int
    preset: Preset
    recipe: Path
    shares: Mapping[str, float] = field(default_factory=lambda: DEFECTS)

    def training_rows(self, arm: str, seed: int = 0) -> tuple[list[dict[str, Any]], ImageRoots]:
        """LLaVA-format rows of an arm, and the folders of their images.

        Args:
            arm: see above.
            seed: TRAIN_SEED. `random` depends on it: the chance of one sample must not look like an effect.

        Raises:
            UserError: the recipe failed; a row cannot be trained.
        """
        folder = self._seed(repaired=False)
        lines = [line for _, line in read_jsonl(folder / SEED_FILE)]
        cap = self.preset.sample_cap
        roots = ImageRoots(seed=folder, processed=folder)
        if arm == "raw":
            chosen = self._drawn(lines)
        elif arm == "recipe":
            result = self._recipe_result
            chosen = self._drawn([line for _, line in read_jsonl(result)])
            roots = ImageRoots(seed=folder, processed=result.parent)
        elif arm == "random":
            rng = random.Random(f"random {self.number} {seed}")
            chosen = repeat(rng.sample(lines, self._recipe_size()), cap)
        elif arm == "reversed":
            scores = self._similarities(lines)
            worst = sorted(lines, key=lambda line: scores[line["id"]])[: self._recipe_size()]
            chosen = repeat(worst, cap)
        elif arm == "clean":
            repaired = self._seed(repaired=True)
            clean = {line["id"]: line for _, line in read_jsonl(repaired / SEED_FILE)}
            chosen = [clean[line["id"]] for line in replaced(lines, self._drawn(lines), set(clean))]
            roots = ImageRoots(seed=repaired, processed=repaired)
        else:
            defect = arm.removeprefix("no_")
            allowed = {truth["id"] for _, truth in read_jsonl(folder / TRUTH_FILE) if truth["defect"] != defect}
            chosen = replaced(lines, self._drawn(lines), allowed)
        originals = load_originals(folder / "stage_1.json")
        return convert_rows(list(enumerate(chosen, 1)), originals, roots, self.folder / arm, "stop")[0], roots

    def _drawn(self, lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return draw_rows(lines, self.preset.sample_cap, self.preset.sample_seed)

    def _seed(self, repaired: bool) -> Path:
        folder = self.folder / ("repaired" if repaired else "seed")
        if not (folder / TRUTH_FILE).is_file():  # it is written last
            build_seed(folder, folder / TRUTH_FILE, self.number, self.rows, repaired, self.shares)
        return folder

    @cached_property
    def _recipe_result(self) -> Path:
        """Run the recipe as a participant does; `process.py` itself skips a finished run."""
        output = self.folder / "recipe" / "processed_data"
        seed = self._seed(repaired=False)
        command = [sys.executable, str(PROCESS), "--recipe", str(self.recipe), "--dataset", str(seed / SEED_FILE)]
        completed = subprocess.run([*command, "--output", str(output)], cwd=REPOSITORY, capture_output=True, text=True)
        if completed.returncode:
            *_, last = completed.stderr.strip().splitlines() or [""]
            raise UserError(f"recipe {self.recipe} failed on {seed / SEED_FILE}: {last}")
        return output / "processed_data.jsonl"

    def _recipe_size(self) -> int:
        """Distinct pairs in the recipe's output: its size before it was filled up with copies."""
        return len({line["id"] for _, line in read_jsonl(self._recipe_result)})

    def _similarities(self, lines: list[dict[str, Any]]) -> dict[str, float]:
        """CLIP similarity of every pair of the seed, by id."""
        file = self.folder / "similarity.json"
        if not file.is_file():
            write_json(file, clip_similarities(lines, self._seed(repaired=False), self.preset.vision_tower))
        return read_json(file)


def repeat(rows: list[dict[str, Any]], cap: int) -> list[dict[str, Any]]:
    """Cycle through the rows until there are `cap`."""
    return list(itertools.islice(itertools.cycle(rows), cap))


def replaced(rows: list[dict[str, Any]], drawn: list[dict[str, Any]], allowed: set[str]) -> list[dict[str, Any]]:
    """The drawn rows, those whose id is not allowed replaced by allowed rows that were not drawn, in their order.

    Where these do not suffice, the result is shorter.
    """
    taken = {row["id"] for row in drawn}
    spare = (row for row in rows if row["id"] in allowed and row["id"] not in taken)
    result = (row if row["id"] in allowed else next(spare, None) for row in drawn)
    return [row for row in result if row]


def clip_similarities(lines: list[dict[str, Any]], images: Path, clip: Path) -> dict[str, float]:
    """Cosine of image and caption under a CLIPModel, by row id.

    Args:
        lines: rows of the seed, each with one image.
        images: folder that their paths are relative to.
        clip: folder of the model.
    """
    import torch
    from transformers import CLIPModel, CLIPProcessor

    from toolkit.dataset.rows import caption_of
    from toolkit.mgm.images import open_image

    model, processor = CLIPModel.from_pretrained(clip).eval(), CLIPProcessor.from_pretrained(clip, use_fast=False)
    longest = model.config.text_config.max_position_embeddings
    scores: dict[str, float] = {}
    for start in range(0, len(lines), CLIP_BATCH):
        batch = lines[start : start + CLIP_BATCH]
        inputs = processor(
            text=[caption_of(line["text"]) for line in batch],
            images=[open_image(images / line["images"][0]) for line in batch],
            return_tensors="pt", padding=True, truncation=True, max_length=longest,
        )  # fmt: skip
        with torch.inference_mode():
            outputs = model(**inputs)
        cosines = (outputs.image_embeds * outputs.text_embeds).sum(dim=1).tolist()
        scores |= {line["id"]: cosine for line, cosine in zip(batch, cosines, strict=True)}
    return scores
