"""The training scripts: what they check before anything runs, the script a run keeps. `python` is a stand-in."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from toolkit.files import REPOSITORY

SCRIPTS = ("train_mgm_2b_stage_1.sh", "train_mgm_2b_stage_1_10k_baseline.sh", "train_mgm_mini_stage_1.sh")
MINI = SCRIPTS[-1]
STAND_IN = """#!/usr/bin/env bash
if [[ $1 == -c ]]; then  # environment.sh asks which Python has the packages
    echo "$0"
    exit
fi
printf '%s\\n' "$*" >>"$CALLS"
[[ " $* " != *" ${FAILS:-none} "* ]]
"""


class Kit:
    """A workspace with nothing but the scripts, and a Python that writes down how it is called."""

    def __init__(self, folder: Path):
        self.folder = folder
        shutil.copytree(
            REPOSITORY / "toolkit", folder / "toolkit", ignore=shutil.ignore_patterns("*.py", "mini", "data*")
        )
        (folder / "bin").mkdir()
        (folder / "bin/python").write_text(STAND_IN)
        (folder / "bin/python").chmod(0o755)
        (folder / "output").mkdir()
        for stage in ("Pretrain", "Finetune"):
            (folder / f"output/training_dirs/MGM-Mini-{stage}-default").mkdir(parents=True)

    def run(self, script: str = MINI, **environment: str) -> subprocess.CompletedProcess[str]:
        known = {name: value for name, value in os.environ.items() if name in ("HOME", "LANG", "TMPDIR")}
        path = f"{self.folder}/bin:{os.environ['PATH']}"
        return subprocess.run(
            ["bash", str(self.folder / "toolkit" / script)],
            env=known | {"PATH": path, "CALLS": str(self.folder / "calls")} | environment,
            cwd=self.folder / "output",
            capture_output=True,
            text=True,
            check=False,
        )

    @property
    def calls(self) -> list[str]:
        file = self.folder / "calls"
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    return Kit(tmp_path / "a 'quoted' $kit")


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_step_is_called_in_order(kit: Kit, script: str) -> None:
    done = kit.run(script)
    assert done.returncode == 0, done.stderr
    assert [call.split()[2] for call in kit.calls] == ["preflight", "check", "prepare", "train", "train", *("eval",) * (
        1 if script != SCRIPTS[0] else 9
    ), "score"]  # fmt: skip


def test_rows_of_the_finetuning_set_are_left_out_on_request(kit: Kit) -> None:
    assert kit.run(FINETUNE_ON_ERROR="skip").returncode == 0
    asked = [call.split()[2:4] for call in kit.calls if "--on-error skip" in call]
    assert [words[0] for words in asked] == ["preflight", "train"]
    assert asked[1] == ["train", "finetune"]


@pytest.mark.parametrize("fails", ["preflight", "check", "prepare", "pretrain", "finetune", "all", "score"])
def test_a_failing_step_ends_the_script(kit: Kit, fails: str) -> None:
    done = kit.run(FAILS=fails)
    assert done.returncode == 1
    assert f" {fails} " in f"{kit.calls[-1]} "


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("EXP_NAME", "-x", "first a letter or digit"),
        ("EXP_NAME", "a b", "letters, digits"),
        ("EXP_NAME", "..", "first a letter"),
        ("EXP_NAME", "x" * 101, "expected at most 100"),
        ("PRETRAIN_BATCH_SIZE_PER_GPU", "many", "auto, or a whole number from 1"),
        ("FINETUNE_ON_ERROR", "ignore", "expected stop, or skip"),
        ("FINETUNE_BATCH_SIZE_PER_GPU", "0", "auto, or a whole number from 1"),
        ("PRETRAIN_GRADIENT_ACCUMULATION_STEPS", "1.5", "a whole number from 1"),
        ("FINETUNE_GRADIENT_ACCUMULATION_STEPS", "-1", "a whole number from 1"),
        ("PRETRAIN_DATALOADER_NUM_WORKERS", "-1", "a whole number from 0 to 99"),
        ("FINETUNE_DATALOADER_NUM_WORKERS", "100", "a whole number from 0 to 99"),
        ("LOGGING_STEP", "0", "a whole number from 1"),
        ("CKPT_SAVE_STEPS", "1e3", "a whole number from 1"),
        ("TOTAL_SAVE_CKPT_LIMIT", "none", "a whole number from 1"),
        ("INFER_CUDA_IDX", "abc", "GPU numbers"),
        ("INFER_CUDA_IDX", "-1", "GPU numbers"),
        ("INFER_CUDA_IDX", "0,,1", "GPU numbers"),
        ("TRAIN_SEED", "one", "a whole number from 0"),
        ("PRETRAIN", "None", "none, or no such variable"),
    ],
)
def test_a_bad_value_is_refused_before_anything_runs(kit: Kit, name: str, value: str, expected: str) -> None:
    refused = kit.run(**{name: value})
    assert (refused.returncode, refused.stdout, kit.calls) == (1, "", [])
    assert refused.stderr.startswith(f"error: {name}")
    assert expected in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_a_line_that_was_removed_or_emptied_is_named(kit: Kit) -> None:
    script = kit.folder / "toolkit" / MINI
    text = script.read_text()
    for line, expected in (("LOGGING_STEP=", "LOGGING_STEP=: expected"), ("PRETRAIN_DATASET=", "PRETRAIN_DATASET=: ")):
        lines = text.splitlines(keepends=True)
        for changed in ("", f"{line}\n"):
            script.write_text("".join(changed if other.startswith(line) else other for other in lines))
            refused = kit.run()
            assert (refused.returncode, kit.calls) == (1, [])
            assert refused.stderr.startswith(f"error: {expected}")
            assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize("script", SCRIPTS)
def test_windows_line_ends_and_another_folder_are_said_in_one_line(kit: Kit, script: str) -> None:
    file = kit.folder / "toolkit" / script
    content = file.read_bytes()
    one_line = content.replace(b"LOGGING_STEP:-", b"LOGGING_STEP:-1}\r\n#", 1)
    for changed in (content.replace(b"\n", b"\r\n"), one_line):
        file.write_bytes(changed)
        refused = kit.run(script)
        assert (refused.returncode, refused.stdout, kit.calls) == (1, "", [])
        assert f"{script} has Windows line ends; remove them: sed -i" in refused.stderr
        assert refused.stderr.count("\n") == 1
    (kit.folder / "output" / script).write_bytes(content)
    refused = kit.run(f"../output/{script}")
    assert (refused.returncode, kit.calls) == (1, [])
    assert f"{script} runs in toolkit/ only; copy it there first\n" in refused.stderr
    assert refused.stderr.count("\n") == 1


def saved(kit: Kit) -> Path:
    return kit.folder / "output/training_dirs/MGM-Mini-Finetune-default/train.sh"


@pytest.mark.parametrize(
    "value", ["/data/x.jsonl", "/a b/x", "/it's", "/$HOME/`id`", '/"q"', "/}x{", "/a\\b", "/名字", "/x*", "/a\nb"]
)
def test_the_script_that_is_kept_gives_the_same_values(kit: Kit, value: str) -> None:
    assert kit.run(PRETRAIN_DATASET=value).returncode == 0
    asked = ["bash", "-c", f'source <(sed "/^PRESET/,\\$d; /^!/d" {saved(kit).name}); printf %s "$PRETRAIN_DATASET"']
    done = subprocess.run(asked, cwd=saved(kit).parent, capture_output=True, text=True, check=True)
    assert done.stdout == value


def test_the_kept_script_stays_once_a_stage_has_begun(kit: Kit) -> None:
    assert kit.run(LOGGING_STEP="5").returncode == 0
    first = saved(kit).read_bytes()
    assert b"LOGGING_STEP=${LOGGING_STEP:-5}" in first
    assert kit.run(LOGGING_STEP="6", FAILS="preflight").returncode == 1
    assert saved(kit).read_bytes() == first
    (saved(kit).parents[1] / "MGM-Mini-Pretrain-default/plan.json").touch()
    assert kit.run(LOGGING_STEP="7").returncode == 0
    assert saved(kit).read_bytes() == first


def test_a_finished_stage_is_not_written_to(kit: Kit) -> None:
    folders = [saved(kit).parents[1] / f"MGM-Mini-{stage}-default" for stage in ("Pretrain", "Finetune")]
    assert kit.run().returncode == 0
    for folder in folders:
        (folder / "run.json").touch()
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for folder in folders for path in folder.iterdir()}
    assert kit.run().returncode == 0
    assert before == {
        path: (path.read_bytes(), path.stat().st_mtime_ns) for folder in folders for path in folder.iterdir()
    }


def test_where_all_is_there_one_process_sees_to_that(kit: Kit) -> None:
    """With the very words that the steps get one by one."""
    answers = kit.folder / "output/eval_results/MGM-Mini-Finetune-default"
    records = [saved(kit).parents[1] / f"MGM-Mini-{stage}-default/run.json" for stage in ("Pretrain", "Finetune")]
    records += [answers / benchmark / "run.json" for benchmark in ("textvqa", "mmbench")]
    assert kit.run().returncode == 0
    one_by_one = [call.removeprefix("-m toolkit ") for call in kit.calls]
    assert len(one_by_one) == 7
    for number, record in enumerate(records):
        record.parent.mkdir(parents=True, exist_ok=True)
        record.touch()
        (kit.folder / "calls").unlink()
        assert kit.run().returncode == 0
        assert len(kit.calls) == (1 if number == 3 else 7)
    assert kit.calls == [f"-m toolkit {' --then '.join(one_by_one)}"]
    assert kit.run(FAILS="all").returncode == 1
    saved(kit).unlink()
    (kit.folder / "calls").unlink()
    assert kit.run().returncode == 0
    assert len(kit.calls) == 7
    assert saved(kit).is_file()


def test_scripts_within_scripts_do_not_look_for_python_again(kit: Kit) -> None:
    stand_in = kit.folder / "bin/python"
    stand_in.write_text(STAND_IN.replace('    echo "$0"', '    echo asked >>"$CALLS"; echo "$0"'))
    assert kit.run().returncode == 0
    assert kit.calls.count("asked") == 1
    (kit.folder / "other").mkdir()
    shutil.copy(stand_in, kit.folder / "other/python")
    environment = f"source {shlex.quote(f'{kit.folder}/toolkit/environment.sh')}"
    change = f"PATH={shlex.quote(f'{kit.folder}/other')}:$PATH"
    known = {"PATH": f"{kit.folder}/bin:{os.environ['PATH']}", "CALLS": str(kit.folder / "calls")}
    command = ["bash", "-c", f"{environment}; {environment}; {change}; {environment}; type -P python"]
    done = subprocess.run(command, env=known, capture_output=True, text=True, check=True)
    assert kit.calls.count("asked") == 3  # another Python is in front now
    assert done.stdout == f"{kit.folder}/other/python\n"


def test_ctrl_c_ends_the_script_although_its_command_ends_well(kit: Kit) -> None:
    """The signal may come when the command is past caring about it."""
    stand_in = STAND_IN.replace('[[ "', '[[ $3 != check ]] || kill -INT $PPID\n[[ "')
    (kit.folder / "bin/python").write_text(stand_in)
    assert kit.run().returncode == 130
    assert kit.calls[-1].split()[2] == "check"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_nothing_is_left_at_work_by_a_script_that_is_ended(kit: Kit, number: signal.Signals) -> None:
    """The signal goes to the shell alone, which waits for a stage and the `tee` of its log."""
    stand_in = STAND_IN.replace('[[ "', '[[ $4 != pretrain ]] || exec sleep 60\n[[ "')
    (kit.folder / "bin/python").write_text(stand_in)
    environment = {"PATH": f"{kit.folder}/bin:{os.environ['PATH']}", "CALLS": str(kit.folder / "calls")}
    script = subprocess.Popen(
        ["bash", str(kit.folder / "toolkit" / MINI)],
        env=environment, cwd=kit.folder, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for(lambda: len(members_of(script.pid)) > 2 and "train pretrain" in "".join(kit.calls))
    script.send_signal(number)
    assert script.wait(30) != 0
    wait_for(lambda: not members_of(script.pid))


def members_of(session: int) -> list[psutil.Process]:
    """The living processes of a session."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_an_edited_preset_is_named(kit: Kit) -> None:
    script = kit.folder / "toolkit" / MINI
    script.write_text(script.read_text().replace("PRESET=mini", "PRESET=Mini"))
    done = kit.run()
    assert done.returncode == 1
    assert done.stderr.startswith("error: PRESET=Mini: no such preset")
    assert done.stderr.count("\n") == 1
    assert not kit.calls
