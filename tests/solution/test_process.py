"""The command as a user runs it: rows in, processed_data.jsonl out, every row accounted for, faults in one line."""

import contextlib
import fcntl
import json
import os
import pty
import re
import shlex
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from solution.runner.errors import UserError
from solution.runner.run import check_temporary_folder
from tests import warm
from tests.solution.conftest import ROOT, TEXT

CAPTIONS = [
    f"{colour} {thing}" for colour in ("a red", "two blue", "one green") for thing in ("dog", "cat on a mat", "car")
]
COLUMNS = [
    "id", "row", "parent", "state", "operator", "score", "threshold", "reason", "text_before", "text_after", "image",
    "image_state",
]  # fmt: skip


def audit_of(done) -> list[dict]:
    return pq.read_table(done.audit).to_pylist()


def assert_conserved(done) -> None:
    """The record and the audit agree, and nothing is lost."""
    counts, audit = done.record["counts"], audit_of(done)
    assert counts["in"] + counts["created"] == counts["kept"] + counts["dropped"] + counts["failed"] == len(audit)
    assert counts["kept"] == len(done.rows)
    for state in ("kept", "dropped", "failed"):
        assert counts[state] == sum(line["state"] == state for line in audit)
    assert counts["created"] == sum(line["parent"] is not None for line in audit)


def test_a_whole_recipe(make_seed, make_recipe, run_process, clip_folder, captioner_folder):
    """Clean, recaption, filter, fill: relative paths, contract fields, audit and record; a rerun is done at once."""
    seed = make_seed([*CAPTIONS[:-1], "royalty free image", CAPTIONS[0] + " stock photo"])
    models = {"hf_clip": str(clip_folder)}
    recipe = make_recipe(
        [
            {"caption_cleanup_mapper": None},
            {"caption_words_filter": {"min_num": 1}},
            {
                "conditional_recaption_mapper": models
                | {"hf_captioner": str(captioner_folder), "below": 0.05, "min_words": 1}
            },
            {"clip_similarity_filter": models | {"min_score": -0.9}},
            {"fill_to_cap_selector": {"cap": 15}},
        ]
    )
    done = run_process(recipe, seed)
    assert done.code == 0, done.err
    assert len(done.rows) == 15
    assert_conserved(done)
    for row in done.rows:
        assert set(row) <= {"id", "text", "images", "copy_index"}
        assert row["images"] == [f"images/{row['id']}.jpg"]
        assert row["text"].startswith("<__dj__image>\n")
        assert row["text"].endswith(" <|__dj__eoc|>")
    audit = audit_of(done)
    assert list(audit[0]) == COLUMNS
    dropped = [line for line in audit if line["state"] == "dropped"]
    assert [(line["id"], line["operator"]) for line in dropped] == [("008", "caption_words_filter")]
    assert (dropped[0]["score"], dropped[0]["threshold"]) == (0.0, 1.0)
    assert dropped[0]["text_before"] == TEXT.format("royalty free image")
    recaptioned = [line for line in audit if line["reason"].startswith("new caption")]
    assert recaptioned
    assert all(line["operator"] == "conditional_recaption_mapper" for line in recaptioned)
    created = [line for line in audit if line["parent"]]
    assert len(created) == 6
    assert {line["row"] for line in created} == set(range(11, 17))
    assert "15 kept + 1 dropped + 0 failed" in done.out
    assert done.record["inputs"]["dataset"]["sha256"]
    assert not list(done.output.parent.rglob("*.tmp"))

    again = run_process(recipe, seed)
    assert again.code == 0
    assert "already done" in again.out
    assert again.record == done.record  # its times too: nothing ran
    lines = (done.output / "processed_data.jsonl").read_bytes()
    over = run_process(recipe, seed, "--overwrite")
    assert "already done" not in over.out
    assert (done.output / "processed_data.jsonl").read_bytes() == lines


