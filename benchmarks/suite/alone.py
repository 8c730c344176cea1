"""A measurement in a process of its own: its memory is its own, and one that fails or hangs ends nothing else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.suite.meter import family, status

ROOT = Path(__file__).resolve().parents[2]
EVERY = 0.1
"""Seconds between two looks at the memory of a family of processes."""


class MeasureError(Exception):
    """A measurement failed, ran out of time, or was killed; the text says which."""


def run_alone(
    call: str, arguments: Mapping[str, Any], *, timeout: float, tree: bool = False, log: Path | None = None
) -> dict[str, Any]:
    """Run `call` with `arguments` in a new process and return its `Measured` as a dictionary.

    `tree`: the peak is the largest sum of resident memory over the process and its descendants (pages that they
    share count in each), sampled ten times a second. What it printed goes into `log`.

    Raises
    ------
    MeasureError
        It failed, wrote nothing, or took longer than `timeout` seconds; the whole group is ended then.
    """
    with tempfile.TemporaryDirectory(prefix="mirc-bench-") as scratch:
        out = Path(scratch) / "found.json"
        place = log or Path(scratch) / "log.txt"
        place.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "benchmarks.suite.child", call, json.dumps(dict(arguments), default=str)]
        load = os.getloadavg()[0]
        started = time.perf_counter()
        with place.open("wb") as printed:
            watched = _watch([*command, str(out)], printed, timeout, tree)
        if watched is None:
            raise MeasureError(f"no result after {timeout:.0f} s")
        code, largest = watched
        if code or not out.is_file():
            raise MeasureError(f"exit code {code}: {_last_line(place)}")
        found = json.loads(out.read_text(encoding="utf-8"))
        if tree:
            found["peak"] = max(largest, found["peak"] or 0)
        return found | {"load": round(load, 2), "wall": round(time.perf_counter() - started, 3)}


def _watch(command: list[str], printed: Any, timeout: float, tree: bool) -> tuple[int, int] | None:
    """Run a command in a group of its own; return its exit code and the family's peak, or None after `timeout`."""
    largest, done = 0, threading.Event()
    child = subprocess.Popen(command, cwd=ROOT, stdout=printed, stderr=subprocess.STDOUT, start_new_session=True)

    def look() -> None:
        nonlocal largest
        while not done.wait(EVERY):
            largest = max(largest, sum(status("VmRSS", pid) for pid in family(child.pid)))

    thread = threading.Thread(target=look, daemon=True)
    if tree:
        thread.start()
    try:
        return child.wait(timeout), largest
    except subprocess.TimeoutExpired:
        return None
    finally:
        done.set()
        _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the child's group, also where only its children are left."""
    for wait, number in ((5.0, signal.SIGTERM), (5.0, signal.SIGKILL)):
        try:
            os.killpg(child.pid, number)
        except (ProcessLookupError, PermissionError):
            break
        try:
            child.wait(wait)
        except subprocess.TimeoutExpired:
            continue
        if number == signal.SIGTERM:
            time.sleep(0.05)  # time for its children to end as well, before they are killed
    child.wait()


def _last_line(log: Path) -> str:
    """Return the last line that says something: of a traceback, the error."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "nothing was printed"
