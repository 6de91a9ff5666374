"""What only the mini world offers: its seed drawn again, its defects undone, evaluation sets of any size.

| control | pre-training rows |
|---|---|
| `clean` | raw's rows with every defect undone, near-duplicates replaced by other repaired pairs |
| `no_DEFECT` | raw's rows, those of one defect replaced by rows of the seed that raw did not draw and that lack it |
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from experiments.lab.arms import SeedSet, in_turn
from experiments.lab.cells import hash_of
from experiments.lab.labfile import WORLD_CONTROLS, Arm, World
from toolkit.dataset.rows import ImageRoots, Line, id_of
from toolkit.files import REPOSITORY, read_jsonl, sha256_of
from toolkit.mini.evaluation import build_mmbench, build_textvqa
from toolkit.mini.seed import DEFECTS, build_seed
from toolkit.presets import MMBench, Preset, TextVQA
from toolkit.training.plan import fingerprint

SEED_FILE, TRUTH_FILE = "mgm_pretrain_mini.jsonl", "seed_truth.jsonl"
# Modules that, with the assets, decide draws and evaluation sets.
SOURCES = ("captions", "evaluation", "questions", "scenes", "seed", "sprites")


def world_folder(work: Path, world: World, preset: Preset) -> Path:
    """Folder of the draws and evaluation sets of this code, these sizes and this CLIP, by their hash."""
    here = REPOSITORY / "toolkit" / "mini"
    sources = [here / f"{name}.py" for name in SOURCES] + sorted((here / "assets").rglob("*.*"))
    sizes = [world.rows, world.questions, world.shares or dict(DEFECTS)]
    return work / hash_of([*map(sha256_of, sources), fingerprint([], [preset.vision_tower]), sizes])


def with_evaluation(preset: Preset, world: World, folder: Path) -> Preset:
    """The preset with a world's evaluation questions in place of its own; see `build_evaluation`."""
    found = folder / f"eval_{world.split}"
    textvqa = TextVQA(
        questions=found / "llava_textvqa_mini_ocr.jsonl",
        images=found / "train_images",
        annotations=found / "textvqa_mini_annotations.json",
        max_new_tokens=preset.textvqa.max_new_tokens,
    )
    mmbench = MMBench(found / "mmbench.tsv", preset.mmbench.max_new_tokens)
    return dataclasses.replace(preset, textvqa=textvqa, mmbench=mmbench)


def build_evaluation(world: World, folder: Path) -> None:
    """Write a world's evaluation questions, unless they are there; of two shells one writes and the other waits."""
    found = folder / f"eval_{world.split}"
    if not (found / "mmbench.tsv").is_file():
        with in_turn(folder):
            if not (found / "mmbench.tsv").is_file():  # it is written last
                build_textvqa(found, world.split, world.questions)
                build_mmbench(found / "mmbench.tsv", world.split, world.questions)


class Draw(SeedSet):
    """One draw of the mini world's seed.

    Args:
        folder: of the world; gets `draw_N/seed/`, `repaired/`, and what every seed set has.
        number: of the draw; 0 is the committed seed.
        world: sizes and shares.
        preset: see SeedSet.
    """

    def __init__(self, folder: Path, number: int, world: World, preset: Preset):
        work = folder / f"draw_{number}"
        seed = work / "seed"
        super().__init__(seed / SEED_FILE, seed, seed / "stage_1.json", work, number, preset)
        self.world = world

    @property
    def is_built(self) -> bool:
        """Whether the seed is there, whole."""
        return (self.images / TRUTH_FILE).is_file()  # it is written last

    def _chosen(self, arm: Arm, arms: Mapping[str, Arm], seed: int) -> tuple[list[Line], ImageRoots, Path]:
        self.build()
        if arm.kind != "control" or arm.source not in WORLD_CONTROLS:
            return super()._chosen(arm, arms, seed)
        if arm.source == "clean":
            repaired = self.build(repaired=True)
            clean: dict[str, Line] = {line["id"]: line for _, line in read_jsonl(repaired / SEED_FILE)}
            chosen = [clean[id_of(line)] for line in replaced(self.lines, self._drawn(self.lines), set(clean))]
            return chosen, ImageRoots(seed=repaired, processed=repaired), repaired / SEED_FILE
        defect = arm.source.removeprefix("no_")
        allowed = {truth["id"] for _, truth in read_jsonl(self.images / TRUTH_FILE) if truth["defect"] != defect}
        chosen = replaced(self.lines, self._drawn(self.lines), allowed)
        return chosen, ImageRoots(seed=self.images, processed=self.images), self.dataset

    def build(self, repaired: bool = False) -> Path:
        """Write the seed, or the seed without defects, unless it is there; returns its folder."""
        folder = self.work / "repaired" if repaired else self.images
        if not (folder / TRUTH_FILE).is_file():
            with in_turn(self.work.parent):
                if not (folder / TRUTH_FILE).is_file():
                    shares = self.world.shares or DEFECTS
                    build_seed(folder, folder / TRUTH_FILE, self.number, self.world.rows, repaired, shares)
        return folder


def replaced(rows: list[Line], drawn: list[Line], allowed: set[str]) -> list[Line]:
    """The drawn rows, those whose id is not allowed replaced by allowed rows that were not drawn, in their order.

    Where these do not suffice, the result is shorter.
    """
    taken = {id_of(row) for row in drawn}
    spare = (row for row in rows if id_of(row) in allowed and id_of(row) not in taken)
    result = (row if id_of(row) in allowed else next(spare, None) for row in drawn)
    return [row for row in result if row]