def test_one_broken_image_costs_one_row(make_seed, make_recipe, run_process, clip_folder):
    seed = make_seed(CAPTIONS)
    broken = seed.parent / "images" / "004.jpg"
    with broken.open("r+b") as file:
        file.truncate(broken.stat().st_size * 3 // 4)  # Pillow opens it and Data-Juicer would keep it
    recipe = make_recipe([{"clip_similarity_filter": {"hf_clip": str(clip_folder), "min_score": -1.0}}])
    done = run_process(recipe, seed)
    assert done.code == 0, done.err
    assert [row["id"] for row in done.rows] == [f"{number:03d}" for number in range(9) if number != 4]
    assert_conserved(done)
    assert "images/004.jpg" in done.out
    (failed,) = done.record["failed"]
    assert (failed["id"], failed["row"], failed["image"]) == ("004", 5, "images/004.jpg")
    assert "cannot be read" in failed["reason"]

    stopped = run_process(recipe, seed, "--on-error", "stop")
    assert stopped.code == 1
    assert stopped.err.splitlines()[-1].startswith("error: line 5 (id 004, images/004.jpg)")
    assert "Traceback" not in stopped.err


def test_faulty_rows_are_failed_by_line(make_seed, make_recipe, run_process):
    """Mixed tokens, a missing image, a path upwards, no JSON, one id for two images: each costs its own line."""
    seed = make_seed(["a dog", "a cat"])
    good = json.loads(seed.read_text().splitlines()[0])
    lines = [
        json.dumps(good | {"text": "<image><__dj__image>\na dog"}),
        json.dumps(good | {"id": "other", "images": ["images/none.jpg"]}),
        json.dumps(good | {"images": ["../images/000.jpg"]}),
        "{no json",
        json.dumps(good | {"images": ["images/001.jpg"]}),
        json.dumps(good | {"text": "<image>\nthe same dog <|__dj__eoc|>"}),
        '{"text": "no {id}", "images": []}',
    ]
    seed.write_text(seed.read_text() + "\n".join(lines) + "\n")
    done = run_process(make_recipe([{"caption_cleanup_mapper": None}]), seed)
    assert done.code == 0, done.err
    assert [row["text"] for row in done.rows] == [
        TEXT.format("a dog"), TEXT.format("a cat"), "<image>\nthe same dog <|__dj__eoc|>",
    ]  # fmt: skip
    assert_conserved(done)
    reasons = {failure["row"]: failure["reason"] for failure in done.record["failed"]}
    for row, words in {3: "mixes", 4: "missing", 5: "without ..", 6: "JSON", 7: "already stands for another"}.items():
        assert words in reasons.pop(row)
    missing, remedy, _ = reasons.pop(9).split("`")  # of rows without an id, a command gives them one
    assert missing.startswith("key 'id' is missing")
    assert not reasons
    seed.write_text("".join(f"{line}\n" for line in lines[-1:] * 2))
    subprocess.run(remedy, shell=True, cwd=ROOT, check=True)
    numbered = [json.loads(line) for line in Path(shlex.split(remedy)[-1]).read_text().splitlines()]
    assert numbered == [json.loads(lines[-1]) | {"id": number} for number in (1, 2)]


def test_both_tokens_come_back_as_they_were(make_seed, make_recipe, run_process):
    """A stock operator that looks for Data-Juicer's token works on a file with the documentation's."""
    seed = make_seed(CAPTIONS, token="<image>")
    done = run_process(
        make_recipe([{"whitespace_normalization_mapper": None}, {"caption_words_filter": {"max_num": 9}}]), seed
    )
    assert done.code == 0, done.err
    assert done.rows == [json.loads(line) for line in seed.read_text().splitlines()]


@pytest.mark.parametrize(
    ("own", "named", "counted"),
    [
        ("<image>", None, "<image>"),
        ("<__dj__image>", None, "<__dj__image>"),
        ("<__dj__image>", "<image>", "<image>"),
        ("<image>", "<__dj__image>", "<__dj__image>"),
    ],
)
def test_statistics_count_the_image_token_of_the_rows_or_of_the_recipe(
    own, named, counted, make_seed, make_recipe, run_process
):
    """As Data-Juicer's command does on the same rows: thresholds hold for one token and not for the other."""
    seed = make_seed(["a" * length for length in range(1, 12)], own)
    longest = len(TEXT.replace("<__dj__image>", counted).format("a" * 6))
    keys = {"image_special_token": named} if named else {}
    done = run_process(make_recipe([{"text_length_filter": {"min_len": 1, "max_len": longest}}], **keys), seed)
    assert done.code == 0, done.err
    assert done.rows == [json.loads(line) for line in seed.read_text().splitlines()][:6]
    assert audit_of(done)[5]["score"] == longest


def test_no_rows_left_is_an_error(make_seed, make_recipe, run_process):
    recipe = make_recipe([{"caption_cleanup_mapper": None}, {"caption_words_filter": {"min_num": 30}}])
    done = run_process(recipe, make_seed(CAPTIONS))
    assert done.code == 1
    last = done.err.splitlines()[-1]
    assert last.startswith("error: no rows left: operator 2 (caption_words_filter) dropped 9")
    assert "below min_num 30" in last
    assert done.rows is None
    stopped = done.audit.parent / "trial.unfinished" / "audit.parquet"
    assert len(pq.read_table(stopped)) == 9  # where the scores can be looked up


def test_unknown_key_is_one_line(make_seed, make_recipe, run_process):
    done = run_process(make_recipe([], dataset_pth="x"), make_seed(["a"]))
    assert done.code == 1
    (line,) = done.err.splitlines()
    assert "did you mean dataset_path?" in line


def test_a_temporary_folder_too_long_for_the_sockets_of_processes_is_refused(
    make_seed, make_recipe, run_process, tmp_path, monkeypatch
):
    """One process has no sockets there."""
    seed, folder = make_seed(["a dog", "a cat"]), tmp_path / ("x" * 80)
    process, why = [{"caption_words_filter": {"min_num": 1}}], "too long a path for several processes"
    done = run_process(make_recipe(process, np=2, temp_dir=str(folder)), seed)
    assert (done.code, done.rows, done.err.count("\n")) == (1, None, 1), done.err
    assert done.err.startswith(f"error: temp_dir={folder}: {why}")
    done = run_process(make_recipe(process, np=1, temp_dir=str(folder)), seed)
    assert (done.code, len(done.rows)) == (0, 2), done.err
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    with pytest.raises(UserError, match=rf"TMPDIR={folder}: {why} .*at most 75 bytes.* TMPDIR=/tmp"):
        check_temporary_folder(None)


def test_check_names_the_faults_of_every_recipe_and_runs_none(make_seed, make_recipe, tmp_path):
    seed = make_seed(CAPTIONS[:2])
    good = make_recipe([{"words_num_filter": {"min_num": 1}}], "good")
    wrong = make_recipe([{"caption_latn_filter": {}}], "wrong", text_kesy="text")
    before = sorted(tmp_path.rglob("*"))
    process = [sys.executable, str(ROOT / "solution" / "process.py"), "check"]
    done = warm.run([*process, str(good), str(wrong), "--dataset", str(seed)], cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == f"{good}: no fault found\n"
    lines = done.stderr.splitlines()
    assert [line.startswith(f"error: recipe {wrong}") for line in lines] == [True, True]
    assert "did you mean text_keys?" in done.stderr
    assert "did you mean caption_latin_filter?" in done.stderr
    assert sorted(tmp_path.rglob("*")) == before
    assert warm.run([*process, str(good), "--dataset", str(seed)], cwd=tmp_path).returncode == 0


def test_nothing_is_installed_while_running(make_seed, make_recipe, run_process, tmp_path):
    """text_action_filter needs a package that is not here: one line says so, and no installer is ever started."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("pip", "uv"):
        (tools / tool).write_text(f"#!/bin/sh\ntouch {tmp_path}/installer_started\n")
        (tools / tool).chmod(0o755)
        module = tools / f"{tool}.py"  # for `python -m pip` and `python -m uv`
        module.write_text(f"open({str(tmp_path / 'installer_started')!r}, 'w')\n")
    environment = {"PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": str(tools)}
    done = run_process(make_recipe([{"text_action_filter": None}]), make_seed(["a"]), environment=environment)
    assert done.code == 1
    assert "needs the package" in done.err.splitlines()[-1]
    assert "Traceback" not in done.err
    assert not (tmp_path / "installer_started").exists()


def test_synthetic_images_lie_next_to_the_result(make_seed, make_recipe, run_process):
    """Images under synthetic_images/ are found next to the input jsonl, the others under --images."""
    seed = make_seed(["a dog", "a cat"])
    inner = seed.parent / "elsewhere"
    (inner / "synthetic_images").mkdir(parents=True)
    (seed.parent / "images" / "001.jpg").rename(inner / "synthetic_images" / "001.jpg")
    text = seed.read_text().replace("images/001.jpg", "synthetic_images/001.jpg")
    (inner / "rows.jsonl").write_text(text)
    done = run_process(
        make_recipe([{"caption_cleanup_mapper": None}]), inner / "rows.jsonl", "--images", str(seed.parent)
    )
    assert done.code == 0, done.err
    assert [row["images"] for row in done.rows] == [["images/000.jpg"], ["synthetic_images/001.jpg"]]
    assert (done.output / "synthetic_images" / "001.jpg").is_file()
    assert [line["image_state"] for line in audit_of(done)] == ["seed", "synthetic"]


def test_an_empty_result_says_why_rows_failed(make_seed, make_recipe, run_process, tmp_path):
    (tmp_path / "raising.py").write_text(SLOW_OPERATOR.replace("time.sleep(0.5)", 'raise KeyError("no such colour")'))
    recipe = make_recipe([{"waiting_mapper": None}], custom_operator_paths=[str(tmp_path / "raising.py")])
    done = run_process(recipe, make_seed(["a dog", "a cat"]))
    assert done.code == 1
    last = done.err.splitlines()[-1]
    assert "fails for every row: KeyError: 'no such colour' (2 of the first 2 rows, the last line 2 (id 001" in last
    assert "threshold" not in done.err


def test_a_run_that_stops_leaves_the_earlier_result_alone(make_seed, make_recipe, run_process, tmp_path):
    """Result, audit and record belong together; the stopped run's audit is apart, and the report is about that run."""
    seed = make_seed(["a red dog", "a cat", "two of them"])
    done = run_process(make_recipe([{"caption_words_filter": {"min_num": 2}}]), seed)
    assert done.code == 0, done.err
    report = [sys.executable, str(ROOT / "solution" / "process.py"), "report", "--output", str(done.output)]
    assert warm.run(report, cwd=tmp_path, env=os.environ, timeout=60).returncode == 0
    files = [done.output / name for name in ("processed_data.jsonl", "run.json")]
    files += [done.audit, done.audit.with_suffix(".html")]
    before = {file: file.read_bytes() for file in files}
    stopped = run_process(make_recipe([{"caption_words_filter": {"min_num": 30}}]), seed)
    assert stopped.code == 1
    assert "output/audit/trial.unfinished/audit.parquet" in stopped.err.splitlines()[-1]
    assert {file: file.read_bytes() for file in before} == before
    lines = pq.read_table(done.audit.parent / "trial.unfinished" / "audit.parquet").to_pylist()
    assert [line["state"] for line in lines] == ["dropped"] * 3
    page = warm.run([*report, "trial"], cwd=tmp_path, env=os.environ, timeout=60)
    assert "trial.unfinished/audit.html" in page.stdout
    again = run_process(make_recipe([{"caption_words_filter": {"min_num": 3}}]), seed)
    assert again.code == 0, again.err
    assert sorted(file.name for file in again.audit.parent.iterdir()) == ["trial.log", "trial.parquet"]
    assert len(audit_of(again)) == 3


def test_many_failed_rows_stop_the_run(make_seed, make_recipe, run_process):
    """As when images are away for a moment: nothing is saved, and the rows come in once the images are back."""
    seed = make_seed([f"dog {number}" for number in range(60)])
    images = sorted((seed.parent / "images").iterdir())
    (seed.parent / "away").mkdir()
    for image in images[:21]:
        image.rename(seed.parent / "away" / image.name)
    recipe = make_recipe([{"caption_cleanup_mapper": None}])
    done = run_process(recipe, seed)
    assert done.code == 1
    last = done.err.splitlines()[-1]
    assert "read_and_check_images failed 21 of 60 rows, more than the share of 0.05 that is allowed" in last
    assert last.endswith("where the rows are that bad, give --max-failed 0.36")
    assert done.rows is None
    allowed = run_process(recipe, seed, "--max-failed", "0.36")
    assert len(allowed.rows) == 39
    for image in images[:21]:
        (seed.parent / "away" / image.name).rename(image)
    assert len(run_process(recipe, seed, "--overwrite").rows) == 60


def screen_of(output: bytes) -> list[str]:
    """The lines that a terminal shows in the end: after a carriage return the line is written over."""
    lines = []
    for line in output.decode().replace("\r\n", "\n").split("\n"):
        shown = ""
        for part in line.split("\r"):
            shown = part + shown[len(part) :]
        lines.append(shown.rstrip())
    return lines


@pytest.mark.slow
def test_a_terminal_has_a_bar_that_goes_away(make_seed, make_recipe, tmp_path):
    """On a terminal a bar shows the operator at work; what stays on the screen are the lines that a file gets."""
    seed = make_seed(CAPTIONS)
    recipe = make_recipe([{"whitespace_normalization_mapper": None}, {"caption_words_filter": {"min_num": 3}}])
    command = [sys.executable, str(ROOT / "solution" / "process.py"), "--recipe", str(recipe), "--dataset", str(seed)]
    command += ["--overwrite", "--output", str(tmp_path / "output" / "processed_data")]
    written = subprocess.run(command, capture_output=True, timeout=120).stderr
    terminal, stderr = pty.openpty()
    fcntl.ioctl(stderr, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))  # lines, columns
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr)
    os.close(stderr)
    shown = b""
    with contextlib.suppress(OSError):  # how a terminal ends
        while part := os.read(terminal, 1 << 16):
            shown += part
    os.close(terminal)
    assert run.wait() == 0
    assert b"%|" in shown
    assert b"%|" not in written
    plain, screen = ([re.sub(r"in [\d.]+ s$", "", line) for line in screen_of(output)] for output in (written, shown))
    assert screen == plain


