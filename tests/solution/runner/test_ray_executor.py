"""`--executor ray`: the same rows, order, captions and audit as in one process, nothing left running."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from tests.solution.conftest import ROOT

WORDS = ["red", "blue", "dog", "cat", "on", "the", "car", "a"]
OPERATORS = '''
import os
import time
from pathlib import Path
from data_juicer.ops.base_op import OPERATORS, Mapper

class SeenMapper(Mapper):
    """Every process that works leaves a file."""
    def __init__(self, folder: str = "", *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.folder = folder

    def leave_file(self):
        (Path(self.folder) / str(os.getpid())).touch()

@OPERATORS.register_module("trial_raising_mapper")
class RaisingMapper(SeenMapper):
    """One bad row raises for its whole batch."""
    _batched_op = True

    def process_batched(self, samples):
        self.leave_file()
        time.sleep(0.1)
        if any("bad" in text for text in samples["text"]):
            raise KeyError("cannot do this")
        samples["text"] = [text.replace("car", "lorry") for text in samples["text"]]
        return samples

@OPERATORS.register_module("trial_waiting_mapper")
class WaitingMapper(Mapper):
    """Takes its time."""
    def process_single(self, sample):
        time.sleep(0.5)
        return sample

class OddError(Exception):
    """Cannot be sent to another process as it is."""
    def __init__(self, what, number):
        super().__init__(f"{what} {number}")

@OPERATORS.register_module("trial_odd_mapper")
class OddMapper(SeenMapper):
    """Raises an error of its own."""
    def process_single(self, sample):
        self.leave_file()
        time.sleep(0.01)
        if "bad" in sample["text"]:
            raise OddError("cannot do number", 17)
        return sample

@OPERATORS.register_module("trial_dying_mapper")
class DyingMapper(Mapper):
    """Takes its process down."""
    def process_single(self, sample):
        os._exit(1)
'''


@pytest.fixture
def operators(tmp_path) -> str:
    """The file with this test's operators."""
    pytest.importorskip("ray", reason="pip install -r solution/requirements-ray.txt -c constraints.txt")
    (tmp_path / "trial_operators.py").write_text(OPERATORS)
    return str(tmp_path / "trial_operators.py")


@pytest.fixture
def captions() -> list[str]:
    """Forty captions, some alike, one that an operator raises on."""
    chance = random.Random(5)
    found = [" ".join(chance.choices(WORDS, k=chance.randint(1, 6))) for _ in range(40)]
    return [*found[:17], "a bad one", *found[18:38], found[0], found[1]]


def steps_of(done) -> list[dict]:
    """What the record says of every operator, but for the seconds."""
    return [{key: value for key, value in step.items() if key != "seconds"} for step in done.record["steps"]]


@pytest.mark.slow
def test_one_process_two_and_ray_give_the_same(
    operators, captions, make_seed, make_recipe, run_process, clip_folder, captioner_folder, tmp_path
):
    seed = make_seed(captions)
    with (seed.parent / "images" / "023.jpg").open("r+b") as file:
        file.truncate(400)
    clip, writer = {"hf_clip": str(clip_folder)}, {"hf_captioner": str(captioner_folder), "max_new_tokens": 5}
    small = {"batch_size": 8}
    found = {}
    for name, processes, options in (("one", 1, ()), ("two", 2, ()), ("ray", 2, ("--executor", "ray"))):
        (tmp_path / name).mkdir()
        process = [
            {"trial_raising_mapper": {"folder": str(tmp_path / name)} | small},
            {"caption_deduplicator": {"max_copies": 1}},
            {"conditional_recaption_mapper": clip | writer | small | {"below": 0.05, "min_words": 1}},
            {"words_num_filter": {"min_num": 1, "max_num": 7}},
            {"caption_writer_mapper": writer | small | {"keep_original": True, "min_words": 3}},
            {"clip_similarity_filter": clip | small | {"min_score": -0.2}},
            {"percentile_selector": {"score_key": "clip_similarity", "min_percentile": 10}},
            {"fill_to_cap_selector": {"cap": 60}},
        ]
        recipe = make_recipe(process, np=processes, custom_operator_paths=[operators])
        stores = {"SCORE_STORE": str(tmp_path / f"scores of {name}")}
        done = run_process(recipe, seed, "--overwrite", *options, environment=stores)
        assert done.code == 0, done.err
        found[name] = (
            (done.output / "processed_data.jsonl").read_bytes(),
            pq.read_table(done.audit).to_pylist(),
            steps_of(done),
            re.sub(r"[\d.]+ s$", "", done.err, flags=re.MULTILINE),  # Ray adds no line of its own
        )
    workers = {int(file.name) for file in (tmp_path / "ray").iterdir()}
    assert len(workers) == 2
    assert not any(psutil.pid_exists(worker) for worker in workers)
    bytes_of_one, audit, steps, _ = found["one"]
    assert found["two"][:3] == found["one"][:3]  # Data-Juicer's two processes do add lines
    assert found["ray"] == found["one"]
    assert len(bytes_of_one.splitlines()) == 60
    states = [line["state"] for line in audit]
    assert states.count("failed") == 2
    assert any("cannot do this" in line["reason"] for line in audit)
    assert all(sum(step[key] for step in steps) for key in ("dropped", "created", "rewritten"))


