"""Image values: equal to the model's own losses one pair at a time, whole after any interruption, every row named."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from tests.conftest import SmallSeed
from tests.toolkit.eval.conftest import tiny_model  # noqa: F401
from tests.toolkit.training.conftest import small_world  # noqa: F401
from toolkit.__main__ import main
from toolkit.dataset.rows import ImageRoots
from toolkit.judge import job as jobs
from toolkit.judge import pairs as pairs_of
from toolkit.judge.model import load_judge
from toolkit.judge.pairs import digest, read_pairs, tokens_of
from toolkit.mgm.conversation import IGNORE_INDEX
from toolkit.mgm.images import open_image, scale_image
from toolkit.presets import load_preset

CAPTIONS = ["a red dress", "two dresses and a hat on a chair", "no", "a dress for the evening, blue and long"]


@pytest.fixture
def seed(small_seed: SmallSeed) -> Path:
    """Rows with captions of several lengths; an id with two captions; a row that occurs twice."""
    rows = [
        small_seed.row(number % 6, text=f"<image>\n{CAPTIONS[number % 4]} {number} <|__dj__eoc|>")
        for number in range(11)
    ]
    return small_seed.write(*rows, rows[3])


@pytest.fixture
def words(seed: Path, small_seed: SmallSeed, tiny_model: Path, tmp_path: Path) -> list[str]:  # noqa: F811
    """A judge's command over the seed, with a model that is there."""
    return [
        "judge", str(seed), "--images", str(small_seed.folder), "--preset", str(small_seed.preset),
        "--model", str(tiny_model), "--out", str(tmp_path / "values.parquet"), "--workers", "0", "--batch", "3",
    ]  # fmt: skip


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks of few rows."""
    monkeypatch.setattr(pairs_of, "BLOCK", 4)


def values(words: list[str]) -> list[dict]:
    """The rows of a judge's file."""
    return pq.read_table(words[words.index("--out") + 1]).to_pylist()


def plain_loss(model: torch.nn.Module, tokens: tuple[list[int], list[int]], pixels: torch.Tensor | None) -> float:
    """The model's own loss of one sample."""
    ids, labels = (torch.tensor([part]) for part in tokens)
    with torch.no_grad():
        images = None if pixels is None else pixels[None]
        return model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels, pixels=images).loss.item()


def test_values_equal_the_models_own_losses_one_at_a_time(words, seed, small_seed, tiny_model):  # noqa: F811
    assert main(words) == 0
    preset = load_preset(str(small_seed.preset))
    model, reader = load_judge(tiny_model, preset, ImageRoots(small_seed.folder, seed.parent))
    originals = jobs.load_originals(preset.questions)
    pairs = read_pairs(seed, reader.roots, originals)
    found = values(words)
    assert len(found) == len(pairs) == 12
    for pair, row in zip(pairs, found, strict=True):
        with_image, without = tokens_of(pair.sample, reader)
        file = small_seed.folder / pair.sample["image"]
        pixels = scale_image(open_image(file), reader.image_size_aux, reader.aspect)
        seen, blind = plain_loss(model, with_image, pixels), plain_loss(model, without, None)
        assert row["loss_with_image"] == pytest.approx(seen, abs=2e-5)
        assert row["loss_without_image"] == pytest.approx(blind, abs=2e-5)
        assert row["value"] == row["loss_without_image"] - row["loss_with_image"]
        assert (row["id"], row["image"]) == (pair.id, digest(file.read_bytes()))
        assert row["caption"] == digest(pair.sample["conversations"][1]["value"].encode())
        assert row["tokens"] == sum(label != IGNORE_INDEX for label in with_image[1])
    assert len({round(row["value"], 3) for row in found}) > 6  # the model tells pairs apart
    assert {**found[3], "row": 12} == {**found[11], "row": 12}  # a copy's value is that of the original


def test_both_passes_supervise_the_same_tokens_of_a_caption_that_is_cut(words, seed, small_seed, tiny_model):  # noqa: F811
    preset = load_preset(str(small_seed.preset))
    _, reader = load_judge(tiny_model, preset, ImageRoots(small_seed.folder, seed.parent))
    object.__setattr__(reader, "max_length", 40)
    long = {
        "image": "images/0.png",
        "conversations": [{"from": "human", "value": "<image>\nQ?"}, {"from": "gpt", "value": "a dress " * 40}],
    }
    supervised = [[token for token in labels if token != IGNORE_INDEX] for _, labels in tokens_of(long, reader)]
    assert supervised[0] == supervised[1]
    assert len(supervised[0]) > 5


