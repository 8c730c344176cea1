"""Functions that workers run in the tests: they must be importable where a worker is."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
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
