"""Works that a test can measure in a moment: what a child process is asked to run."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks.suite.meter import clock
from benchmarks.suite.work import Measured, Sample
from common.errors import DataError


def steady(amount: float, seconds: float, cpu: float | None = None, **facts: float) -> Measured:
    """Say that `amount` things took so long."""
    return Measured({"run": Sample(amount, seconds, cpu)}, facts)


def counted(folder: str, name: str) -> Measured:
    """Append a line to a file: so a test sees what ran, how often, and in which order."""
    with (Path(folder) / "ran.txt").open("a", encoding="utf-8") as file:
        file.write(f"{name}\n")
    return Measured({"run": Sample(1, 1.0)})


def prepared(folder: str) -> None:
    """Prepare: another line."""
    counted(folder, "prepare")


def failing() -> Measured:
    """Fail as user errors do."""
    raise DataError("the vectors are too short", where="x.npy", todo="give longer ones")


def flaky(folder: str) -> Measured:
    """Fail as long as the file `broken` is there."""
    if (Path(folder) / "broken").exists():
        raise RuntimeError("broken for now")
    return counted(folder, "flaky")


def hanging(folder: str) -> Measured:
    """Start a process of its own, say which, and never come to an end."""
    import subprocess
    import sys

    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (Path(folder) / "pid").write_text(str(child.pid), encoding="ascii")
    time.sleep(600)
    raise AssertionError


def large(megabytes: int) -> Measured:
    """Hold some memory for a moment."""
    with clock() as took:
        held = bytearray(megabytes * 2**20)
        for place in range(0, len(held), 4096):
            held[place] = 1
    return Measured({"run": took.sample(1)})


def parent_of_large(megabytes: int) -> Measured:
    """Let a child hold it."""
    import subprocess
    import sys

    code = f"import time; x = b'1' * ({megabytes} * 2**20); time.sleep(0.6)"
    with clock() as took:
        subprocess.run([sys.executable, "-c", code], check=True)
    return Measured({"run": took.sample(1)})
