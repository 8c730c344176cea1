"""Clocks and memory of the process that measures."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.suite.work import Measured, Sample


@dataclass
class Took:
    """Wall and processor seconds of a block; of its ended children too."""

    seconds: float = 0.0
    cpu: float = 0.0

    def sample(self, amount: float) -> Sample:
        """Return the sample of `amount` things done in this time."""
        return Sample(amount, self.seconds, self.cpu)


@contextmanager
def clock() -> Iterator[Took]:
    """Measure a block; the result is filled in at its end."""
    took = Took()
    seconds, cpu = time.perf_counter(), cpu_seconds()
    yield took
    took.seconds, took.cpu = time.perf_counter() - seconds, cpu_seconds() - cpu


def cpu_seconds() -> float:
    """Return user and system time of this process and of its ended children."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def peak() -> int:
    """Return this process's peak of resident memory in bytes.

    VmHWM where there is one: `ru_maxrss` begins with the peak of the process that started this one.
    """
    found = status("VmHWM")
    if found:
        return found
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def resident() -> int:
    """Return this process's resident memory now, in bytes; the peak where it cannot be told."""
    return status("VmRSS") or peak()


def forget_peak() -> None:
    """Let the peak begin anew at what is resident now, where the system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:  # not Linux, or not allowed: the peak then counts what made the inputs
        return


def status(field: str, pid: int | str = "self") -> int:
    """Return a field of /proc/PID/status in bytes; 0 where there is none."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    for line in text.splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return 0


def family(pid: int) -> list[int]:
    """Return a process and all of its descendants, as far as the system tells them."""
    found, todo = [], [pid]
    while todo:
        one = todo.pop()
        found.append(one)
        for task in Path(f"/proc/{one}/task").glob("*/children"):
            try:
                todo += map(int, task.read_text(encoding="ascii").split())
            except OSError:  # it ended between the two calls
                continue
    return found


class Stage:
    """Clock and memory of a stage: made after the imports, before the inputs; `with stage.measured():` the work."""

    def __init__(self) -> None:
        self.base = resident()
        self.took = Took()
        self._clock = clock()

    def __enter__(self) -> Stage:
        forget_peak()
        self.took = self._clock.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._clock.__exit__(*error)

    def result(self, **facts: float) -> Measured:
        """Return what was measured; the peak is filled in when the process ends."""
        return Measured({"stage": Sample(1, self.took.seconds, self.took.cpu)}, facts, None, self.base)
