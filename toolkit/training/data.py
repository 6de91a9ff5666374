"""Training samples: LLaVA-format rows become token ids, labels and image tensors.

{"id": "002375592", "image": "images/00237/002375592.jpg", "conversations": [{"from": "human", "value": ...}, ...]}
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from toolkit.dataset.images import inspect_images
from toolkit.dataset.rows import ImageRoots
from toolkit.errors import RowFault, SkippedRow, UserError
from toolkit.mgm.conversation import (
    IGNORE_INDEX,
    IMAGE_TOKEN_INDEX,
    encode_conversation,
    require_supervision,
    require_trainable,
)
from toolkit.mgm.images import expand, open_image, scale_image
from toolkit.terminal import visible
from toolkit.training.speed.packing import pack


@dataclass(frozen=True)
class SampleReader:
    """Everything needed to turn one row into one sample.

    Args:
        roots: folders of the rows' images.
        tokenizer: Gemma's.
        image_size_aux: px of the aux tower's input.
        aspect: how an image that is not square is fitted.
        max_length: tokens of a sample after its image is expanded.
        image_tokens: how many tokens an image takes (576 in MGM-2B).
    """

    roots: ImageRoots
    tokenizer: PreTrainedTokenizerBase
    image_size_aux: int
    aspect: Literal["square", "pad"]
    max_length: int
    image_tokens: int

    def tokens(self, row: dict[str, Any]) -> tuple[list[int], list[int]]:
        """Ids and labels of a row, checked to teach something.

        Raises:
            RowFault: malformed_row, or those of `encode_conversation` and `require_supervision`.
        """
        turns = _turns(row)
        ids, labels = encode_conversation(turns, self.tokenizer, "image" in row, self.max_length)
        require_supervision(labels, self.max_length, self.image_tokens if IMAGE_TOKEN_INDEX in ids else 0)
        # Before expansion too nothing beyond the limit is kept, so that ids stay short.
        return ids[: self.max_length], labels[: self.max_length]

    def require_trainable(self, row: dict[str, Any]) -> None:
        """Refuse what `tokens` refuses, without tokenising a row that is surely in order.

        Raises:
            RowFault: those of `tokens`.
        """
        require_trainable(_turns(row), self.tokenizer, "image" in row, self.max_length, self.image_tokens)

    def sample(self, row: dict[str, Any]) -> dict[str, Any]:
        """ids and labels; with an image placeholder among the ids also `pixels` [3, A, A], uint8.

        Raises:
            RowFault: those of `tokens`, `ImageRoots.of_row` and `open_image`.
        """
        ids, labels = self.tokens(row)
        sample: dict[str, Any] = {"input_ids": ids, "labels": labels}
        if IMAGE_TOKEN_INDEX in ids:
            image = open_image(self.roots.of_row(row))
            sample["pixels"] = scale_image(image, self.image_size_aux, self.aspect)
        return sample


class TrainingSet(Dataset):
    """The samples of a list of rows. A row that fails only now comes as `{"fault": text}`: see `collate`."""

    def __init__(self, rows: Sequence[dict[str, Any]], reader: SampleReader):
        self.rows = rows
        self.reader = reader

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.rows[index]
        try:
            return self.reader.sample(row)
        except (RowFault, UserError) as fault:  # a UserError is the machine's
            # An exception would leave a loader's worker as a page of trace; the trainer makes one line of this.
            named = visible(f"{row_id(row, index)} ({row.get('image', 'no image')})")
            became = " became unreadable" if isinstance(fault, RowFault) else ""
            return {"fault": f"row {named}{became}: {fault}"}


@dataclass(frozen=True)
class Collator:
    """Pads samples on the right to one micro-batch.

    Args:
        pad_token_id: of the tokenizer.
        image_tokens: how many tokens an image takes.
        max_length: longer rows are cut.
        packed: say where the real tokens are, for `PackedDecoder`.
    """

    pad_token_id: int
    image_tokens: int
    max_length: int
    packed: bool = False

    def __call__(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """See `MGMGemmaForCausalLM.forward` for the tensors; `{"fault": text}` if a sample could not be read."""
        for sample in samples:
            if "fault" in sample:
                return sample
        longest = max(len(sample["input_ids"]) for sample in samples)
        input_ids = torch.full((len(samples), longest), self.pad_token_id)  # [B, L]
        labels = torch.full((len(samples), longest), IGNORE_INDEX)
        for number, sample in enumerate(samples):
            length = len(sample["input_ids"])
            input_ids[number, :length] = torch.tensor(sample["input_ids"])
            labels[number, :length] = torch.tensor(sample["labels"])
        mask = input_ids != self.pad_token_id
        expansion = expand(input_ids, mask, labels, self.image_tokens, self.max_length, "right")
        if self.packed:
            padding = input_ids.numel() + expansion["images"] * self.image_tokens
            expansion |= pack(expansion["source"], expansion["labels"], expansion["supervised"], padding)
        batch = {"input_ids": input_ids, "labels": labels, "attention_mask": mask, "expansion": expansion}
        images = [sample["pixels"] for sample in samples if "pixels" in sample]
        if images:
            batch["pixels"] = torch.stack(images)  # [N, 3, A, A]
        return batch


@dataclass
class Scan:
    """What the check of every row found.

    Args:
        faults: rows that cannot be trained, by index.
        text_only: valid rows without an image.
        rotated_images: rows whose image carries an EXIF orientation, which the fixed training ignores.
    """

    faults: dict[int, SkippedRow]
    text_only: int = 0
    rotated_images: int = 0


def start_worker(_index: int) -> None:
    """A DataLoader's `worker_init_fn`: the worker prints no trace.

    torch brings a worker's exceptions to the parent, which prints them. What is left is the thread that hands tensors
    over: a parent that ends while it fetches one cuts that connection, and the trace would stand below its last line.
    """
    sys.excepthook = lambda *_: None


def row_id(row: dict[str, Any], index: int) -> str:
    """A row's id, or its index (`#12`) when it has none."""
    return str(row.get("id", f"#{index}"))