SLOW_OPERATOR = '''
import time
from pathlib import Path
from data_juicer.ops.base_op import OPERATORS, Mapper

@OPERATORS.register_module("waiting_mapper")
class WaitingMapper(Mapper):
    """Takes its time."""

    def process_single(self, sample):
        time.sleep(0.5)
        return sample
'''


@pytest.mark.slow
def test_a_killed_run_resumes_with_the_same_result(make_seed, make_recipe, run_process, tmp_path):
    seed = make_seed([f"{caption} stock photo" for caption in CAPTIONS])
    (tmp_path / "waiting.py").write_text(SLOW_OPERATOR)
    process = [{"caption_cleanup_mapper": None}, {"waiting_mapper": None}, {"caption_words_filter": {"min_num": 3}}]
    recipe = make_recipe(process, custom_operator_paths=[str(tmp_path / "waiting.py")])
    command = [sys.executable, str(ROOT / "solution" / "process.py"), "--recipe", str(recipe), "--dataset", str(seed)]
    output = tmp_path / "output" / "processed_data"
    run = subprocess.Popen([*command, "--output", str(output)], stderr=subprocess.DEVNULL)
    state = tmp_path / "output" / "audit" / "trial.unfinished"
    deadline = time.monotonic() + 60
    while [file.name for file in state.glob("*.rows.arrow")] != ["1.rows.arrow"] and time.monotonic() < deadline:
        time.sleep(0.05)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert not (output / "processed_data.jsonl").exists()
    resumed = run_process(recipe, seed)
    assert resumed.code == 0, resumed.err
    assert "resuming after operator 1 of 3" in resumed.err
    assert [past["exit"] for past in resumed.record["attempts"]] == ["killed", 0]
    assert_conserved(resumed)
    lines = (output / "processed_data.jsonl").read_bytes()
    again = run_process(recipe, seed, "--overwrite")
    assert "resuming" not in again.err
    assert (output / "processed_data.jsonl").read_bytes() == lines
    assert [line | {"score": 0} for line in audit_of(again)] == [line | {"score": 0} for line in audit_of(resumed)]
    assert not state.exists()


