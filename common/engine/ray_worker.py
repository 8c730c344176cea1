"""What runs inside a Ray worker: a block of tasks in, rows of what they gave out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from multiprocessing.reduction import ForkingPickler
from typing import Any

from common.engine.base import End, Function, Item, Setup
from common.engine.local import WorkerPool
from common.errors import UserError

Row = tuple[str, int, Any]
"""(kind, task, value): "item", "end", "failed", "lost"; "broken" says why no task can run."""

unpickled: Callable[[bytes], Any] = ForkingPickler.loads  # pyright: ignore[reportAttributeAccessIssue]

_states: dict[tuple[str, int], _State] = {}


def pickled(value: Any) -> bytes:
    """Return a value as bytes, as they would go through the pipe of a local worker."""
    return bytes(ForkingPickler.dumps(value))


class _State:
    """What a worker keeps of one pool: its function, and the state or the process that has the state."""

    def __init__(self, function: Function, setup: Setup, timeout: float | None) -> None:
        self.function = function
        self.inner = None if timeout is None else WorkerPool(function, setup, 1, timeout)
        self.state = setup() if timeout is None else None

    def rows(self, number: int, task: Any) -> Iterator[Row]:
        """Yield the rows of a task's values and its end."""
        if self.inner is None:
            yield from self._here(number, task)
            return
        for event in self.inner.run([task]):
            if isinstance(event, Item):
                yield "item", number, event.value
            elif isinstance(event, End):
                yield "end", number, None
            else:
                yield "lost" if event.lost else "failed", number, event.reason

    def _here(self, number: int, task: Any) -> Iterator[Row]:
        try:
            for value in self.function(self.state, task):
                yield "item", number, value
        except UserError as error:
            yield "failed", number, str(error)
        except Exception as error:
            yield "failed", number, f"{type(error).__name__}: {error}"
        else:
            yield "end", number, None

    def close(self) -> None:
        """End the process."""
        if self.inner is not None:
            self.inner.close()


def hello() -> None:
    """Be imported, or not: tells whether a worker has the project."""


def run_block(block: Any, number: int, specification: Any, alive: tuple[int, ...]) -> Iterator[Any]:
    """Run the tasks of a block, an arrow table of (task, value); yield tables of (kind, task, value).

    Parameters
    ----------
    number, specification
        The pool, and where in the object store its (function, setup, timeout) is.
    alive
        The pools that are open: a worker drops its state of others.
    """
    try:
        state = _state(number, specification, alive)
        for task, value in zip(block["task"].to_pylist(), block["value"].to_pylist(), strict=True):
            for row in state.rows(task, unpickled(value)):
                yield _table(row)
    except Exception as error:  # of the set-up: what is wrong with a task is in its rows
        said = error.block() if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        yield _table(("broken", -1, said))


def _state(number: int, specification: Any, alive: tuple[int, ...]) -> _State:
    """Return this worker's state of a pool."""
    import ray

    job = ray.get_runtime_context().get_job_id()
    for key in [key for key in _states if key[0] != job or key[1] not in alive]:
        _states.pop(key).close()
    if (job, number) not in _states:
        _states[job, number] = _State(*ray.get(specification))
    return _states[job, number]


def _table(row: Row) -> Any:
    import pyarrow as pa

    kind, number, value = row
    return pa.table({"kind": [kind], "task": [number], "value": pa.array([pickled(value)], pa.large_binary())})
