"""Worker processes for code that may hang or crash: a dead or late worker is an event, not the end of the run.

`concurrent.futures` breaks its whole pool when one process dies and cannot stop a hanging one; PDFs from
strangers do both. Each worker here has its own pipe; the parent kills a worker that is late and starts another.
"""

from __future__ import annotations

import math
import multiprocessing as mp
import os
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from typing import Any, ClassVar

from common.engine.base import End, Event, Failed, Function, Item, Setup
from common.errors import DataError, UserError

STARTUP_SECONDS = 180.0
"""How long a worker may take to start: imports and models, on a loaded machine."""


@dataclass
class _Worker:
    process: Any
    pipe: Any
    ready: bool = False
    task: int | None = None
    deadline: float = field(default_factory=lambda: time.monotonic() + STARTUP_SECONDS)


@dataclass(frozen=True)
class LocalEngine:
    """Processes of this machine: `workers` of them in every pool; 0 = as many as each asks for."""

    workers: int = 0
    name: ClassVar[str] = "local"
    spreads: ClassVar[bool] = False

    def pool(
        self,
        function: Function,
        setup: Setup,
        *,
        workers: int = 0,
        timeout: float | None = 60.0,
        threads: int = 1,
        gpus: float = 0.0,
    ) -> WorkerPool:
        """Return a pool of processes."""
        del threads, gpus
        return WorkerPool(function, setup, self.parallel(workers), timeout)

    def parallel(self, workers: int = 0) -> int:
        """Return the number of processes of a pool."""
        return self.workers or workers or cores()


LOCAL = LocalEngine()
"""The engine of who chooses none."""


class WorkerPool:
    """Spawned processes that run a generator function over tasks and stream what it yields.

    Parameters
    ----------
    function
        `function(state, task)` yields the values of a task; a module-level function.
    setup
        `setup()` makes the worker's state once; a module-level function.
    workers
        Number of processes; 0 = one per core.
    timeout
        Seconds that may pass between two values of a task; None = no limit.
    """

    def __init__(
        self,
        function: Function,
        setup: Setup,
        workers: int = 0,
        timeout: float | None = 60.0,
    ) -> None:
        self.function, self.setup = function, setup
        self.workers = workers or cores()
        self.timeout = math.inf if timeout is None else timeout
        self._context = mp.get_context("spawn")
        self._pool: list[_Worker] = []

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all workers."""
        for worker in self._pool:
            _stop(worker)
        self._pool.clear()

    def run(self, tasks: Iterable[Any]) -> Iterator[Event]:
        """Run the tasks, in order of start; yield events in order of arrival, tasks numbered from 0.

        Raises
        ------
        DataError
            A worker died or stalled before it was ready: nothing would ever finish.
        """
        todo = list(enumerate(tasks))[::-1]
        try:
            while todo or any(worker.task is not None for worker in self._pool):
                self._assign(todo)
                yield from self._collect()
        except BaseException:
            self.close()  # a half-read task must not be answered to the next run
            raise

    def _assign(self, todo: list[tuple[int, Any]]) -> None:
        busy = sum(worker.task is not None for worker in self._pool)
        while len(self._pool) < min(self.workers, busy + len(todo)):
            self._pool.append(self._start())
        for worker in self._pool:
            if todo and worker.ready and worker.task is None:
                number, task = todo.pop()
                worker.task, worker.deadline = number, time.monotonic() + self.timeout
                try:
                    worker.pipe.send(task)
                except OSError:
                    worker.deadline = 0.0  # it died while idle: collected as lost

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(theirs, self.setup, self.function), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours)

    def _collect(self) -> Iterator[Event]:
        active = [worker for worker in self._pool if not worker.ready or worker.task is not None]
        if not active:
            return
        patience = max(0.0, min(worker.deadline for worker in active) - time.monotonic())
        heard = wait([worker.pipe for worker in active], timeout=min(patience, 5.0))
        for worker in active:
            if worker.pipe in heard:
                yield from self._hear(worker)
            elif time.monotonic() > worker.deadline:
                yield self._lose(worker, f"no answer within {self.timeout:g} s; the worker was stopped")

    def _hear(self, worker: _Worker) -> Iterator[Event]:
        try:
            kind, value = worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join(1)
            yield self._lose(worker, f"the worker process died (exit code {worker.process.exitcode})")
            return
        worker.deadline = time.monotonic() + self.timeout
        if kind == "ready":
            worker.ready = True
            return
        assert worker.task is not None  # noqa: S101 - a worker speaks only of its task
        if kind == "item":
            yield Item(worker.task, value)
            return
        number, worker.task = worker.task, None
        yield End(number) if kind == "end" else Failed(number, value, lost=False)

    def _lose(self, worker: _Worker, reason: str) -> Failed:
        _stop(worker)
        self._pool.remove(worker)
        if worker.task is None:
            raise DataError("a worker process could not start", where=self.function.__name__, got=reason)
        return Failed(worker.task, reason, lost=True)


def cores() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _stop(worker: _Worker) -> None:
    worker.pipe.close()
    worker.process.kill()
    worker.process.join()


def _work(pipe: Any, setup: Setup, function: Function) -> None:
    """Answer tasks until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's: it ends its workers, and no task has failed
    try:
        state = setup()
        pipe.send(("ready", None))
        while True:
            task = pipe.recv()
            try:
                for value in function(state, task):
                    pipe.send(("item", value))
            except (BrokenPipeError, EOFError):
                raise
            except UserError as error:
                pipe.send(("error", str(error)))
            except Exception as error:
                pipe.send(("error", f"{type(error).__name__}: {error}"))
            else:
                pipe.send(("end", None))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