def start(recipe: Path, seed: Path, output: Path) -> subprocess.Popen:
    """The command on Ray, in a group of its own, as a terminal has it."""
    command = [sys.executable, str(ROOT / "solution" / "process.py"), "--recipe", str(recipe), "--dataset", str(seed)]
    return subprocess.Popen(
        [*command, "--output", str(output), "--executor", "ray"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # A suite run in a shell's background inherits that Ctrl-C is ignored, and would hand it down.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL, "server"])
def test_an_ended_run_leaves_no_process_and_is_resumed(
    how, operators, captions, make_seed, make_recipe, run_process, tmp_path
):
    seed = make_seed([f"{caption} stock photo" for caption in captions])
    process = [{"caption_cleanup_mapper": None}, {"trial_waiting_mapper": None}, {"caption_words_filter": None}]
    recipe = make_recipe(process, np=2, custom_operator_paths=[operators])
    output = tmp_path / "output" / "processed_data"
    run = start(recipe, seed, output)
    while "[2/3]" not in run.stdout.readline():
        assert run.poll() is None
    time.sleep(1)  # in the middle of the second operator
    family = psutil.Process(run.pid).children(recursive=True)
    assert any("ray::" in " ".join(process.cmdline()) for process in family)
    if how == "server":  # which closes its port at once and lingers
        next(process for process in family if process.name() == "gcs_server").terminate()
    elif how == signal.SIGINT:
        os.killpg(run.pid, how)
    else:
        run.send_signal(how)
    said, _ = run.communicate(timeout=30 if how == "server" else 60)
    assert run.returncode != 0
    assert "ray::" not in said
    assert "***" not in said, "a stack trace"
    if how == "server":
        assert said.splitlines()[-1].startswith("error: Ray's server at ")
    _, alive = psutil.wait_procs(family, timeout=15)
    # Killed outright, Ray's two agents look for their dead parent for most of a minute before they end as well.
    allowed = set() if how == signal.SIGINT else {"ray::DashboardAgent", "ray::RuntimeEnvAgent"}
    assert {process.name() for process in alive} <= allowed
    resumed = run_process(make_recipe(process[:1], custom_operator_paths=[operators]), seed)  # here, without Ray
    assert resumed.code == 0, resumed.err
    assert "resuming after operator 1 of 1" in resumed.err


@pytest.mark.slow
def test_workers_that_die_fail_no_row(operators, make_seed, make_recipe, run_process):
    recipe = make_recipe([{"trial_dying_mapper": None}], np=2, custom_operator_paths=[operators])
    done = run_process(recipe, make_seed(["a dog"] * 6), "--executor", "ray")
    assert done.code == 1
    assert "operator trial_dying_mapper: Ray lost its workers" in done.err.splitlines()[-1]
    assert "Traceback" not in done.err
    stopped = done.audit.parent / "trial.unfinished" / "audit.parquet"
    assert {line["state"] for line in pq.read_table(stopped).to_pylist()} == {"kept"}


@pytest.mark.slow
def test_a_cluster_of_two_machines(operators, captions, make_seed, make_recipe, run_process, tmp_path):
    """Two nodes with a core each, found by their address; they keep running when the command ends."""
    from ray.cluster_utils import Cluster

    seed = make_seed(captions)
    process = [{"trial_odd_mapper": {"folder": str(tmp_path / "seen")}}]
    (tmp_path / "seen").mkdir()
    recipe = make_recipe(process, custom_operator_paths=[operators])
    handler = signal.getsignal(signal.SIGTERM)
    cluster = Cluster()
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1, include_dashboard=False, object_store_memory=80 << 20)
        done = run_process(recipe, seed, "--executor", "ray", "--ray-address", cluster.address)
        assert done.code == 0, done.err
        assert len(list((tmp_path / "seen").iterdir())) == 2
        assert len(done.rows) == 39
        assert done.record["failed"][0]["reason"] == "OddError: cannot do number 17"
        assert all(node.any_processes_alive() for node in cluster.list_all_nodes())
    finally:
        cluster.shutdown()
        # Nodes set one of their own, under which a pool's processes, forked later, do not end.
        signal.signal(signal.SIGTERM, handler)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--executor", "ray", "--ray-address", "127.0.0.1:1"], "no Ray cluster at 127.0.0.1:1"),
        (["--executor", "ray", "--ray-address", "somewhere"], "expected HOST:PORT or auto"),
        (["--ray-address", "127.0.0.1:6379"], "--ray-address is for --executor ray"),
    ],
)
def test_a_wrong_address_is_one_line(options, message, operators, make_seed, make_recipe, run_process):
    done = run_process(make_recipe([{"caption_cleanup_mapper": None}]), make_seed(["a dog"]), *options)
    assert done.code == 1
    (line,) = done.err.splitlines()
    assert message in line
    assert done.rows is None


@pytest.mark.slow
def test_without_ray_one_line_says_what_to_install(make_seed, make_recipe, run_process, tmp_path):
    """A package of that name that cannot be imported stands in for none; a run in one process never touches it."""
    (tmp_path / "ray.py").write_text("raise ImportError('no ray here')\n")
    recipe, seed = make_recipe([{"caption_cleanup_mapper": None}]), make_seed(["a dog"])
    without = {"PYTHONPATH": str(tmp_path)}
    done = run_process(recipe, seed, "--executor", "ray", environment=without)
    assert done.code == 1
    (line,) = done.err.splitlines()
    assert "pip install -r solution/requirements-ray.txt" in line
    (tmp_path / "ray.py").write_text(f"open({str(tmp_path / 'touched')!r}, 'w')\n")
    assert run_process(recipe, seed, environment=without).code == 0
    assert not (tmp_path / "touched").exists()
