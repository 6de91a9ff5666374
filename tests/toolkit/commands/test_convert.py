"""toolkit/commands/convert.py: data sets there and back without loss; what has no counterpart is refused by name."""

from __future__ import annotations

import gzip
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from toolkit.__main__ import main
from toolkit.dataset.directions import OWN_QUESTIONS
from toolkit.dataset.llava import to_row
from toolkit.dataset.rows import IMAGE_TOKENS, read_rows
from toolkit.errors import RowFault
from toolkit.files import REPOSITORY

MINI = REPOSITORY / "input" / "mini"
SEED_1K = Path(os.environ.get("SEED_1K_DIR", REPOSITORY.parent / "shared" / "seed_1k"))


def convert(direction, file, out, *words):
    assert main(["convert", direction, str(file), "--out", str(out), *words]) == 0
    return json.loads(out.with_suffix(".run.json").read_text())


def rows_in(path):
    return [row for _, row in read_rows(path)]


def sample(**changes):
    turns = [{"from": "human", "value": "What?\n<image>"}, {"from": "gpt", "value": "a cat"}]
    return {"id": "1", "image": "images/1.jpg", "conversations": turns} | changes


def turns(*values):
    return {"conversations": [{"from": ("human", "gpt")[n % 2], "value": value} for n, value in enumerate(values)]}


def test_llava_there_and_back(tmp_path):
    convert("llava-to-dj", MINI / "stage_1.json", tmp_path / "rows.jsonl")
    record = convert(
        "dj-to-llava", tmp_path / "rows.jsonl", tmp_path / "back.json", "--questions", str(MINI / "stage_1.json")
    )
    originals = json.loads((MINI / "stage_1.json").read_text())
    assert json.loads((tmp_path / "back.json").read_text()) == originals
    assert record["counts"] == {"written": len(originals), "questions restored": len(originals), "skipped": {}}


def test_rows_there_and_back(tmp_path):
    seed = MINI / "mgm_pretrain_mini.jsonl"
    convert("dj-to-llava", seed, tmp_path / "llava.json", "--questions", str(MINI / "stage_1.json"))
    convert("llava-to-dj", tmp_path / "llava.json", tmp_path / "rows.jsonl")
    assert rows_in(tmp_path / "rows.jsonl") == rows_in(seed)


@pytest.mark.skipif(not SEED_1K.is_dir(), reason=f"{SEED_1K}: the 1,000 real seed pairs are not here")
def test_the_real_seed_there_and_back_byte_for_byte(tmp_path):
    seed = SEED_1K / "mgm_pretrain_stage_1_1k.jsonl"
    record = convert("dj-to-llava", seed, tmp_path / "llava.json")
    assert record["counts"]["questions by the caption rule"] == 1000
    convert("llava-to-dj", tmp_path / "llava.json", tmp_path / "rows.jsonl")
    assert [json.loads(line) for line in (tmp_path / "rows.jsonl").open()] == rows_in(seed)
    convert("dj-to-llava", tmp_path / "rows.jsonl", tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "llava.json").read_bytes()


@pytest.mark.parametrize("token", IMAGE_TOKENS)
def test_a_sample_becomes_a_row(token):
    row = {"id": "1", "text": f"{token}\na cat <|__dj__eoc|>", "images": ["images/1.jpg"]}
    assert to_row(sample(), token, first_turn=False) == row
    assert to_row(sample(image=["images/1.jpg"], id=1), token, first_turn=False) == row


def test_a_text_only_sample_becomes_a_row_without_image_token():
    text_only = {"id": "1", **turns("What?", "A word.")}
    row = {"id": "1", "text": "A word. <|__dj__eoc|>", "images": []}
    assert to_row(text_only, IMAGE_TOKENS[0], first_turn=False) == row


