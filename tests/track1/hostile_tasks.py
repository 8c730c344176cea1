"""Functions that test workers run: some hang or die, as a PDF library does on hostile files."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

from track1_mdr.datasets.extract import extract_task


def no_state() -> None:
    pass


def broken_setup() -> None:
    os._exit(3)


def act(_: None, task: tuple[str, int]) -> Iterator[int]:
    """Yield 0..n-1; then do what the task says."""
    what, count = task
    yield from range(count)
    if what == "die":
        os._exit(7)
    if what == "hang":
        time.sleep(600)
    if what == "raise":
        raise RuntimeError("boom")


def extract_or_die(_: None, task: tuple[Path, int, float]) -> Iterator[object]:
    """Extraction that dies at each page whose text says so."""
    for value in extract_task(None, task):
        if "KILL" in getattr(value, "text", ""):
            os._exit(9)
        yield value
