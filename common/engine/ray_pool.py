"""The engine on Ray Data: tasks are rows, blocks of them run where the cluster has room, results stream back.

A task meets the same code as in a local pool. Code that may hang or crash (a pool with a time limit) runs in a
process of its own beside the Ray worker, through a local pool of one: the same faults are recorded as on one
machine. What Ray is there for is the rest: a worker or a node that is lost has its tasks run again elsewhere.

A worker keeps its state (models, an OCR engine) between the blocks and the runs of a pool. Values travel
pickled, as they do through the pipes of local workers; nothing of them is kept.
"""

from __future__ import annotations

import itertools
import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import Any, ClassVar

from common.engine.base import End, Event, Failed, Function, Item, Setup
from common.engine.local import cores
from common.engine.ray_session import OBJECT_STORE, connect, probe, require_ray
from common.engine.ray_worker import Row, hello, pickled, run_block, unpickled
from common.errors import ConfigError, DataError

RETRIES = 3
"""How often Ray runs a block again whose worker was lost; its tasks fail after that."""
BLOCKS_PER_WORKER = 8
"""Into so many blocks a worker's share of the tasks is cut: fewer cost less, more share the work better."""
MAX_BLOCK_TASKS = 16
MAX_BLOCK_BYTES = 8 << 20
WINDOW_BYTES = 256 << 20
"""Tasks of so many bytes are with Ray at once, and at least `BLOCKS_PER_WORKER` a worker."""

Block = list[tuple[int, bytes]]


class RayEngine:
    """Workers of a Ray cluster: one that is started here for as long as the `with` block lasts, or `address`.

    Parameters
    ----------
    address
        HOST:PORT of a running cluster; None starts one on this machine when the first task comes.
    workers
        Tasks at once; 0 = as many as the cluster has CPUs.
    object_store
        Bytes of shared memory of a cluster that is started here.
    """

    name: ClassVar[str] = "ray"
    spreads: ClassVar[bool] = True

    def __init__(self, address: str | None = None, workers: int = 0, *, object_store: int = OBJECT_STORE) -> None:
        self.address, self.workers = address, workers
        self._object_store = object_store
        self._session = ExitStack()
        self._ray: Any = None
        self._numbers = itertools.count()
        self._open: dict[int, Any] = {}

    def __enter__(self) -> RayEngine:
        """Check what can be checked at once: that Ray is installed, and that the cluster answers."""
        require_ray()
        if self.address is not None:
            probe(self.address)
        return self

    def __exit__(self, *error: Any) -> None:
        self._ray = None
        self._session.__exit__(*error)

    def pool(
        self,
        function: Function,
        setup: Setup,
        *,
        workers: int = 0,
        timeout: float | None = 60.0,
        threads: int = 1,
        gpus: float = 0.0,
    ) -> RayPool:
        """Return a pool of the cluster's workers; `workers` is for one machine, and not used here."""
        del workers
        return RayPool(self, function, setup, timeout, threads, gpus)

    def parallel(self, workers: int = 0) -> int:
        """Return how many tasks run at once; asks the cluster where `workers` of the engine does not say."""
        del workers
        if self.workers or self.address is None:
            return self.workers or cores()
        return max(1, int(self.ray().cluster_resources().get("CPU", 1)))

    def ray(self) -> Any:
        """Return the module `ray`, connected.

        Raises
        ------
        ConfigError
            No cluster, or one whose workers do not find this project.
        """
        if self._ray is None:
            ray = self._session.enter_context(
                connect(self.address, self.workers or cores(), object_store=self._object_store)
            )
            try:
                ray.get(ray.remote(hello).remote())
            except ray.exceptions.RayError as error:
                raise _not_at_hand(error) from error
            self._ray = ray
        return self._ray

    def opened(self, specification: Any) -> int:
        """Put what workers need to know of a pool into the object store; return the pool's number."""
        number = next(self._numbers)
        self._open[number] = self.ray().put(specification)
        return number

    def closed(self, number: int) -> None:
        """Forget a pool: workers drop its state when they hear of the next one."""
        self._open.pop(number, None)

    def arguments(self, number: int) -> tuple[int, Any, tuple[int, ...]]:
        """Return what `run_block` needs to know of a pool."""
        return number, self._open[number], tuple(self._open)

    def needs(self, threads: int, gpus: float) -> dict[str, float]:
        """Return what a task takes of the cluster: no node gets more threads than cores, no task waits for ever.

        Raises
        ------
        ConfigError
            GPUs are needed, and no node has them.
        """
        nodes = [node["Resources"] for node in self.ray().nodes() if node["Alive"]]
        if gpus > max((node.get("GPU", 0.0) for node in nodes), default=0.0):
            raise ConfigError("no node of the Ray cluster has a GPU to spare", expected=f"{gpus:g} for each worker")
        # A cluster that was started here has as many CPUs as workers were asked for, whatever the machine has.
        most = max((node.get("CPU", 0.0) for node in nodes), default=1.0)
        return {"num_cpus": 1 if self.address is None else max(1.0, min(threads, most)), "num_gpus": gpus}