def test_a_killed_run_resumes_to_the_same_bytes(words, tmp_path, monkeypatch):
    assert main(words) == 0
    whole = (tmp_path / "values.parquet").read_bytes()
    assert main([*words, "--overwrite"]) == 0
    assert (tmp_path / "values.parquet").read_bytes() == whole
    (tmp_path / "values.parquet").unlink()
    write, written = jobs._write, []

    def killed(file, block):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(file)
        write(file, block)

    monkeypatch.setattr(jobs, "_write", killed)
    with pytest.raises(KeyboardInterrupt):
        main(words)
    assert not (tmp_path / "values.parquet").exists()
    tries = json.loads((tmp_path / "values.unfinished" / "attempts.json").read_text())
    assert (tries["command"], tries["error"]) == ("judge", "KeyboardInterrupt")
    again = []
    monkeypatch.setattr(jobs, "_write", lambda file, block: (again.append(file), write(file, block)))
    assert main(words) == 0
    assert len(again) == 1  # the one block of three that was left
    assert (tmp_path / "values.parquet").read_bytes() == whole
    assert not (tmp_path / "values.unfinished").exists()
    record = json.loads((tmp_path / "values.run.json").read_text())
    assert [past["exit"] for past in record["attempts"]] == [130, 0]
    assert {key: record[key] for key in ("inputs", "configuration")} == {
        key: tries[key] for key in ("inputs", "configuration")
    }


def test_chunks_are_gathered_to_the_same_bytes(words, tmp_path, capsys):
    assert main(words) == 0
    whole = (tmp_path / "values.parquet").read_bytes()
    (tmp_path / "values.parquet").unlink()
    for chunk in "10":
        assert main([*words, "--chunks", "2", "--chunk", chunk]) == 0
        assert "the command without --chunk gathers all" in capsys.readouterr().out
    assert not (tmp_path / "values.parquet").exists()
    assert main(words) == 0
    assert "pairs" not in capsys.readouterr().err  # nothing was left to judge
    assert (tmp_path / "values.parquet").read_bytes() == whole


def test_every_row_is_accounted_for(words, small_seed, seed, capsys):
    (small_seed.folder / "images" / "2.png").write_bytes(b"no image")
    (small_seed.folder / "images" / "3.png").unlink()
    Image.new("RGB", (8, 8)).save(small_seed.folder / "images" / "9.png")
    lines = [
        small_seed.row(0),
        small_seed.row(1, images=[], text="text alone <|__dj__eoc|>"),
        small_seed.row(2),
        small_seed.row(3),
        small_seed.row(4, images=["images/4.png", "images/5.png"]),
        small_seed.row(5, text="<image>\n <|__dj__eoc|>"),
        "not JSON",
        {"text": "<image>\nno id <|__dj__eoc|>", "images": ["images/0.png"]},
        small_seed.row(0, text="<image>\nanother caption <|__dj__eoc|>"),
    ]
    small_seed.write(*lines)
    assert main(words) == 0
    found = {row["row"]: (row["fault"].split(":")[0], row["value"] is None) for row in values(words)}
    expected = ["", "no_image", "unreadable_image", "missing_image", "two_images", "empty_caption", "not_json"]
    expected += ["missing_id", ""]
    assert found == {row: (fault, bool(fault)) for row, fault in enumerate(expected, 1)}
    told = capsys.readouterr().out
    assert "BytesIO" not in told  # an address would make other bytes of every run
    assert "2 of 9 rows judged" in told
    assert "row 2 (id s1): no_image" in told
    assert f"{small_seed.folder}/images/2.png" in told


