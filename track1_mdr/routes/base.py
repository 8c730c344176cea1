"""The Route contract: what a retrieval route takes and gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from common.engine.base import Engine
from common.engine.local import LOCAL
from common.faults import FaultLog
from common.index.build import IndexSettings
from track1_mdr.datasets.tables import Candidates, Passages, Queries, Scored


@dataclass(frozen=True)
class Environment:
    """What a route may use of the machine; made once at the top and passed down.

    Attributes
    ----------
    cache
        Folder for embedding stores and other work to be kept between runs.
    device
        torch device name: "cpu", "cuda", "mps".
    seed
        The run's seed.
    threads
        CPU threads for one process.
    faults
        Where a failed item is recorded.
    shard
        (i, n): encode only part i (from 0) of n of the passages, for `--shard i/n` jobs; (0, 1) is all.
    say
        Takes a line of the run's report: what a route must tell once it has seen the data.
    engine
        Has the workers for what outgrows this process; see `common.engine`.
    index
        What searches vectors where a route uses an index.
    """

    cache: Path
    device: str = "cpu"
    seed: int = 7
    threads: int = 2
    faults: FaultLog = field(default_factory=FaultLog)
    shard: tuple[int, int] = (0, 1)
    say: Callable[[str], None] = lambda _: None
    engine: Engine = LOCAL
    index: IndexSettings = IndexSettings()  # noqa: RUF009 - frozen


class Route(Protocol):
    """A retrieval route. Implementations are built with (config, environment) and hold no global state."""

    def fit(self, passages: Passages) -> None:
        """Index the passages: build the lexical index, encode and cache the embeddings."""
        ...

    def score(self, queries: Queries, candidates: Candidates) -> list[Scored]:
        """Return one `Scored` per query, over a subset of that query's candidates.

        A candidate left out has no score from this route; fusion handles it explicitly.
        """
        ...