def test_of_several_turns_the_first_on_request():
    several = sample(**turns("<image>\nWhat?", "a cat", "Where?", "here"))
    assert to_row(several, "<image>", first_turn=True)["text"] == "<image>\na cat <|__dj__eoc|>"


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (sample(**turns("<image>\nWhat?", "a cat", "Where?", "here")), "several_turns"),
        (sample(image=["a.jpg", "b.jpg"]), "several_images"),
        (sample(image=7), "bad_image"),
        (sample(image="/a.jpg"), "bad_image_path"),
        (sample(image="../a.jpg"), "bad_image_path"),
        (sample(image=""), "bad_image_path"),
        (sample(**turns("<image>\nWhat?", "half \ud83d")), "not_json"),
        (sample(id=True), "bad_id"),
        (sample(**turns("What?", "a cat")), "question_without_image_place"),
        (sample(**turns("<image><image> What?", "a cat")), "question_without_image_place"),
        ({"id": "1", **turns("<image>\nWhat?", "a cat")}, "question_without_image"),
        (sample(**turns("<image>\nWhat?", "<image> a cat")), "image_in_answer"),
        (sample(**turns("<image>\nWhat?", "a <__dj__image> cat")), "image_in_answer"),
        (sample(**turns("<image>\nWhat?", "a cat <|__dj__eoc|> or dog")), "token_in_caption"),
        (sample(**turns("<image>\nWhat?", " ")), "empty_caption"),
        (sample(**turns("<image>\nWhat?", "[[human]]: a [[gpt]]: b")), "dialogue_in_caption"),
        (sample(**turns("<image>\nWhat?")), "bad_conversation"),
        (sample(conversations=None), "bad_conversation"),
        (sample(conversations=[{"from": "human"}]), "bad_conversation"),
        (sample(conversations=[*sample()["conversations"], {"from": "system", "value": "Be kind."}]), "unknown_role"),
        (sample(conversations=["What?", "a cat"]), "bad_conversation"),
        (sample(conversations=7), "bad_conversation"),
        (sample(id=None), "missing_id"),
        (sample(id=1.5), "bad_id"),
    ],
)
def test_what_has_no_counterpart_is_refused_by_name(entry, reason, tmp_path, capsys):
    with pytest.raises(RowFault) as fault:
        to_row(entry, IMAGE_TOKENS[0], first_turn=False)
    assert fault.value.reason == reason
    file, out = tmp_path / "in.json", tmp_path / "out.jsonl"
    file.write_text(json.dumps([sample(id="valid"), entry]))
    assert main(["convert", "llava-to-dj", str(file), "--out", str(out)]) == 1
    assert f"in.json: entry 1 (id {entry.get('id', '?')}): {reason}" in capsys.readouterr().err
    assert not out.exists()
    record = convert("llava-to-dj", file, out, "--on-error", "skip")
    assert len(rows_in(out)) == 1
    assert record["counts"]["skipped"] == {reason: 1}
    assert [skipped["reason"] for skipped in record["skipped"]] == [reason]


def test_one_id_for_two_images_or_questions_is_refused(tmp_path):
    file = tmp_path / "in.jsonl"
    entries = [sample(), sample(), sample(image="other.jpg"), sample(**turns("Who?\n<image>", "a cat"))]
    file.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    record = convert("llava-to-dj", file, tmp_path / "out.jsonl", "--on-error", "skip")
    assert record["counts"]["skipped"] == {"repeated_id": 2}


def test_what_is_lost_is_counted(tmp_path):
    file = tmp_path / "in.json"
    several = sample(id="2", **turns("<image>\nWhat?", "a cat\n", "Where?", "here"))
    file.write_text(json.dumps([sample(model="x"), several]))
    record = convert("llava-to-dj", file, tmp_path / "out.jsonl", "--turns", "first")
    counts = record["counts"]
    assert (counts["field 'model' dropped"], counts["later turns dropped"]) == (1, 1)
    assert counts["answers stripped of blanks"] == 1


@pytest.mark.parametrize(
    ("case", "reason"), [("two_images", "two_images"), ("no_id", "missing_id"), ("dialog", "token_in_caption")]
)
def test_rows_the_reference_stumbled_over(case, reason, tmp_path, capsys):
    file = REPOSITORY / "tests/parity/goldens/tools" / f"dj_{case}.jsonl"
    assert main(["convert", "dj-to-llava", str(file), "--out", str(tmp_path / "out.json")]) == 1
    assert reason in capsys.readouterr().err