class RayPool:
    """One function on a `RayEngine`; see `Pool`."""

    def __init__(
        self, engine: RayEngine, function: Function, setup: Setup, timeout: float | None, threads: int, gpus: float
    ) -> None:
        self._engine, self._function, self._setup, self._timeout = engine, function, setup, timeout
        self._threads, self._gpus = threads, gpus
        self._number: int | None = None

    def __enter__(self) -> RayPool:
        return self

    def __exit__(self, *error: object) -> None:
        if self._number is not None:
            self._engine.closed(self._number)
            self._number = None

    def run(self, tasks: Iterable[Any]) -> Iterator[Event]:
        """Run the tasks; see `Pool.run`. Events of a block of tasks come when the block is done.

        Raises
        ------
        DataError
            A worker could not start; the cluster was lost.
        """
        workers = self._engine.parallel()
        for window in _windows(tasks, workers * BLOCKS_PER_WORKER):
            if self._number is None:
                self._number = self._engine.opened((self._function, self._setup, self._timeout))
            # Code of our own has few and long tasks: each for itself.
            most = 1 if self._timeout is None else MAX_BLOCK_TASKS
            yield from self._events(_blocks(window, workers, most))

    def _events(self, blocks: list[Block]) -> Iterator[Event]:
        waiting = {number for block in blocks for number, _ in block}
        for kind, number, value in self._rows(blocks):
            if kind == "broken":
                raise DataError(f"a worker of {_name(self._function)} cannot work:\n{value}")
            if kind == "item":
                yield Item(number, value)
                continue
            waiting.discard(number)
            yield End(number) if kind == "end" else Failed(number, value, lost=kind == "lost")
        for number in sorted(waiting):
            yield Failed(number, f"its worker was lost {RETRIES + 1} times", lost=True)

    def _rows(self, blocks: list[Block]) -> Iterator[Row]:
        """Stream the rows of the finished blocks."""
        ray = self._engine.ray()
        try:
            data = self._dataset(blocks)
            for batch in data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                for kind, number, value in zip(*(batch[name] for name in ("kind", "task", "value")), strict=True):
                    yield kind.as_py(), number.as_py(), unpickled(value.as_buffer())
        except ray.exceptions.RayError as error:
            text = next((line for line in str(error).splitlines() if line.strip()), "")
            raise DataError(
                "the Ray cluster failed",
                where=_name(self._function),
                got=f"{type(error).__name__}: {text}",
                todo="run the same command again: what is finished is kept",
            ) from error

    def _dataset(self, blocks: list[Block]) -> Any:
        import pyarrow as pa
        import ray.data

        data: Any = ray.data
        _quieten(data)
        tables = [
            pa.table({"task": [number for number, _ in block], "value": pa.array([v for _, v in block], pa.binary())})
            for block in blocks
        ]
        assert self._number is not None  # noqa: S101 - `run` has opened it
        with warnings.catch_warnings():
            # Named options lack this one, and without it Ray would run a block that kills its worker for ever.
            warnings.simplefilter("ignore")
            return data.from_arrow(tables).map_batches(
                run_block,
                batch_size=None,
                batch_format="pyarrow",
                zero_copy_batch=True,
                compute=data.TaskPoolStrategy(size=min(self._engine.parallel(), len(blocks))),
                fn_args=self._engine.arguments(self._number),
                max_retries=RETRIES,
                **self._engine.needs(self._threads, self._gpus),
            )


def _windows(tasks: Iterable[Any], least: int) -> Iterator[Block]:
    """Yield the tasks, numbered and pickled, cut where `WINDOW_BYTES` are full and there are `least` of them."""
    window: Block = []
    held = 0
    for number, task in enumerate(tasks):
        if held >= WINDOW_BYTES and len(window) >= least:
            yield window
            window, held = [], 0
        window.append((number, pickled(task)))
        held += len(window[-1][1])
    if window:
        yield window


def _blocks(window: Block, workers: int, most: int) -> list[Block]:
    """Cut tasks into blocks, in order: even shares, but small enough to spread and to lose."""
    size = min(most, max(1, len(window) // (workers * BLOCKS_PER_WORKER)))
    blocks: list[Block] = []
    room = 0
    for one in window:
        if not blocks or len(blocks[-1]) >= size or len(one[1]) > room:
            blocks.append([])
            room = MAX_BLOCK_BYTES
        blocks[-1].append(one)
        room -= len(one[1])
    return blocks


def _quieten(data: Any) -> None:
    """Leave the terminal to our own progress bar."""
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # A block whose worker was lost too often is dropped, and its tasks are told as failed.
    context.max_errored_blocks = -1


def _not_at_hand(error: Exception) -> ConfigError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ConfigError(
        "the Ray workers cannot import this project",
        expected="the project and its packages in one place on every node (a shared folder, or one image)",
        got=next((line for line in lines if "No module" in line), lines[-1] if lines else type(error).__name__),
        todo="run `ray start` on each node in the project's folder, by the Python of its environment",
    )


def _name(function: Any) -> str:
    return getattr(function, "__name__", None) or getattr(getattr(function, "func", None), "__name__", "?")