def test_another_seed_or_model_is_noticed_and_nothing_touched(words, seed, tiny_model, tmp_path, capsys):  # noqa: F811
    assert main(words) == 0
    before = (tmp_path / "values.parquet").read_bytes()
    assert main(words) == 0
    assert "done already" in capsys.readouterr().out
    other = tmp_path / "other_model"
    other.mkdir()
    for file in tiny_model.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"rope_theta": 5000.0}))
    assert main([str(other) if word == str(tiny_model) else word for word in words]) == 1
    assert "made by another model" in capsys.readouterr().err
    content = seed.read_bytes()
    seed.write_bytes(content + content.splitlines()[0] + b"\n")
    assert main(words) == 1
    assert "made of another seed" in capsys.readouterr().err
    assert (tmp_path / "values.parquet").read_bytes() == before
    assert main([*words, "--overwrite"]) == 0
    assert len(values(words)) == 13


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--model", "{folder}"], "neither mm_projector.bin nor config.json"),
        (["--images", "{folder}/nothing"], "no such folder; --images names"),
        (["--out", "{folder}/values.txt"], "expected the name of a .parquet file"),
        (["--chunk", "2", "--chunks", "2"], "--chunk 2: expected 0 to 1"),
        (["--chunks", "2"], "--chunks: has an effect with --chunk alone"),
        (["--workers", "-1"], "--workers must be 0 or more"),
        (["--train-rows", "10"], "--train-rows belongs to a judge that is pre-trained here"),
    ],
)
def test_mistakes_are_one_line(words, more, said, tmp_path, capsys):
    assert main([*words, *(word.format(folder=tmp_path) for word in more)]) == 1
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1


def test_a_file_of_something_else_is_not_taken_for_values(words, tmp_path, capsys):
    (tmp_path / "values.parquet").write_text("mine")
    assert main(words) == 1
    assert "no file of `python -m toolkit judge`" in capsys.readouterr().err
    assert (tmp_path / "values.parquet").read_text() == "mine"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FileNotFoundError(errno.ENOENT, "gone"), "no such file, though it was there when this run began; the same"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error; nothing is known of the image"),
    ],
)
def test_an_image_that_cannot_be_read_any_more_is_no_fault_of_its_row(
    words, tmp_path, monkeypatch, capsys, error, said
):
    assert main(words) == 0
    whole = (tmp_path / "values.parquet").read_bytes()
    plain, reads = Path.read_bytes, []

    def read(path):
        reads.extend([path] * (path.suffix == ".png"))
        if len(reads) == 6:
            raise error
        return plain(path)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", read)
        assert main([*words, "--overwrite"]) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "values.parquet").exists()
    assert main(words) == 0
    assert (tmp_path / "values.parquet").read_bytes() == whole


def test_rows_none_of_which_can_be_judged_leave_no_file(words, small_seed, tmp_path, capsys):
    small_seed.write("not JSON")
    assert main(words) == 1
    assert "no row can be judged; row 1 (id ?): not_json" in capsys.readouterr().err
    assert not (tmp_path / "values.parquet").exists()


def test_a_preset_whose_files_are_not_there_is_told_with_what_brings_them(words, small_seed, tmp_path, capsys):
    (small_seed.folder / "stage_1.json").unlink()
    assert main(words) == 1
    assert "stage_1.json: no such file; `python -m toolkit mini build` brings it" in capsys.readouterr().err
    assert not list(tmp_path.glob("values*"))


@pytest.mark.slow
def test_without_a_model_one_is_pre_trained_once(small_world, tmp_path, capfd):  # noqa: F811
    """End to end: the judge learns on the very rows, is kept, and serves a second run."""
    rows = [row for row in small_world.rows() if "image" in row]
    seed = small_world.images / "seed.jsonl"
    lines = [
        {"id": row["id"], "images": [row["image"]], "text": f"<image>\n{row['conversations'][1]['value']}"}
        for row in rows
    ]
    seed.write_text("".join(json.dumps(line) + "\n" for line in lines))
    preset = tmp_path / "small.yaml"
    preset.write_text(small_world.preset.read_text() + f"questions: {small_world.data}\n")
    out = tmp_path / "judge" / "values.parquet"
    words = ["judge", str(seed), "--preset", str(preset), "--out", str(out), "--train-rows", "8", "--workers", "0"]
    assert main(words) == 0
    assert "8 samples" in capfd.readouterr().err
    judge = out.with_suffix(".model")
    whole, trained = out.read_bytes(), (judge / "mm_projector.bin").read_bytes()
    out.unlink()
    assert main(words) == 0
    assert "pre-training a judge" not in capfd.readouterr().err
    assert out.read_bytes() == whole
    assert main([*words[:-4], "--workers", "0", "--model", str(judge)]) == 0
    assert "done already" in capfd.readouterr().out
    seed.write_text(json.dumps(lines[0]) + "\n")
    assert main(words) == 1
    assert "made of another seed" in capfd.readouterr().err
    assert (judge / "mm_projector.bin").read_bytes() == trained
