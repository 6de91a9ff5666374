"""Samples: names of image files, the batch, and rows that turn bad."""

from __future__ import annotations

import socket
import time
from multiprocessing import resource_sharer
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from tests.toolkit.training.conftest import GOLDENS, SmallWorld
from toolkit.dataset.rows import ImageRoots
from toolkit.dataset.training_file import read_samples
from toolkit.errors import RowFault, UserError
from toolkit.mgm.checkpoint import load_tokenizer
from toolkit.training.data import Collator, SampleReader, TrainingSet, scan, start_worker
from toolkit.training.trainer import MicroBatches


@pytest.fixture
def reader(tmp_path: Path) -> SampleReader:
    (tmp_path / "processed").mkdir()
    return SampleReader(
        roots=ImageRoots(tmp_path / "seed", tmp_path / "processed"),
        tokenizer=load_tokenizer(GOLDENS / "tiny_tokenizer"),
        image_size_aux=64,
        aspect="square",
        max_length=60,
        image_tokens=4,
    )


def write_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise((40, 40), 60).convert("RGB").save(path)


def row(image: str | None = None, answer: str = "a red dress") -> dict:
    question = "What is this?" if image is None else "<image>\nWhat is this?"
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": "r", "conversations": turns} | ({} if image is None else {"image": image})


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("a.jpg", "seed/a.jpg"),
        ("ocr_vqa/images/1.jpg", "seed/ocr_vqa/images/1.png"),
        ("ocr_vqa/images/2.jpg", "seed/ocr_vqa/images/2.jpg"),
        ("vg/VG_100K/1.jpg", "seed/vg/images/1.jpg"),
        ("vg/VG_100K_2/1.jpg", "seed/vg/images/1.jpg"),
        ("vg/VG_100K/2.jpg", "seed/vg/VG_100K/2.jpg"),
        ("synthetic_images/1.png", "processed/synthetic_images/1.png"),
    ],
)
def test_image_files_are_found(reader: SampleReader, tmp_path: Path, name: str, file: str) -> None:
    write_image(tmp_path / file)
    assert reader.roots.of_row({"image": name}) == tmp_path / file


def test_a_path_must_not_leave_its_folder(reader: SampleReader) -> None:
    with pytest.raises(RowFault, match="bad_image_path"):
        reader.roots.of_row({"image": "../a.png"})


def test_a_batch_pads_on_the_right_and_brings_only_its_images(reader: SampleReader, tmp_path: Path) -> None:
    write_image(tmp_path / "seed/a.png")
    rows = [row(), row("a.png", "a long blue dress with a white collar"), row()]
    dataset = TrainingSet(rows, reader)
    batch = Collator(0, reader.image_tokens, reader.max_length)([dataset[index] for index in range(3)])
    assert batch["pixels"].shape == (1, 3, 64, 64)
    length = batch["attention_mask"][0].sum()
    assert length < batch["input_ids"].shape[1]
    assert not batch["input_ids"][0, length:].any()
    assert torch.equal(batch["attention_mask"], batch["input_ids"] != 0)
    assert (batch["labels"][0, length:] == -100).all()
    assert "pixels" not in Collator(0, reader.image_tokens, reader.max_length)([dataset[0], dataset[2]])


def test_the_scan_names_every_fault(reader: SampleReader, tmp_path: Path) -> None:
    for name in ("good.png", "cut.png", "cut.jpg"):
        write_image(tmp_path / "seed" / name)
    for name in ("cut.png", "cut.jpg"):
        path = tmp_path / "seed" / name
        path.write_bytes(path.read_bytes()[:-300])
    rows = [
        row("good.png"),
        row("good.png", ""),
        row("cut.png"),
        row("missing.png"),
        row("cut.jpg"),
        row(),
        {"id": 7, "conversations": "none"},
        {"id": 8, "conversations": [{"from": "somebody", "value": "x"}, {"from": "gpt", "value": "y"}]},
        row("cut.png"),
    ]
    found = scan(rows, reader)
    assert {index: fault.reason for index, fault in found.faults.items()} == {
        1: "empty_answer",
        2: "unreadable_image",
        3: "missing_image",
        4: "unreadable_image",
        6: "malformed_row",
        7: "unknown_role",
        8: "unreadable_image",
    }
    assert found.text_only == 1


def test_a_row_whose_answer_would_be_cut_off_is_a_fault(reader: SampleReader, tmp_path: Path) -> None:
    write_image(tmp_path / "seed/a.png")
    long = row("a.png")
    long["conversations"][0]["value"] += " please" * 60
    assert scan([long], reader).faults[0].reason == "nothing_supervised"


def test_an_image_that_vanishes_during_training_stops_it_by_name(reader: SampleReader, tmp_path: Path) -> None:
    write_image(tmp_path / "seed/a.png")
    dataset = TrainingSet([row("a.png"), row()], reader)
    assert not scan(dataset.rows, reader).faults
    (tmp_path / "seed/a.png").unlink()
    batch = Collator(0, reader.image_tokens, reader.max_length)([dataset[1], dataset[0]])
    with pytest.raises(UserError, match=r"row r \(a.png\).*missing_image"):
        list(MicroBatches(iter([batch]), 1))


def test_a_data_file_must_be_a_list_of_rows(tmp_path: Path, small_world: SmallWorld) -> None:
    assert len(read_samples(small_world.data)) == 22
    for text, message in (("{}", "expected a JSON list"), ("[]", "no rows"), ("[", "not a JSON document")):
        path = tmp_path / "data.json"
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            read_samples(path)


class CutConnection(Dataset):
    """One sample, made in a worker while someone begins to fetch a tensor there and goes away."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> torch.Tensor:
        resource_sharer.DupFd(0)
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(resource_sharer._resource_sharer._address)
        time.sleep(0.3)
        return torch.tensor([index])


def test_a_cut_connection_leaves_no_trace_of_a_worker(capfd: pytest.CaptureFixture[str]) -> None:
    assert len(list(DataLoader(CutConnection(), num_workers=1, worker_init_fn=start_worker))) == 1
    assert capfd.readouterr().err == ""
    list(DataLoader(CutConnection(), num_workers=1))
    assert "resource_sharer" in capfd.readouterr().err
