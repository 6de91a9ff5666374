"""Which samples meet in which micro-batch, and which process trains it.

The order is computed here, whole, from a seed: no sampler, loader or launcher of a library takes part in it.
Source: goldens/README.md, sections 4 and 6 (measured on the reference).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


def shuffled_order(count: int, seed: int) -> list[int]:
    """Pre-training's order of `count` samples: one random permutation."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()


def word_lengths(rows: Sequence[dict]) -> list[int]:
    """Whitespace-separated words of all turns of each LLaVA-format row, negative for rows without an image."""
    lengths = []
    for row in rows:
        words = sum(len(turn["value"].split()) for turn in row["conversations"])
        lengths.append(words if "image" in row else -words)
    return lengths


def modality_grouped_order(lengths: Sequence[int], batch: int, chunks: int, seed: int) -> list[int]:
    """Finetuning's order: samples of like length together, images and text apart except at the very end.

    Each modality is shuffled and cut into mega-batches of `batch * chunks` samples, ordered inside by length. The
    mega-batches of both are then shuffled; the last one of each is held back, and both go, by index, to the end.

    Args:
        lengths: as `word_lengths` returns them.
        batch: samples of a micro-batch.
        chunks: micro-batches of an optimizer step over all processes.
        seed: of the order.

    Returns:
        A permutation of the indices.
    """
    generator = torch.Generator().manual_seed(seed)
    # The reference's loader draws a seed for its workers, an int64, from the generator the order comes from.
    torch.empty((), dtype=torch.int64).random_(generator=generator)
    images = [index for index, length in enumerate(lengths) if length > 0]
    texts = [index for index, length in enumerate(lengths) if length <= 0]
    if not images or not texts:
        # The signs stay: the reference puts a text-only set's short samples first.
        megabatches = _megabatches(range(len(lengths)), lengths, batch, chunks, generator)
        return [index for megabatch in megabatches for index in megabatch]
    magnitudes = [abs(length) for length in lengths]
    *image_batches, last_images = _megabatches(images, magnitudes, batch, chunks, generator)
    *text_batches, last_texts = _megabatches(texts, magnitudes, batch, chunks, generator)
    megabatches = image_batches + text_batches
    shuffled = torch.randperm(len(megabatches), generator=generator).tolist()
    order = [index for number in shuffled for index in megabatches[number]]
    return order + sorted(last_images + last_texts)


def _megabatches(
    members: Sequence[int], lengths: Sequence[int], batch: int, chunks: int, generator: torch.Generator
) -> list[list[int]]:
    """Shuffle a modality, cut it into mega-batches and arrange each as its chunks, one after the other."""
    shuffled = [members[index] for index in torch.randperm(len(members), generator=generator).tolist()]
    size = batch * chunks
    arranged = []
    for start in range(0, len(shuffled), size):
        by_length = sorted(shuffled[start : start + size], key=lambda index: -lengths[index])
        dealt = _deal(by_length, lengths, chunks)
        arranged.append([index for chunk in dealt for index in chunk])
    return arranged


def _deal(members: list[int], lengths: Sequence[int], chunks: int) -> list[list[int]]:
    """Split into `chunks` equal parts of about equal total length; by plain striding where it does not divide."""
    if len(members) % chunks:
        return [members[start::chunks] for start in range(chunks)]
    capacity = len(members) // chunks
    dealt: list[list[int]] = [[] for _ in range(chunks)]
    totals = [0] * chunks
    for index in members:
        open_chunks = [chunk for chunk in range(chunks) if len(dealt[chunk]) < capacity]
        shortest = min(open_chunks, key=totals.__getitem__)
        dealt[shortest].append(index)
        totals[shortest] += lengths[index]
    return dealt


def micro_batches(order: Sequence[int], batch: int, accumulation: int, processes: int) -> list[list[int]]:
    """The micro-batches that are trained, in global order; number k belongs to process k mod `processes`.

    Only whole optimizer steps are kept: a surplus at the end of the epoch is not trained. With several processes the
    last round of micro-batches is first filled up with samples from the start, as the reference's launcher does.

    Returns:
        `steps * accumulation * processes` lists of indices; empty when the samples do not make one step.
    """
    order = list(order)
    if processes > 1:
        order += order[: -len(order) % (batch * processes)]
    batches = [order[start : start + batch] for start in range(0, len(order), batch)]
    step = accumulation * processes
    return batches[: len(batches) // step * step]
