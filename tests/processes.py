"""Training with one thread, and by several real processes, for the tests of what must not differ between them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """For the tests of a module that imports it: with more, sums round otherwise, and Adam makes much of little."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def write_port(path: Path) -> None:
    """Write the number of a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        path.write_text(str(probe.getsockname()[1]))


def fork_all(process: Callable[..., object], calls: Sequence[tuple[Any, ...]]) -> NoReturn:
    """Call `process` in a process of its own for each of `calls`, by fork (what takes long is to import torch); exit.

    The exit code is 0 if none failed.
    """
    children: list[int] = []
    for arguments in calls:
        if not (child := os.fork()):
            try:
                process(*arguments)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        children.append(child)
    status = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    sys.exit(max(map(abs, status)))


def run_module(root: Path, *arguments: str) -> None:
    """Run `python -m` with the arguments, one thread a process; it must end well."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
