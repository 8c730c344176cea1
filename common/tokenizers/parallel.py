"""Row blocks of a computation on several threads, with one BLAS thread each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from itertools import pairwise

from threadpoolctl import ThreadpoolController

from common.experiment import cores


@contextmanager
def single_blas() -> Iterator[None]:
    """Let BLAS use one thread.

    Its own threads wait for each other in every small product: where another program has a core, they take ten
    times as long. Threads over large blocks of rows wait once.
    """
    threads()  # counted before the first limit
    with _controller().limit(limits=1, user_api="blas"):
        yield


def over_rows(work: Callable[[slice], None], rows: int, least: int, step: int = 1) -> None:
    """Call `work` on slices that make up `rows`, on as many threads as help (`least` rows each, or more).

    Slices start at multiples of `step`: work in tiles of that size has the same tiles whatever the threads.
    """
    blocks = max(1, min(threads(), rows // max(least, 1)))
    with single_blas():
        if blocks == 1:
            work(slice(0, rows))
            return
        edges = [rows * block // blocks // step * step for block in range(blocks)] + [rows]
        with ThreadPoolExecutor(blocks) as pool:
            list(pool.map(work, [slice(a, b) for a, b in pairwise(edges)]))


@cache
def threads() -> int:
    """Return the cores of this process, or fewer where BLAS was told to use fewer when it was loaded."""
    told = [int(pool["num_threads"]) for pool in _controller().info() if pool["user_api"] == "blas"]
    return max(1, min([cores(), *told]))


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()