def scan(rows: Sequence[dict[str, Any]], reader: SampleReader) -> Scan:
    """Check every row against the rules and decode every image once, before any training."""
    found = Scan(faults={})
    sharing: dict[Path, list[int]] = {}
    for index, row in enumerate(rows):
        try:
            reader.require_trainable(row)
            if "image" in row:
                sharing.setdefault(reader.roots.of_row(row), []).append(index)
            else:
                found.text_only += 1
        except RowFault as fault:
            found.faults[index] = _skipped(row, index, fault)
    for path, image in inspect_images(list(sharing), reader.roots.seed).items():
        if isinstance(image, RowFault):
            found.faults |= {index: _skipped(rows[index], index, image) for index in sharing[path]}
        else:
            found.rotated_images += len(sharing[path]) * image.oriented
    return dataclasses.replace(found, faults=dict(sorted(found.faults.items())))


def _turns(row: dict[str, Any]) -> list[dict[str, str]]:
    turns = row.get("conversations")
    if not isinstance(turns, list) or not all(
        isinstance(turn, dict) and isinstance(turn.get("from"), str) and isinstance(turn.get("value"), str)
        for turn in turns
    ):
        raise RowFault("malformed_row", "conversations must be a list of {'from': text, 'value': text}")
    try:
        "".join(turn["value"] for turn in turns).encode()
    except UnicodeEncodeError as error:  # half a character, which no tokenizer takes
        raise RowFault("malformed_row", f"not Unicode text ({error.reason})") from None
    return turns


def _skipped(row: dict[str, Any], index: int, fault: RowFault) -> SkippedRow:
    return SkippedRow(row_id(row, index), str(row.get("image", "")), fault.reason, fault.detail)
