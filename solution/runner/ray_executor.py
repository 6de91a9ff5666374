"""Row-wise operators on Ray: the rows are sent to workers in shards and come back in order.

Needed for `--executor ray` only; importing it raises UserError where ray is not installed. Operators that compare rows
(duplicates, clusters, percentiles, fill) are not run here: they see all rows, in the process of the command.
"""

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from functools import cached_property
from types import TracebackType
from typing import Any

import datasets
import pyarrow as pa
from tqdm.auto import tqdm

from solution.operators.common.faults import IMAGE_ROOT, SetupFault
from solution.operators.common.rows import ROW
from solution.runner.configuration.parameters import check_operators
from solution.runner.data_juicer import NestedDataset, SpecialTokens, seed_random
from solution.runner.errors import UserError, one_line
from solution.runner.files import ROOT
from solution.runner.images.produced import VARIABLE
from solution.runner.pipeline import build_operators, registry
from solution.runner.recipe import Recipe
from solution.runner.tables import rows_of_step

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read when ray is imported
try:
    import ray
    from ray.exceptions import RayError, RayTaskError
except ImportError as error:
    raise UserError(
        "--executor ray needs the package ray: pip install -r solution/requirements-ray.txt -c constraints.txt"
    ) from error

_SHARD = 1000  # rows at most, unless the operator's own batches are larger
_ROUNDS = 4  # shards per worker where there are enough rows, so that a slow one does not hold up the others
_AHEAD = 2  # shards that a worker has at a time: the next one is there when it ends one
_WINDOW = 8  # shards per worker, at most, that are being worked on or wait for an earlier one
_STORE = 256 << 20  # bytes of shared memory for the shards under way
_PASSED_ON = (
    "SCORE_STORE", "UV_OFFLINE", "PIP_NO_INDEX", "TOKENIZERS_PARALLELISM", "TRANSFORMERS_VERBOSITY", "HF_HUB_OFFLINE",
    "NLTK_DATA", IMAGE_ROOT, VARIABLE,
)  # fmt: skip


