"""The auxiliary tower: a small ConvNeXt that reads signs and recognises objects, stored under open_clip's key names.

It is trained on dense labels (the content of each cell of a 12 x 12 grid), and its second stage on single letters; the
classification heads are not stored.
"""

from __future__ import annotations

import random
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from toolkit.files import write_json
from toolkit.mgm.vision import ConvNeXtTower
from toolkit.mini.training import (
    IGNORED,
    NATURAL,
    NO_OBJECT,
    NO_WORD,
    MiniTrainer,
    crowd_batch,
    dense_labels,
    scene_batch,
)

DIMS, DEPTHS = [32, 64, 128], [1, 1, 2]
STEPS, BATCH, LEARNING_RATE = 1300, 24, 3e-3
GRID = 12  # cells per side of the third stage's map at 192 px


class ReadingHeads(nn.Module):
    """Linear classifiers on the stacked maps, the input of patch info mining, and of letters on the second stage.

    The maps are pooled to the coarsest grid, not scaled to the finest as in MGM: the same result in 2/3 of the time.
    """

    def __init__(self):
        super().__init__()
        width = sum(DIMS)
        self.norm = nn.LayerNorm(width)
        self.object = nn.Linear(width, NO_OBJECT + 1)
        self.colour = nn.Linear(width, NATURAL + 1)
        self.word = nn.Linear(width, NO_WORD + 1)
        self.letter = nn.Linear(DIMS[1], 27)

    def forward(self, maps: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Stage maps of 48, 24 and 12 cells -> logits, classes last: [B, 12, 12, .], letters [B, 24, 24, 27]."""
        cells = torch.cat([F.adaptive_avg_pool2d(m, GRID) for m in maps], dim=1)
        cells = self.norm(cells.permute(0, 2, 3, 1))
        second = maps[1].permute(0, 2, 3, 1)
        second = F.layer_norm(second, second.shape[-1:])
        return {
            "object": self.object(cells), "colour": self.colour(cells), "word": self.word(cells),
            "letter": self.letter(second),
        }  # fmt: skip


def build_convnext(folder: Path, steps: int = STEPS) -> None:
    """Train the tower and store `model.safetensors` and `open_clip_config.json` in `folder`."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rng = random.Random("convnext")
    tower, heads = ConvNeXtTower(DIMS, DEPTHS), ReadingHeads()
    for name, parameter in tower.named_parameters():
        if name.endswith("gamma"):
            nn.init.constant_(parameter, 0.5)
    tower.to(memory_format=torch.channels_last)
    trainer = MiniTrainer("convnext", [*tower.parameters(), *heads.parameters()], LEARNING_RATE, steps)
    for _ in range(steps):
        # Letters are the hard part.
        _, scene_pixels, scene_labels = scene_batch(rng, BATCH // 3)
        crowd_pixels, crowd_labels = crowd_batch(rng, signs=BATCH // 2, objects=BATCH // 6)
        x = torch.cat([scene_pixels, crowd_pixels]).contiguous(memory_format=torch.channels_last)
        trainer.step(reading_losses(heads(tower(x)), scene_labels + crowd_labels))
    _save(tower, folder)


def reading_losses(logits: dict[str, torch.Tensor], labels) -> dict[str, torch.Tensor]:
    """Cross-entropies over cells; empty cells count little, or they would drown the rest."""
    coarse, fine = dense_labels(labels, GRID), dense_labels(labels, 2 * GRID)
    targets = {name: coarse[name] for name in ("object", "colour", "word")} | {"letter": fine["letter"]}
    losses = {}
    for name, values in logits.items():
        weight = torch.ones(values.shape[-1])
        if name != "colour":
            weight[-1] = 0.1
        losses[name] = F.cross_entropy(values.flatten(0, 2), targets[name].flatten(), weight, ignore_index=IGNORED)
    return losses


def _save(tower: ConvNeXtTower, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    renamed = {
        name.replace("vision_stem", "visual.trunk.stem").replace("vision_stages", "visual.trunk.stages"): value
        for name, value in tower.state_dict().items()
    }
    save_file({name: value.contiguous() for name, value in renamed.items()}, folder / "model.safetensors")
    write_json(folder / "open_clip_config.json", {
        "model_cfg": {
            "embed_dim": DIMS[-1],
            "vision_cfg": {
                "timm_model_name": "convnext_mini", "timm_model_pretrained": False, "image_size": 192,
                "timm_model_kwargs": {"dims": DIMS, "depths": DEPTHS},
            },
        },
        "preprocess_cfg": {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]},
    })  # fmt: skip


def load_tower(folder: Path) -> ConvNeXtTower:
    """The stored tower, in evaluation mode."""
    tower = ConvNeXtTower(DIMS, DEPTHS)
    weights = load_file(folder / "model.safetensors")
    tower.load_state_dict({f"vision_{name.removeprefix('visual.trunk.')}": value for name, value in weights.items()})
    return tower.eval()
