"""LLaVA format and `prepare`: the cap, the questions, the training file and its record."""

from __future__ import annotations

import hashlib
import json
import random

import pytest

from toolkit.__main__ import main
from toolkit.dataset import training_file
from toolkit.dataset.llava import CAPTION_PROMPTS, Original, caption_question, load_originals, to_llava
from toolkit.dataset.rows import Row
from toolkit.dataset.training_file import draw_rows
from toolkit.errors import RowFault, UserError
from toolkit.files import sha256_of

QUESTION = {"from": "human", "value": "Describe it.\n<image>"}


def prepare(seed, file, *words):
    """Status, samples (None if nothing was written) and record."""
    out = seed.processed / "llava.json"
    status = main(["prepare", *seed.arguments(file), "--out", str(out), *words])
    if not out.exists():
        return status, None, None
    return status, json.loads(out.read_text()), json.loads((seed.processed / "llava.run.json").read_text())


def test_draw_keeps_all_rows_in_order_up_to_the_cap():
    rows = list("abcde")
    assert draw_rows(rows, 5, 1024) == rows
    assert draw_rows(rows, 6, 1024) == rows


def test_draw_above_the_cap_is_the_one_of_the_seeded_global_generator():
    random.seed(1024)
    expected = random.sample(range(1000), 100)
    assert draw_rows(range(1000), 100, 1024) == expected
    assert draw_rows(range(1000), 100, 1025) != expected


def test_caption_question_is_stable_and_uses_all_prompts():
    assert caption_question("002375592") == f"<image>\n{CAPTION_PROMPTS[index_by_hand('002375592')]}"
    assert caption_question(7) == caption_question("7")
    chosen = {caption_question(str(number)) for number in range(200)}
    assert chosen == {f"<image>\n{prompt}" for prompt in CAPTION_PROMPTS}
    assert len(CAPTION_PROMPTS) == 11


def index_by_hand(identifier: str) -> int:
    return int(hashlib.sha256(identifier.encode()).hexdigest()[:16], 16) % 11


def test_an_original_question_comes_back_as_it_stands_with_its_id():
    original = Original(7, QUESTION, "gpt", "old", None)
    sample = to_llava(Row("7", "new/7.png", "a bus"), original)
    assert sample == {"id": 7, "conversations": [QUESTION, {"from": "gpt", "value": "a bus"}], "image": "new/7.png"}


def test_samples_do_not_share_their_question():
    original = Original("7", QUESTION, "gpt", "old", None)
    first, second = (to_llava(Row("7", "7.png", "a bus"), original) for _ in range(2))
    first["conversations"][0]["value"] = "changed"
    assert second["conversations"][0] == QUESTION


def test_a_text_only_row_has_no_image_key():
    original = Original("g", {"from": "human", "value": "No image?"}, "gpt", "old", None)
    assert "image" not in to_llava(Row("g", None, "none"), original)


@pytest.mark.parametrize(
    ("row", "original", "reason"),
    [
        (Row("n", None, "a"), None, "no_question"),
        (
            Row("n", "a.png", "a"),
            Original("n", {"from": "human", "value": "Why?"}, "gpt", "old", None),
            "question_without_image_place",
        ),
        (Row("n", None, "a"), Original("n", QUESTION, "gpt", "old", None), "question_without_image"),
    ],
)
def test_question_and_image_must_agree(row, original, reason):
    with pytest.raises(RowFault) as fault:
        to_llava(row, original)
    assert fault.value.reason == reason


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[{", "entry 0 is not JSON"),
        ("{}", "expected a JSON array"),
        ('[{"id": "1"}]', "sample 0 has no id, or no question and answer"),
        ('[{"id": "1", "conversations": [{"from": "human", "value": "Q"}]}]', "sample 0"),
        ('[{"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]}]', "sample 0"),
        ("[3]", "entry 0"),
    ],
)
def test_broken_originals_are_refused(text, message, tmp_path):
    (tmp_path / "stage_1.json").write_text(text)
    with pytest.raises(UserError, match=message):
        load_originals(tmp_path / "stage_1.json")


