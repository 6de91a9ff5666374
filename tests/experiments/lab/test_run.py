"""Whole labs at toy size: what they say, what they do again, and what one failing cell costs."""

import dataclasses
import errno
import os
import signal
import sys
import time
from pathlib import Path
from random import Random

import pytest
import torch

from experiments.lab import run, workers
from experiments.lab.bench import Bench
from experiments.lab.cells import SUMMARY, record_files
from experiments.lab.labfile import Lab
from experiments.lab.plan import lines_of, plan_of
from experiments.lab.scoring import BENCHMARKS, asked_of
from experiments.lab.training import CachedTrainer, Job, Trained
from tests.experiments.lab.conftest import WORLD
from toolkit.__main__ import main
from toolkit.files import REPOSITORY, read_json
from toolkit.processes import end_forks_with_this_process

KILLS = int(os.environ.get("FAULTS_KILLS", "3"))


@pytest.fixture
def training(monkeypatch):
    """training(what): trainings that cost nothing, in the forked workers too; `what(job)` may fail."""

    def install(what=lambda job: None):
        def train(_self, job: Job) -> Trained:
            what(job)
            texts = {name: [f"w{job.seed}"] * len(asked_of(job.preset, name)) for name in BENCHMARKS}
            return Trained(texts, {"finetune": [1.0]}, {"finetune": 16})

        monkeypatch.setattr(CachedTrainer, "__call__", train)

    monkeypatch.setattr(run, "visible_gpus", list)
    install()
    return install


@pytest.fixture
def lab(toy, kept_file: Path, tmp_path: Path) -> Lab:
    """Two arms with the same rows, the seed, and no pre-training; two seeds; no seed but draw 0."""
    arms = {"raw": "raw", "kept": str(kept_file), "again": str(kept_file), "none": "none"}
    return toy(arms, seeds=2, output=str(tmp_path / "output"), world=WORLD | {"draws": 1})


def states(lab: Lab) -> dict[str, str]:
    return {outcome.cell.name: outcome.state for outcome in run.make(lab)}


def test_a_lab_is_trained_once_and_the_same_rows_are(lab, training, capsys):
    found = states(lab)
    assert list(found)[:4] == [f"{arm}-draw0-seed0" for arm in ("raw", "kept", "again", "none")]
    assert {name for name, state in found.items() if state == "there"} == {"again-draw0-seed0", "again-draw0-seed1"}
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 6
    assert said[0].startswith("[1 of 8] raw-draw0-seed0: textvqa 0.0, mmbench 0.0")
    assert " left" in said[0]
    assert len(record_files(lab.records)) == 8
    assert set(states(lab).values()) == {"there"}
    assert capsys.readouterr().err == ""


def test_the_plan_starts_nothing_and_tells_what_there_is(lab, training):
    plan = plan_of(lab)
    assert set(plan.states.values()) == {"to train after its seed is drawn"}
    assert (plan.to_train, plan.seconds) == (8, None)
    assert not lab.output.exists()
    assert not lab.records.exists()
    states(dataclasses.replace(lab, arms={"raw": lab.arms["raw"]}))
    plan = plan_of(lab)
    assert plan.states["raw-draw0-seed0"] == "there"
    assert plan.states["none-draw0-seed0"] == "to train"
    assert plan.states["again-draw0-seed1"] == "same as kept-draw0-seed1"
    assert (plan.to_train, plan.earlier) == (4, 2)
    assert "at most 4 cells to train" in "\n".join(lines_of(lab, plan))


def test_a_file_that_changes_is_trained_again_alone(lab, training, kept_file, tmp_path):
    own = tmp_path / "own.jsonl"
    own.write_bytes(kept_file.read_bytes())
    lab.arms["again"] = dataclasses.replace(lab.arms["again"], source=str(own))
    states(lab)
    own.write_bytes(b"".join(own.read_bytes().splitlines(keepends=True)[1:]))
    assert {name for name, state in states(lab).items() if state == "trained"} == {
        "again-draw0-seed0",
        "again-draw0-seed1",
    }


