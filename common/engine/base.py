"""The Engine contract: a generator function over many tasks, in workers that may be lost, events back as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from typing import Any, ClassVar, Protocol

Function = Callable[[Any, Any], Iterator[Any]]
"""`function(state, task)` yields the values of a task; a function of a module, or a `functools.partial` of one."""
Setup = Callable[[], Any]
"""`setup()` makes a worker's state once; the same."""


@dataclass(frozen=True)
class Item:
    """One value that the function yielded for task `task`."""

    task: int
    value: Any


@dataclass(frozen=True)
class End:
    """Task `task` is finished; nothing more comes for it."""

    task: int


@dataclass(frozen=True)
class Failed:
    """Task `task` ended early: `reason` in words; `lost` when the process died or was late."""

    task: int
    reason: str
    lost: bool


Event = Item | End | Failed


def sendable(value: object) -> bool:
    """Tell whether a value can be sent to another process."""
    try:
        ForkingPickler.dumps(value)
    except Exception:
        return False
    return True


class Pool(Protocol):
    """Workers with one function, for as long as a `with` block lasts; several runs may follow each other."""

    def __enter__(self) -> Pool: ...

    def __exit__(self, *error: object) -> None: ...

    def run(self, tasks: Iterable[Any]) -> Iterator[Event]:
        """Run the tasks, in order of start; yield events in order of arrival, tasks numbered from 0.

        Each task ends with one `End` or `Failed`; the values of one task come in order.

        Raises
        ------
        DataError
            A worker died or stalled before it was ready: nothing would ever finish.
        """
        ...


class Engine(Protocol):
    """Where pools get their workers from.

    Attributes
    ----------
    name
        "local" or "ray".
    spreads
        Whether encoders run in its pools, on several machines; False: in this process, which has the model.
    """

    name: ClassVar[str]
    spreads: ClassVar[bool]

    def pool(
        self,
        function: Function,
        setup: Setup,
        *,
        workers: int = 0,
        timeout: float | None = 60.0,
        threads: int = 1,
        gpus: float = 0.0,
    ) -> Pool:
        """Return workers that run `function` over tasks.

        Parameters
        ----------
        workers
            Processes on this machine; 0 = one per core. An engine of several machines has a number of its own.
        timeout
            Seconds that may pass between two values of a task. None: code of our own that neither hangs nor
            crashes, and that a lost worker may run again elsewhere.
        threads, gpus
            What each worker uses of its machine, for an engine that has several.
        """
        ...

    def parallel(self, workers: int = 0) -> int:
        """Return how many tasks `pool(..., workers=workers)` runs at once."""
        ...