class RayExecutor:
    """Ray for the length of a `with` block: one on this machine, or the one at ``address`` (HOST:PORT or auto).

    One worker per core and, for operators that may use one, per GPU; a recipe's `np` above 1 is the most there are.
    Every worker builds the recipe's operators once and keeps their models. All machines of a cluster must see the
    checkout, the seed, the models and the output under the same paths.
    """

    def __init__(self, recipe: Recipe, work_dir: str, address: str | None) -> None:
        self.recipe = recipe
        self.work_dir = work_dir
        self.address = address
        self._workers: dict[bool, list[Any]] = {}  # with a GPU or without
        self._ended = threading.Event()

    def __enter__(self) -> "RayExecutor":
        """Start or find Ray. Raises UserError where nothing answers at the address."""
        settings = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        settings["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        common = {
            "runtime_env": {"env_vars": settings},
            "log_to_driver": False,
            "logging_level": logging.ERROR,
        }
        on_term = signal.getsignal(signal.SIGTERM)
        try:
            if self.address:
                _require_answer(self.address)
                ray.init(address=self.address, **common)
            else:
                cores = self.recipe.processes if self.recipe.processes > 1 else None
                ray.init("local", num_cpus=cores, include_dashboard=False, object_store_memory=_STORE, **common)
        except Exception as error:  # Ray has bare ones too, as where its own processes end before it is up
            ray.shutdown()
            raise UserError(
                f"no Ray cluster at {self.address or 'this machine'}: {one_line(error)}; `ray start --head` starts "
                "one, without --ray-address this machine is used"
            ) from error
        signal.signal(signal.SIGTERM, on_term)  # Ray's own handler prints a stack trace
        threading.Thread(target=self._end_with_the_server, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the workers, and Ray itself where it was started here."""
        self._ended.set()
        ray.shutdown()

    def _end_with_the_server(self) -> None:
        """End the command in one line where Ray's server is gone; Ray would look for it for a minute, then abort."""
        host, port = ray.get_runtime_context().gcs_address.rsplit(":", 1)
        while not self._ended.wait(1):
            try:
                socket.create_connection((host, int(port)), timeout=10).close()
            except ConnectionRefusedError:
                print(
                    f"error: Ray's server at {host}:{port} has ended, as where memory is short; the same command "
                    "resumes after the last finished operator",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(1)
            except OSError:  # busy
                continue

    def run(self, index: int, operator: Any, rows: NestedDataset, **options: Any) -> NestedDataset:
        """What `operator.run(rows, **options)` returns; ``index`` is the operator's in the recipe, from 0.

        Raises what the operator raises for any shard, and UserError where workers die over and over.
        """
        try:
            results = self._results(index, operator, rows, options)
            # The metadata would hold each shard's own types; a column that is empty in one has none there.
            return rows_of_step(table.replace_schema_metadata(None) for table in results)
        except RayTaskError as error:
            raise error.cause from error
        except RayError as error:
            raise UserError(
                f"operator {operator._name}: Ray lost its workers ({one_line(error)}); the same command resumes after "
                "the last finished operator"
            ) from error

    def _results(self, index: int, operator: Any, rows: NestedDataset, options: dict[str, Any]) -> Iterator[pa.Table]:
        """What the operator makes of each shard, in order."""
        workers = self._workers_for(operator)
        size = _shard_size(operator, len(rows), len(workers))
        arrow, starts = rows.with_format("arrow"), range(0, len(rows), size)
        idle, running, done = workers * _AHEAD, {}, {}
        sent = delivered = 0
        bar = tqdm(desc=operator._name, total=len(rows), unit=" rows", leave=False, disable=None)
        while delivered < len(starts):
            while idle and sent < min(len(starts), delivered + _WINDOW * len(workers)):
                worker, start = idle.pop(), starts[sent]
                reference = worker.run.remote(index, _packed(arrow[start : start + size]), options)
                running[reference] = sent, worker
                sent += 1
            (reference, *_), _ = ray.wait(list(running))
            number, worker = running.pop(reference)
            done[number] = _unpacked(ray.get(reference))
            idle.append(worker)
            while delivered in done:
                yield done.pop(delivered)
                delivered += 1
                bar.update(min(size, len(rows) - bar.n))
        bar.close()

    def _workers_for(self, operator: Any) -> list[Any]:
        """The workers that suit an operator, started when they are first needed."""
        resources = ray.cluster_resources()
        on_gpu = operator.accelerator == "cuda" and resources.get("GPU", 0) >= 1
        if on_gpu not in self._workers:
            # A worker with a GPU asks for no core: the others may hold them all.
            needs = {"num_gpus": 1, "num_cpus": 0} if on_gpu else {"num_cpus": 1}
            count = int(resources["GPU" if on_gpu else "CPU"])
            count = min(count, self.recipe.processes) if self.recipe.processes > 1 else count
            kind = ray.remote(max_restarts=-1, max_task_retries=2, **needs)(Worker)
            self._workers[on_gpu] = [kind.remote(self.recipe, self.work_dir, SpecialTokens.image) for _ in range(count)]
        return self._workers[on_gpu]


class Worker:
    """A recipe's operators in one of Ray's processes."""

    def __init__(self, recipe: Recipe, work_dir: str, image_token: str) -> None:
        self.recipe = recipe
        self.work_dir = work_dir
        SpecialTokens.image = image_token

    @cached_property
    def operators(self) -> list[Any]:
        """The operators, built as the run itself builds its own."""
        datasets.disable_caching()
        datasets.disable_progress_bars()
        return build_operators(check_operators(self.recipe, registry(self.recipe)), 1, self.work_dir)

    def run(self, index: int, shard: bytes, options: dict[str, Any]) -> bytes:
        """One operator on one shard. Raises ImportError, UserError, and for all else ValueError with the same text."""
        rows = NestedDataset(datasets.Dataset(_unpacked(shard)))
        seed_random(f"{index} {rows[0][ROW]}")
        try:
            return _packed(self.operators[index].run(rows, **options).with_format("arrow")[:])
        except (ImportError, UserError, SetupFault):
            raise
        except Exception as error:  # of any class, which may be known in this process alone
            raise ValueError(one_line(error)) from None


def _require_answer(address: str) -> None:
    """Raise OSError or ValueError unless something listens at HOST:PORT; Ray itself would try for minutes."""
    if address != "auto":
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            raise ValueError("expected HOST:PORT or auto")
        socket.create_connection((host, int(port)), timeout=10).close()


def _shard_size(operator: Any, rows: int, workers: int) -> int:
    """Rows per shard: whole batches, so that every batch of the operator holds the same rows as in one process."""
    batch = operator.batch_size if operator.is_batched_op() else 1
    wanted = min(-(-rows // (workers * _ROUNDS)), _SHARD)
    return -(-wanted // batch) * batch


def _packed(table: pa.Table) -> bytes:
    """A table as bytes; of a slice, the slice only."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table.combine_chunks())  # chosen rows come as a chunk each
    return sink.getvalue().to_pybytes()


def _unpacked(content: bytes) -> pa.Table:
    """The table of `_packed`; its memory is this process's own, not Ray's."""
    return pa.ipc.open_stream(content).read_all()