FAILURES = {
    "a killed process": (lambda: os.kill(os.getpid(), signal.SIGKILL), "ended by signal 9, as where memory is short"),
    "torch": (lambda: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory. Tried")), "ran out of memory"),
    "Python": (lambda: (_ for _ in ()).throw(MemoryError()), "ran out of memory (MemoryError)"),
    "a full disk": (
        lambda: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full", "/x")), "missing: /x: No space left on device",
    ),
    "a fault of ours": (lambda: [][1], "IndexError: list index out of range; "),
}  # fmt: skip


@pytest.mark.parametrize("case", FAILURES)
def test_a_cell_that_fails_costs_one_line_and_no_other_cell(case, lab, training, capsys):
    fail, expected = FAILURES[case]
    training(lambda job: fail() if len(job.rows) == 10 and job.seed == 1 else None)
    outcomes = run.make(lab)
    missing = [outcome.cell.name for outcome in outcomes if not outcome.key]
    assert missing == ["kept-draw0-seed1", "again-draw0-seed1"]
    assert len(record_files(lab.records)) == 6
    (line,) = run.missing_lines(outcome for outcome in outcomes if not outcome.key)
    assert line.startswith("error: kept-draw0-seed1 and 1 more missing: ")
    assert expected in line
    assert (lab.records / workers.FAILURES).exists() == (case == "a fault of ours")
    run.write_summary(lab, outcomes)
    summary = read_json(lab.records / SUMMARY)
    assert [cell["arm"] for cell in summary["missing"]] == ["kept", "again"]
    assert len(summary["cells"]) == 6
    capsys.readouterr()
    training()
    assert sorted(states(lab).values()) == ["there"] * 7 + ["trained"]


def test_no_cell_starts_that_would_exceed_the_budget(lab, training, monkeypatch):
    seconds = iter(range(0, 10_000, 100))  # every look at the clock is 100 s later
    monkeypatch.setattr("experiments.lab.bench.time.perf_counter", lambda: next(seconds))
    few = dataclasses.replace(lab, budget_hours=350 / 3600)
    found = states(few)
    assert sum(state in ("trained", "there") for state in found.values()) < len(found)
    assert set(found.values()) >= {"trained", "over budget"}
    assert "raise budget_hours" in run.missing_lines(o for o in run.make(few) if not o.key)[0]


def test_the_same_table_is_printed_again(lab, training, capsys, monkeypatch):
    assert run.finish(lab, run.make(lab)) == 0
    first = capsys.readouterr().out
    assert "against raw" in first
    assert "again has the same data as kept, trained once: they tie by design" in first
    assert run.finish(lab, run.make(lab)) == 0
    assert capsys.readouterr().out == first
    monkeypatch.setattr(run, "read_lab", lambda _: lab)
    assert run.print_table(Path("toy.yaml")) == 0
    assert capsys.readouterr().out == first
    (lab.records / "kept-draw0-seed1.json").unlink()
    assert run.print_table(Path("toy.yaml")) == 1
    assert "error: kept-draw0-seed1 missing: python -m toolkit lab run toy.yaml" in capsys.readouterr().err

    broken = dataclasses.replace(lab, arms=lab.arms | {"again": dataclasses.replace(lab.arms["again"], source="gone")})
    assert run.finish(broken, run.make(broken)) == 1
    said = capsys.readouterr()
    assert "again " not in said.out  # its records are there, of data that are not
    assert "error: again-draw0-seed0 and 1 more missing: " in said.err


class Shell:
    """A process of its own that runs a lab."""

    def __init__(self, lab: Lab):
        self._reader, writer = os.pipe()
        self.process = os.fork()
        if not self.process:
            os.close(self._reader)
            os.dup2(writer, 1)
            sys.stdout = os.fdopen(1, "w", buffering=1)  # in the place of pytest's
            end_forks_with_this_process()
            os._exit(run.finish(lab, run.make(lab)))
        os.close(writer)

    def end(self) -> tuple[int, str]:
        """Wait for it; exit status, negative for a signal, and table."""
        with os.fdopen(self._reader) as output:
            table = output.read()
        return os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1]), table


