"""Caption losses of a trained MGM with the image and without, many pairs at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

from toolkit.dataset.images import is_missing, refuse_machine_fault, require_regular_file
from toolkit.errors import RowFault, UserError
from toolkit.judge.pairs import Pair, digest, tokens_of
from toolkit.mgm.images import open_image, scale_image
from toolkit.mgm.model import MGMGemmaForCausalLM
from toolkit.training.data import Collator, SampleReader, start_worker

# The aux tower's stacked maps take 0.2 GB per image, and torch cannot resize those of 38 images and more at once.
IMAGES_TOGETHER = 16
# Logits take 1 MB a position with Gemma's 256,000 words.
POSITIONS_TOGETHER = 1024
_IN_MEMORY = re.compile(r" ?<_io\.BytesIO object at \w+>")


@dataclass(frozen=True)
class Judged:
    """What a judge makes of one pair.

    Args:
        image: 16 bytes that name the image's content; None where it cannot be read.
        with_image, without_image: mean loss of the caption's tokens, nats; None where the pair cannot be judged.
        tokens: how many these are.
        fault: why the pair cannot be judged; empty for any other.
    """

    image: bytes | None = None
    with_image: float | None = None
    without_image: float | None = None
    tokens: int = 0
    fault: str = ""


def judge_pairs(
    model: MGMGemmaForCausalLM, reader: SampleReader, pairs: Sequence[Pair], batches: list[list[int]], workers: int
) -> Iterator[dict[int, Judged]]:
    """Judge pairs.

    Args:
        model: in evaluation mode, on its device.
        reader: makes samples of the pairs.
        pairs: with a sample each.
        batches: indices of pairs that share forward passes, in the order in which they are judged.
        workers: processes that read images; 0 reads them in this one.

    Yields:
        after every batch, what was found by index.

    Raises:
        UserError: an image is gone; a worker was killed; the GPU's memory does not suffice.
    """
    loader = DataLoader(
        _Samples(pairs, reader),
        batch_sampler=batches,
        collate_fn=list,
        num_workers=workers,
        pin_memory=False,
        worker_init_fn=start_worker,
    )
    collate = Collator(reader.tokenizer.pad_token_id, reader.image_tokens, reader.max_length)
    try:
        for items in loader:
            if stop := next((item["stop"] for item in items if "stop" in item), None):
                raise UserError(f"{stop}; the same command resumes")
            found = {item["index"]: Judged(item["image"], fault=item["fault"]) for item in items if "fault" in item}
            good = [item for item in items if "fault" not in item]
            if good:
                seen = _losses(model, collate([item["seen"] for item in good]))
                blind = _losses(model, collate([item["blind"] for item in good]))
                for item, (with_image, tokens), (without_image, _) in zip(good, seen, blind, strict=True):
                    found[item["index"]] = _judged(item["image"], with_image, without_image, tokens)
            yield found
    except torch.OutOfMemoryError:
        raise UserError("the GPU's memory does not suffice; give a smaller --batch, the run resumes") from None
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise UserError(f"{str(error).splitlines()[0]}; the same command resumes, with fewer --workers") from None


def _judged(image: bytes, with_image: float, without_image: float, tokens: int) -> Judged:
    if not torch.tensor([with_image, without_image]).isfinite().all():
        return Judged(image, fault=f"not_finite: the losses are {with_image} and {without_image}")
    return Judged(image, with_image, without_image, tokens)


class _Samples(Dataset):
    """Pairs read for both passes; one that cannot be read comes as `fault`, what ends the run as `stop`."""

    def __init__(self, pairs: Sequence[Pair], reader: SampleReader):
        self.pairs = pairs
        self.reader = reader

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample, image = self.pairs[index].sample, None
        try:
            path = self.reader.roots.of_row(sample)
            content = _content(path)
            image = digest(content)
            (ids, labels), (blind, blind_labels) = tokens_of(sample, self.reader)
            try:
                pixels = scale_image(open_image(content), self.reader.image_size_aux, self.reader.aspect)
            except RowFault as fault:  # what was decoded came from memory: name the file instead
                detail = _IN_MEMORY.sub("", fault.detail).replace("embedded image", str(path))
                raise RowFault(fault.reason, detail) from None
        except RowFault as fault:
            if is_missing(fault):
                return {"index": index, "stop": f"{fault.detail}, though it was there when this run began"}
            return {"index": index, "image": image, "fault": str(fault)}
        except UserError as error:
            return {"index": index, "stop": str(error)}
        return {
            "index": index,
            "image": image,
            "seen": {"input_ids": ids, "labels": labels, "pixels": pixels},
            "blind": {"input_ids": blind, "labels": blind_labels},
        }


def _content(path: Path) -> bytes:
    """The bytes of an image. Raises RowFault where they cannot be read, UserError where that is the machine's fault."""
    require_regular_file(path)
    try:
        return path.read_bytes()
    except FileNotFoundError:  # it has gone a moment ago
        raise RowFault("missing_image", f"{path}: no such file") from None
    except OSError as error:
        refuse_machine_fault(error, path)
        raise RowFault("unreadable_image", f"{path}: {error.strerror}") from None


@torch.inference_mode()
def _losses(model: MGMGemmaForCausalLM, batch: dict[str, Any]) -> list[tuple[float, int]]:
    """Mean loss of each row's supervised tokens, and how many these are.

    Args:
        batch: of `Collator`.
    """
    device = model.device
    features = None
    if "pixels" in batch:
        parts = batch["pixels"].split(IMAGES_TOGETHER)
        features = torch.cat([model.encode_images(pixels.to(device)) for pixels in parts])
    expansion = batch["expansion"]
    embeds, _ = model.embed(batch["input_ids"].to(device), features, expansion)
    # With padding on the right no real token looks at padding: causal attention needs no mask.
    hidden = model.model(inputs_embeds=embeds, attention_mask=None, use_cache=False)[0]  # [B, M, 2048]
    rows, length = hidden.shape[:2]
    positions = expansion["supervised"]  # [S] of [B * M]
    targets = expansion["labels"].flatten()[positions + 1].to(device)
    losses = torch.cat([
        cross_entropy(model.lm_head(hidden.flatten(0, 1)[at.to(device)]).float(), wanted, reduction="none")
        for at, wanted in zip(positions.split(POSITIONS_TOGETHER), targets.split(POSITIONS_TOGETHER), strict=True)
    ]).cpu().double()  # fmt: skip
    row = positions // length
    sums = torch.zeros(rows, dtype=torch.float64).index_add_(0, row, losses)
    counts = torch.bincount(row, minlength=rows)
    return list(zip((sums / counts).tolist(), counts.tolist(), strict=True))
