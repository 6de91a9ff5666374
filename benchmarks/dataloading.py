"""Time the training loader on real images: samples per second by number of worker processes.

    python -m benchmarks.dataloading --data ROWS.json --images DIR --preset full

Without --data it reads the mini world's finetuning set. Reference mode sends both towers' floats from the workers,
as the original does; the default sends uint8 pixels and normalises them on the device. The pixels are checked to agree.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from toolkit.dataset.rows import ImageRoots
from toolkit.dataset.training_file import read_samples
from toolkit.mgm.checkpoint import load_tokenizer
from toolkit.mgm.images import normalise
from toolkit.presets import load_preset
from toolkit.training.data import Collator, SampleReader, TrainingSet


class FloatCollator:
    """Collates as the reference does: normalised float tensors of both towers travel between the processes."""

    def __init__(self, collate: Collator, image_size: int):
        self.collate = collate
        self.image_size = image_size

    def __call__(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """A micro-batch with `images` and `images_aux` for `pixels`."""
        batch = self.collate(samples)
        if "pixels" in batch:
            batch["images"], batch["images_aux"] = normalise(batch.pop("pixels"), self.image_size)
        return batch


def main() -> None:
    """Read the rows with both collators and print their rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="mini", help="gives image sizes (default: mini)")
    parser.add_argument("--data", type=Path, help="LLaVA-format JSON (default: the mini finetuning set)")
    parser.add_argument("--images", type=Path, help="its image folder")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="worker processes to try (default: 1 2)")
    parser.add_argument("--rows", type=int, default=256, help="rows read each time (default: 256)")
    parser.add_argument("--batch", type=int, default=8, help="samples of a micro-batch (default: 8)")
    args = parser.parse_args()
    preset, mini = load_preset(args.preset), load_preset("mini")
    image_size = {"mini": 96}.get(args.preset, 336)
    tokenizer = load_tokenizer(mini.llm)
    reader = SampleReader(
        roots=ImageRoots(args.images or mini.finetune_images, args.images or mini.finetune_images),
        tokenizer=tokenizer,
        image_size_aux=preset.image_size_aux,
        aspect="pad",
        max_length=preset.max_length,
        image_tokens=(image_size // 14) ** 2,
    )
    rows = read_samples(args.data or mini.finetune_data)[: args.rows]
    plain = Collator(tokenizer.pad_token_id, reader.image_tokens, reader.max_length)
    collators = {"reference": FloatCollator(plain, image_size), "default": plain}

    def first(name: str) -> dict[str, Any]:
        return next(iter(DataLoader(TrainingSet(rows, reader), batch_size=args.batch, collate_fn=collators[name])))

    both = normalise(first("default")["pixels"], image_size)
    assert torch.equal(both[1], first("reference")["images_aux"])
    print(f"{'workers':>8} {'reference':>10} {'default':>8}  samples/s")
    for workers in args.workers:
        rates = {}
        for name, collate in collators.items():
            loader = DataLoader(
                TrainingSet(rows, reader), batch_size=args.batch, num_workers=workers, collate_fn=collate
            )
            started = time.perf_counter()
            for batch in loader:
                if "fault" in batch:
                    raise SystemExit(f"error: {batch['fault']}")
            rates[name] = len(rows) / (time.perf_counter() - started)
        ratio = rates["default"] / rates["reference"]
        print(f"{workers:8} {rates['reference']:10.1f} {rates['default']:8.1f}  x{ratio:.2f}")


if __name__ == "__main__":
    main()
