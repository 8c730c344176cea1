"""Functions that workers run in the tests: they must be importable where a worker is."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import DataError


def nothing() -> None:
    return None


def broken() -> None:
    raise DataError("the model is not there", got=17)


def act(_: Any, task: Any) -> Iterator[Any]:
    """A task says what to do: count, fail, die, hang, or kill the worker around it once."""
    kind, value = task
    if kind == "count":
        yield from range(value)
    elif kind == "pid":
        yield os.getpid()
        time.sleep(value)
    elif kind == "fail":
        yield 0
        raise ValueError(f"bad {value}")
    elif kind == "user":
        raise DataError("wrong data", got=value)
    elif kind == "die":
        yield 0
        os._exit(value)
    elif kind == "hang":
        time.sleep(value)
    elif kind == "kill":  # the worker, the first time only
        yield "before"
        mark = Path(value)
        if not mark.exists():
            mark.touch()
            os.kill(worker(), signal.SIGKILL)
            time.sleep(60)
        yield "after"
    elif kind == "big":
        yield np.full(value, 7, np.uint8)


def worker() -> int:
    """The Ray worker: this process, or the parent of the process that a time limit is watched over."""
    with Path(f"/proc/{os.getppid()}/cmdline").open("rb") as file:
        return os.getppid() if b"ray::" in file.read() else os.getpid()


class Toy:
    """A coder whose vectors follow from the item; some items cannot be loaded, and each batch takes its time."""

    identity = "toy"

    def __init__(self, multi: bool = False, pause: float = 0.0, log: Path | None = None, kill: Path | None = None):
        self.multi, self.pause, self.log, self.kill = multi, pause, log, kill

    def load(self, sent: int) -> int:
        if sent % 17 == 11:
            raise ValueError(f"item {sent} is broken")
        return sent

    def encode(self, items: list[int]) -> Any:
        time.sleep(self.pause)
        if self.kill is not None and 7 in items and not self.kill.exists():
            self.kill.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if self.log is not None:
            with self.log.open("a") as file:
                file.write("".join(f"{item}\n" for item in items))
        if self.multi:
            return [np.outer(np.arange(1, item % 4 + 1), [item, 1 / (item + 1)]).astype(np.float32) for item in items]
        return np.array([[item, item * item, 1 / (item + 1)] for item in items], np.float32)


def encode_toys(folder: Path, items: int, engine: Any, *, multi: bool = False, faults: Any = None, **coder: Any) -> Any:
    """Encode with the toy coder through the embedding store, by `engine`."""
    from common.encoders.spread import Spread
    from common.encoders.store import EmbeddingStore
    from common.faults import FaultLog

    made = Toy(multi, **coder)
    store = EmbeddingStore(folder, "toy", "r1", "passage", "p1", "float16" if multi else "float32", shard_items=8)
    return store.encode_all(
        [f"item {i}" for i in range(items)],
        made.load,
        made.encode,
        batch_size=4,
        faults=FaultLog() if faults is None else faults,
        name=lambda row: f"toy {row}",
        spread=Spread(engine, partial(Toy, multi, **coder), "toy", int) if engine.spreads else None,
        multi=multi,  # type: ignore[arg-type]
    )