def test_multi_turn_data_of_the_goldens(tmp_path):
    """The reference repeats the image token for every answer and gives text-only samples one."""
    file = REPOSITORY / "tests/parity/goldens/tools/dialog.json"
    convert("llava-to-dj", file, tmp_path / "out.jsonl", "--turns", "first")
    texts = [row["text"] for row in rows_in(tmp_path / "out.jsonl")]
    assert texts == ["<__dj__image>\nA1. <|__dj__eoc|>", "A <|__dj__eoc|>"]


def test_other_names_for_the_same_are_read(tmp_path):
    """`messages` of {role, content}, user and assistant, a system prompt in front, `images`."""
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "<image>\nWhich animal?"},
        {"role": "assistant", "content": "a cat"},
    ]
    file = tmp_path / "in.jsonl"
    file.write_text(json.dumps({"id": 1, "images": ["images/1.jpg"], "messages": messages}))
    counts = convert("llava-to-dj", file, tmp_path / "out.jsonl")["counts"]
    expected = {"id": "1", "text": "<__dj__image>\na cat <|__dj__eoc|>", "images": ["images/1.jpg"]}
    assert rows_in(tmp_path / "out.jsonl") == [expected]
    assert counts["system prompts dropped"] == 1
    assert counts[OWN_QUESTIONS] == 1


@pytest.mark.parametrize("name", ["in.json.gz", "in.jsonl.gz"])
def test_gzip_files_are_read_and_a_damaged_one_is_one_line(name, tmp_path, capsys):
    file, out = tmp_path / name, tmp_path / "out.jsonl"
    text = json.dumps(sample()) if "jsonl" in name else json.dumps([sample()])
    file.write_bytes(gzip.compress(text.encode()))
    convert("llava-to-dj", file, out)
    assert len(rows_in(out)) == 1
    out.unlink()
    file.write_bytes(file.read_bytes()[:-9])
    assert main(["convert", "llava-to-dj", str(file), "--out", str(out)]) == 1
    assert "a damaged gzip file" in capsys.readouterr().err
    assert not out.exists()


def test_all_faults_are_told_in_one_go(tmp_path, capsys):
    file = tmp_path / "in.json"
    faulty = [sample(id=str(n), image=7) for n in range(30)]
    file.write_text(json.dumps([sample(id="good"), sample(id=None), *faulty]))
    assert main(["convert", "llava-to-dj", str(file), "--out", str(tmp_path / "out.jsonl")]) == 1
    first, *lines = capsys.readouterr().err.splitlines()
    assert first == "error: 31 of 32 entries are faulty; fix them or pass --on-error skip"
    assert lines[:2] == ["  bad_image: 30", "  missing_id: 1"]
    assert lines[2].startswith(f"  {file}: entry 1 (id None): missing_id: ")
    assert lines[-1] == "  and 11 more"
    assert not (tmp_path / "out.jsonl").exists()


def test_nothing_left_is_an_error(tmp_path, capsys):
    (tmp_path / "in.json").write_text(json.dumps([sample(id=None)]))
    words = ["convert", "llava-to-dj", str(tmp_path / "in.json"), "--out", str(tmp_path / "o"), "--on-error", "skip"]
    assert main(words) == 1
    assert "nothing to write (1 skipped)" in capsys.readouterr().err


@pytest.mark.slow
def test_a_large_file_needs_little_memory(tmp_path):
    """60,000 samples of 1.1 kB; reading them at once would take some 200 MB."""
    text = json.dumps(sample(**turns("What?\n<image>", "word " * 200)))
    with (tmp_path / "in.json").open("w") as file:
        file.write("[" + ",\n".join(text.replace('"id": "1"', f'"id": "{n}"') for n in range(60_000)) + "]")
    words = ["convert", "llava-to-dj", str(tmp_path / "in.json"), "--out", str(tmp_path / "out.jsonl")]
    limit = 150 << 20

    def bound_memory():
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    done = subprocess.run(
        [sys.executable, "-m", "toolkit", *words],
        cwd=REPOSITORY,
        preexec_fn=bound_memory,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "in.json").stat().st_size > 60_000_000
