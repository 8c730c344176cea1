"""Processes of this machine that fit a study's trials side by side, and are replaced when they die.

They ask nothing of the study: values come in by a pipe, evaluations and outcomes go out, and the process that started
them alone reads and writes optuna's storage. So the trials are counted exactly and each is pruned by all others,
however many work; and SQLite, whose locks some network file systems lack, has one writer.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from common.errors import DataError, UserError
from track2_mmctr.config import RunConfig
from track2_mmctr.datasets.tables import CtrData
from track2_mmctr.tune_trial import Fit, Outcome, conduct

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from track2_mmctr.rankers.base import Environment


@dataclass(frozen=True)
class Equipment:
    """What a worker needs: how to fit, on what, where. It is sent to the process that starts."""

    fit: Fit
    config: RunConfig
    load: Callable[[], CtrData]
    environment: Environment
    folder: Path


@dataclass(frozen=True)
class Report:
    """An evaluation in the trial at `place`; the worker waits for `Workers.answer`."""

    place: int
    auc: float
    step: int


@dataclass(frozen=True)
class Ended:
    """The trial at `place` has ended; None: its process has died."""

    place: int
    outcome: Outcome | None


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    ready: bool = False
    place: int | None = None


class Workers:
    """`count` processes, for as long as a `with` block lasts."""

    def __init__(self, equipment: Equipment, count: int) -> None:
        self.equipment, self.count = equipment, count
        fork = "forkserver" in multiprocessing.get_all_start_methods()
        self.context = cast("Any", multiprocessing.get_context("forkserver" if fork else "spawn"))
        if fork:  # torch is imported once, before the workers are forked
            self.context.set_forkserver_preload(["track2_mmctr.pipeline", "track2_mmctr.training.loop"])
        self.workers: list[_Worker] = []

    def __enter__(self) -> Self:
        for _ in range(self.count):
            self._start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for worker in self.workers:
            worker.process.kill()
        for worker in self.workers:
            worker.process.join()
            worker.pipe.close()

    def _start(self) -> None:
        pipe, far = self.context.Pipe()
        process = self.context.Process(target=_work, args=(far, self.equipment), daemon=True)
        process.start()
        far.close()
        self.workers.append(_Worker(process, pipe))

    @property
    def free(self) -> bool:
        """Whether a worker waits for a trial."""
        return any(worker.ready and worker.place is None for worker in self.workers)

    def give(self, place: int, values: Mapping[str, Any]) -> None:
        """Let a free worker fit the trial at `place`."""
        worker = next(one for one in self.workers if one.ready and one.place is None)
        worker.place = place
        _send(worker, (place, dict(values)))

    def answer(self, place: int, stop: bool) -> None:
        """Tell the worker of a trial, which has reported, whether to end it."""
        _send(next(one for one in self.workers if one.place == place), stop)

    def events(self) -> Iterator[Report | Ended]:
        """Wait until something has happened, and yield what it is; a dead worker is replaced.

        Raises
        ------
        UserError
            A worker cannot read the data.
        DataError
            A worker died before it was ready.
        RuntimeError
            An error of the program, with the worker's traceback.
        """
        by_pipe = {worker.pipe: worker for worker in self.workers}
        for pipe in wait(list(by_pipe)):
            worker = by_pipe[cast("Connection", pipe)]
            try:
                message = worker.pipe.recv()
            except (EOFError, OSError):
                yield from self._died(worker)
                continue
            if isinstance(message, UserError):
                raise message
            if isinstance(message, str):
                raise RuntimeError(f"a trial failed by an error of the program:\n{message}")
            if message is None:
                worker.ready = True
            elif isinstance(message, Outcome):
                place, worker.place = cast("int", worker.place), None
                yield Ended(place, message)
            else:
                yield Report(cast("int", worker.place), *message)

    def _died(self, worker: _Worker) -> Iterator[Ended]:
        worker.process.join()
        worker.pipe.close()
        self.workers.remove(worker)
        if not worker.ready:
            raise DataError(
                "a worker died before it was ready",
                got=f"exit code {worker.process.exitcode}",
                todo="fewer --workers, if memory does not suffice for the data so many times",
            )
        self._start()
        if worker.place is not None:
            yield Ended(worker.place, None)


def _send(worker: _Worker, message: object) -> None:
    with contextlib.suppress(OSError):  # it has died, as `events` will see
        worker.pipe.send(message)


def _work(pipe: Connection, equipment: Equipment) -> None:
    """Be one worker. Ctrl-C is the starting process's to handle; this one ends with it."""
    from common.progress import hush

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    hush()

    def report(auc: float, step: int) -> bool:
        pipe.send((auc, step))
        return pipe.recv()

    try:
        data = equipment.load()
        pipe.send(None)
        while True:
            place, values = pipe.recv()
            work = equipment.folder / f"trial-{place}"
            pipe.send(conduct(equipment.fit, equipment.config, values, data, equipment.environment, work, report))
    except EOFError:
        return
    except UserError as error:
        pipe.send(error)
    except Exception:
        pipe.send(traceback.format_exc())


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