@pytest.mark.slow
def test_killed_at_any_moment_a_lab_ends_with_the_same_table(lab, training, tmp_path):
    """Workers die with it; what runs next goes on, and ends with the very table of a run that nobody disturbed."""
    training(lambda job: time.sleep(0.1))
    started = time.monotonic()
    status, whole = Shell(lab).end()
    seconds = time.monotonic() - started
    assert status == 0
    assert "against raw" in whole
    random, ends = Random(1), []
    for number in range(KILLS):
        own = dataclasses.replace(lab, records=tmp_path / f"records{number}", output=tmp_path / f"output{number}")
        shell = Shell(own)
        time.sleep(random.uniform(0, seconds))
        os.kill(shell.process, signal.SIGKILL)
        ends.append(shell.end()[0])
        assert Shell(own).end() == (0, whole)
        assert not list(own.output.rglob("*.tmp"))
    assert -signal.SIGKILL in ends


def test_two_shells_share_a_lab_and_train_no_cell_twice(lab, training, tmp_path):
    log = tmp_path / "trained"

    def note(job: Job) -> None:
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{job.folder.name}\n")
        time.sleep(0.2)

    training(note)
    first, second = [shell.end() for shell in (Shell(lab), Shell(lab))]
    assert first == second
    assert first[0] == 0
    assert len(log.read_text().split()) == len(set(log.read_text().split())) == 6


def test_each_gpu_makes_cells_of_its_own(lab, training, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "visible_gpus", lambda: ["3", "5"])

    def note(job: Job) -> None:
        with (tmp_path / "gpus").open("a", encoding="utf-8") as file:
            file.write(f"{os.environ['CUDA_VISIBLE_DEVICES']}\n")
        time.sleep(0.5)

    training(note)
    assert "failed" not in states(lab).values()
    used = (tmp_path / "gpus").read_text(encoding="utf-8").split()
    assert len(used) == 6
    assert set(used) == {"3", "5"}


def test_a_busy_cell_is_asked_for_again(lab, training, monkeypatch):
    """Another shell trains it: this one waits for the result, which it then finds."""
    monkeypatch.setattr("experiments.lab.workers.SECONDS_BEFORE_ASKING_AGAIN", 0.05)
    looks = []

    def make(self, cell, may_train=True, whole=Bench.make):
        from toolkit.processes import InUseError

        looks.append(cell.name)
        if cell.name == "kept-draw0-seed0" and looks.count(cell.name) < 3:
            raise InUseError("another shell")
        return whole(self, cell, may_train)

    monkeypatch.setattr(Bench, "make", make)
    found = states(lab)
    assert len(found) == 8
    assert found["kept-draw0-seed0"] == "there"  # by then `again`, which has the same rows, was trained


def test_a_wrong_recipe_costs_its_own_arms_only(toy, training, tmp_path, capsys, monkeypatch):
    (tmp_path / "broken.yaml").write_text(
        "process: [{nothing_filter: {}}, {caption_latn_filter: {}}]\n", encoding="utf-8"
    )
    arms = {"raw": "raw", "broken": str(tmp_path / "broken.yaml"), "random": {"control": "random", "seeds": 2}}
    lab = toy(arms, output=str(tmp_path / "output"), world=WORLD | {"draws": 1})
    monkeypatch.setattr(run, "read_lab", lambda _: lab)
    assert run.run_lab(tmp_path / "lab.yaml", plan=True) == 1
    planned = capsys.readouterr()
    assert "| broken |" in planned.out
    assert "1 cell to train" in planned.out
    line, further = planned.err.splitlines()  # all faults of the recipe
    assert line.startswith("error: broken-draw0-seed0 and 2 more cannot be trained: recipe ")
    assert "operator 1 (nothing_filter): unknown operator" in line
    assert further.startswith(f"  recipe {tmp_path}/broken.yaml, operator 2 (caption_latn_filter): unknown operator")
    assert not lab.output.exists()
    outcomes = run.make(lab)
    assert [outcome.cell.arm.name for outcome in outcomes if not outcome.key] == ["broken", "random", "random"]
    (line,) = run.missing_lines(outcome for outcome in outcomes if not outcome.key)
    assert "did you mean caption_latin_filter?" in line
    assert len(record_files(lab.records)) == 1


def test_the_leaderboard_is_that_of_its_records(capsys):
    """`lab run --no-run` prints what `benchmarks/lab/README.md` shows."""
    main(["lab", "run", str(REPOSITORY / "benchmarks" / "lab" / "example.yaml"), "--no-run"])
    printed = capsys.readouterr().out
    assert "against raw" in printed
    assert printed in (REPOSITORY / "benchmarks" / "lab" / "README.md").read_text(encoding="utf-8")