def test_command_writes_samples_and_record(small_seed):
    file = small_seed.write(
        small_seed.row(3), small_seed.row(0), small_seed.row(0, id="new", images=["synthetic_images/a.png"])
    )
    status, samples, record = prepare(small_seed, file)
    assert status == 0
    assert samples[0] == {
        "id": "s3",
        "conversations": [{"from": "human", "value": "Q3?\n<image>"}, {"from": "gpt", "value": "A dress 3."}],
        "image": "images/3.png",
    }
    assert samples[2]["conversations"][0] == {"from": "human", "value": caption_question("new")}
    assert [sample["id"] for sample in samples] == ["s3", "s0", "new"]
    assert record["counts"] == {
        "rows": 3, "drawn": 3, "written": 3, "questions_restored": 2, "questions_by_caption_rule": 1, "skipped": {},
    }  # fmt: skip
    assert record["inputs"][str(file)] == sha256_of(file)
    outputs = [small_seed.processed / f"llava.{name}" for name in ("json", "rows.jsonl", "images.sha256")]
    assert record["outputs"] == {str(path): sha256_of(path) for path in outputs}
    assert outputs[1].read_bytes() == file.read_bytes()
    image = small_seed.processed / "synthetic_images/a.png"
    assert outputs[2].read_text() == f"{sha256_of(image)}  synthetic_images/a.png\n"


def test_command_draws_above_the_cap(small_seed, capsys):
    file = small_seed.write(*(small_seed.row(number % 6, text=f"<image> copy {number}") for number in range(20)))
    status, samples, record = prepare(small_seed, file)
    assert status == 0
    expected = random.Random(1024).sample(range(20), 8)
    assert [sample["conversations"][1]["value"] for sample in samples] == [f"copy {number}" for number in expected]
    assert (record["counts"]["rows"], record["counts"]["drawn"]) == (20, 8)
    assert "8 drawn with seed 1024" in capsys.readouterr().out


def test_writing_twice_gives_the_same_bytes(small_seed):
    file = small_seed.write(*(small_seed.row(number % 6) for number in range(20)))
    hashes = [prepare(small_seed, file)[2]["outputs"] for _ in range(2)]
    assert hashes[0] == hashes[1]


def test_a_faulty_row_stops_and_nothing_is_written(small_seed, capsys):
    file = small_seed.write(small_seed.row(0), small_seed.row(1, text="<image>\n <|__dj__eoc|>"))
    status, samples, _ = prepare(small_seed, file)
    assert (status, samples) == (1, None)
    error = capsys.readouterr().err
    assert error.startswith(f"error: {file}:2 (id s1): empty_caption:")
    assert error.count("\n") == 1
    assert "--on-error skip" in error


def test_faulty_rows_are_skipped_and_listed(small_seed):
    file = small_seed.write(
        small_seed.row(0), "{", small_seed.row(1, images=["images/9.png"]), small_seed.row(2, images=["../2.png"])
    )
    status, samples, record = prepare(small_seed, file, "--on-error", "skip")
    assert status == 0
    assert [sample["id"] for sample in samples] == ["s0"]
    assert [(row["id"], row["file"], row["reason"]) for row in record["skipped"]] == [
        ("?", f"{file}:2", "not_json"),
        ("s1", f"{file}:3", "missing_image"),
        ("s2", f"{file}:4", "bad_image_path"),
    ]
    assert record["counts"]["skipped"] == {"not_json": 1, "missing_image": 1, "bad_image_path": 1}


def test_rows_are_not_skipped_for_a_folder_that_was_away(small_seed, monkeypatch, capsys):
    file = small_seed.write(*(small_seed.row(number) for number in range(6)))
    plain, looks = training_file.require_regular_file, []

    def away(path):
        looks.append(path)
        if len(looks) == 2:
            raise RowFault("missing_image", f"{path}: no such file")
        plain(path)

    monkeypatch.setattr(training_file, "require_regular_file", away)
    status, samples, _ = prepare(small_seed, file, "--on-error", "skip")
    assert (status, samples) == (1, None)
    assert "1.png: was not there and is now, so more may have been away" in capsys.readouterr().err
    assert prepare(small_seed, file, "--on-error", "skip")[0] == 0


def test_no_row_left_is_an_error(small_seed, capsys):
    status, samples, _ = prepare(small_seed, small_seed.write("{"), "--on-error", "skip")
    assert (status, samples) == (1, None)
    assert "no row is left to train on (1 skipped)" in capsys.readouterr().err


def test_missing_questions_are_an_error(small_seed, capsys):
    file = small_seed.write(small_seed.row(0))
    (small_seed.folder / "stage_1.json").unlink()
    assert prepare(small_seed, file)[0] == 1
    assert "stage_1.json: no such file" in capsys.readouterr().err
