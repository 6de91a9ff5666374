"""Processes that make cells: one per GPU, or one. Whatever happens to one, the lab goes on without its cell.

Several labs, or several shells with one lab, share the work by locks of single cells: a cell that another process is
training is asked for again later.
"""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Literal

from experiments.lab.bench import Bench
from experiments.lab.cells import Cell
from experiments.lab.labfile import Lab
from toolkit.entry import DISK_FAULTS
from toolkit.errors import RowFault, UserError
from toolkit.files import display_path
from toolkit.processes import InUseError

FAILURES = "failures.log"
SECONDS_BEFORE_ASKING_AGAIN, LONGEST_WAIT = 2.0, 60.0  # doubled each time nothing has ended meanwhile
# What CUDA, torch's allocator for CPUs and the operating system say.
MEMORY_WORDS = ("out of memory", "can't allocate memory", "cannot allocate memory")


@dataclass(frozen=True)
class Outcome:
    """What became of a cell.

    Args:
        cell: which.
        state: `there` where it had been trained before, `over budget` where it had not and must not be.
        key: of its record; empty without one.
        seconds: that it took when it was trained.
        text: why it failed, or its scores.
    """

    cell: Cell
    state: Literal["there", "trained", "busy", "failed", "over budget"]
    key: str = ""
    seconds: float = 0.0
    text: str = ""


def visible_gpus() -> list[str]:
    """Names of the visible GPUs as CUDA_VISIBLE_DEVICES takes them; none without a GPU."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    count = torch.cuda.device_count()  # does not start CUDA, which a fork would not survive
    return named.split(",")[:count] if named else [str(number) for number in range(count)]


class Worker:
    """A forked process that makes one cell at a time.

    Args:
        lab: the lab.
        gpu: as CUDA_VISIBLE_DEVICES names it; None without GPUs.
    """

    def __init__(self, lab: Lab, gpu: str | None):
        self.lab, self.gpu = lab, gpu
        self.cell: Cell | None = None
        context = multiprocessing.get_context("fork")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(lab, gpu, theirs), daemon=False)
        self.process.start()
        theirs.close()

    def ask(self, cell: Cell, may_train: bool) -> None:
        """Start it on a cell."""
        self.cell = cell
        self.connection.send((cell, may_train))

    def outcome(self) -> Outcome:
        """What became of the cell it was asked for, once `connection` can be read."""
        cell, self.cell = self.cell, None
        assert cell
        try:
            return self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            code = self.process.exitcode or 0
            how = f"by signal {-code}, as where memory is short" if code < 0 else f"with exit status {code}"
            return Outcome(cell, "failed", text=f"its process ended {how}")

    def end(self) -> None:
        """Let it end: at once where it is at work, which it is where the lab is cut short."""
        if self.cell:
            self.process.kill()
        else:
            self.connection.send(None)
        self.process.join()


def _work(lab: Lab, gpu: str | None, connection: Connection) -> None:
    """Make the cells that are asked for, until None is."""
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    import torch

    if gpu is None:
        torch.set_num_threads(1)  # the same number everywhere gives the same scores everywhere
        os.environ["OMP_NUM_THREADS"] = "1"  # of the commands it starts
    bench = Bench(lab)
    while asked := connection.recv():
        connection.send(_outcome(bench, *asked))


def _outcome(bench: Bench, cell: Cell, may_train: bool) -> Outcome:
    try:
        record, trained = bench.make(cell, may_train)
    except InUseError as error:
        return Outcome(cell, "busy", text=str(error))
    except (UserError, RowFault) as error:
        return Outcome(cell, "failed", text=str(error))
    except Exception as error:  # the other cells go on; what is wrong here is kept for whoever looks into it
        lines = str(error).strip().splitlines() or [""]
        if isinstance(error, MemoryError) or any(word in str(error).lower() for word in MEMORY_WORDS):
            return Outcome(cell, "failed", text=f"ran out of memory ({lines[0][:120] or 'MemoryError'})")
        if isinstance(error, OSError) and error.errno in DISK_FAULTS:  # which a log would not fit on either
            return Outcome(cell, "failed", text=f"{error.filename or bench.lab.output}: {os.strerror(error.errno)}")
        bench.lab.records.mkdir(parents=True, exist_ok=True)
        log = bench.lab.records / FAILURES
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{cell.name}\n{traceback.format_exc()}\n")
        where = display_path(log)
        return Outcome(cell, "failed", text=f"{type(error).__name__}: {lines[0][:120]}; {where} has the details")
    if record is None:
        return Outcome(cell, "over budget")
    scores = ", ".join(f"{name} {100 * shares['all']:.1f}" for name, shares in record["scores"].items())
    return Outcome(cell, "trained" if trained else "there", record["key"], record["seconds"], scores)


def make_cells(lab: Lab, cells: list[Cell], gpus: list[str], budget_seconds: float, guess: float) -> Iterator[Outcome]:
    """Make cells side by side, in order; yields each one's outcome when it is known, `busy` never.

    Args:
        lab: the lab.
        cells: all of the lab.
        gpus: one worker each; without any, one worker on the CPU.
        budget_seconds: no cell starts that would make the sum of all cells' seconds larger.
        guess: seconds of a cell, before one has been seen.
    """
    workers = [Worker(lab, gpu) for gpu in (gpus or [None])]
    waiting, busy = list(cells), []
    spent, known, pause = 0.0, [], SECONDS_BEFORE_ASKING_AGAIN
    try:
        while waiting or busy or any(worker.cell for worker in workers):
            for worker in workers:
                if waiting and worker.cell is None:
                    expected = sum(known) / len(known) if known else guess
                    running = expected * sum(other.cell is not None for other in workers)
                    worker.ask(waiting.pop(0), spent + running + expected <= budget_seconds)
            at_work = [worker.connection for worker in workers if worker.cell]
            ready = wait(at_work, None if at_work and not busy else pause)
            for worker in [worker for worker in workers if worker.connection in ready]:
                outcome = worker.outcome()
                if outcome.state == "busy":
                    busy.append(outcome.cell)
                    continue
                if not worker.process.is_alive():
                    workers[workers.index(worker)] = Worker(lab, worker.gpu)
                pause = SECONDS_BEFORE_ASKING_AGAIN
                if outcome.key:
                    spent += outcome.seconds
                    known.append(outcome.seconds)
                yield outcome
            if busy and not ready:
                waiting, busy, pause = waiting + busy, [], min(2 * pause, LONGEST_WAIT)
    finally:
        for worker in workers:
            worker.end()