def test_images_that_changed_under_their_name_are_noticed(make_seed, make_recipe, run_process):
    """A finished result is not theirs; an unfinished run starts from the seed; a run they change in is not finished."""
    seed = make_seed(CAPTIONS)
    image = next((seed.parent / "images").iterdir())
    recipe = make_recipe([{"caption_words_filter": {"min_num": 1}}])
    assert "already done" not in run_process(recipe, seed).out
    assert "already done" in run_process(recipe, seed).out
    Image.new("RGB", (40, 30), "red").save(image)
    assert "already done" not in run_process(recipe, seed).out

    stopping = make_recipe([{"caption_words_filter": {"min_num": 1}}, {"caption_words_filter": {"min_num": 30}}])
    assert run_process(stopping, seed).code == 1
    assert "resuming" in run_process(stopping, seed).err
    Image.new("RGB", (50, 30), "blue").save(image)
    assert "images have changed since they were read: starting from the seed" in run_process(stopping, seed).err


def test_an_image_that_changes_while_the_recipe_runs(make_seed, make_recipe, run_process, tmp_path):
    seed = make_seed(CAPTIONS)
    image = next((seed.parent / "images").iterdir())
    change = f"open({str(image)!r}, 'ab').write(b'more')"
    (tmp_path / "changing.py").write_text(SLOW_OPERATOR.replace("time.sleep(0.5)", change))
    recipe = make_recipe([{"waiting_mapper": None}], custom_operator_paths=[str(tmp_path / "changing.py")])
    done = run_process(recipe, seed)
    assert done.code == 1
    assert f"images in {seed.parent} were changed while the recipe ran: run it again" in done.err
    assert not (done.output / "processed_data.jsonl").exists()


@pytest.mark.parametrize("folder", ["root", "elsewhere"])
def test_help_from_anywhere(folder, tmp_path):
    command = [sys.executable, str(ROOT / "solution" / "process.py"), "--help"]
    done = subprocess.run(
        command, cwd=ROOT if folder == "root" else tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    assert "--on-error {stop,skip}" in done.stdout
