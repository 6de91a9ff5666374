"""The order of samples: its recipe, its share among processes, and what a library's own sharing would give."""

from __future__ import annotations

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler

from toolkit.training.order import micro_batches, modality_grouped_order, shuffled_order, word_lengths

LENGTHS = [(-1) ** (index % 3 == 0) * (3 + index * 7 % 11) for index in range(50)]


def test_pretraining_order_is_one_permutation() -> None:
    torch.manual_seed(1)  # the global generator must not matter
    order = shuffled_order(10, 42)
    assert order == torch.randperm(10, generator=torch.Generator().manual_seed(42)).tolist()
    assert order != shuffled_order(10, 43)


def test_word_lengths_count_all_turns_and_are_negative_without_image() -> None:
    turns = [{"from": "human", "value": "<image>\nWhat  is\tthis?"}, {"from": "gpt", "value": "a dog"}]
    assert word_lengths([{"image": "a.png", "conversations": turns}, {"conversations": turns}]) == [6, -6]


def test_grouped_order_keeps_modalities_apart_except_at_the_end() -> None:
    batch, chunks = 2, 3
    order = modality_grouped_order(LENGTHS, batch, chunks, 42)
    assert sorted(order) == list(range(50))
    size = batch * chunks
    # 33 images and 17 texts: 5 and 2 whole mega-batches go first, 3 images and 5 texts by index at the end.
    tail = order[7 * size :]
    assert tail == sorted(tail)
    assert {LENGTHS[index] > 0 for index in tail} == {True, False}
    for start in range(0, 7 * size, size):
        megabatch = order[start : start + size]
        assert len({LENGTHS[index] > 0 for index in megabatch}) == 1
        totals = [sum(abs(LENGTHS[index]) for index in megabatch[at : at + batch]) for at in range(0, size, batch)]
        lengths = sorted(abs(LENGTHS[index]) for index in megabatch)
        assert max(totals) - min(totals) <= lengths[-1] - lengths[0], "chunks are balanced"


@pytest.mark.parametrize("sign", [1, -1])
def test_one_modality_alone_is_grouped_too(sign: int) -> None:
    lengths = [sign * (1 + index % 9) for index in range(20)]
    order = modality_grouped_order(lengths, 2, 2, 42)
    assert sorted(order) == list(range(20))
    # The reference sorts signed lengths: a text-only set has its short samples first.
    assert lengths[order[0]] == max(lengths[index] for index in order[:4])


@pytest.mark.parametrize(("count", "processes"), [(64, 2), (61, 2), (50, 4), (57, 3)])
def test_processes_share_as_the_reference_s_launcher_does(count: int, processes: int) -> None:
    order = shuffled_order(count, 42)
    batches = micro_batches(order, batch=4, accumulation=2, processes=processes)
    sampler = BatchSampler(order, batch_size=4, drop_last=False)
    for rank in range(processes):
        theirs = list(BatchSamplerShard(sampler, processes, rank, even_batches=True))
        ours = batches[rank::processes]
        assert ours == theirs[: len(theirs) // 2 * 2]


def test_surplus_micro_batches_are_not_trained() -> None:
    batches = micro_batches(list(range(38)), batch=2, accumulation=3, processes=1)
    assert len(batches) == 18
    assert batches[-1] == [34, 35]
    assert micro_batches(list(range(5)), batch=2, accumulation=4, processes=1) == []


def test_a_short_last_micro_batch_is_trained_where_it_completes_a_step() -> None:
    assert micro_batches(list(range(5)), batch=2, accumulation=3, processes=1) == [[0, 1], [2, 3], [4]]


def test_the_global_batch_is_the_same_however_it_is_shared() -> None:
    order = shuffled_order(64, 42)
    alone = micro_batches(order, batch=4, accumulation=4, processes=1)
    shared = micro_batches(order, batch=4, accumulation=2, processes=2)
    assert alone == shared
