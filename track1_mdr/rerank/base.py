"""The Reranker contract: a slow, careful second look at the best passages of each query."""

from __future__ import annotations

from typing import Protocol

from track1_mdr.datasets.tables import Passages, Queries, Scored


class Reranker(Protocol):
    """A reranker. Implementations are built with (config, environment) and hold no global state."""

    @property
    def depth(self) -> int:
        """How many passages of each query are read."""
        ...

    def rerank(self, queries: Queries, passages: Passages, head: list[Scored]) -> list[Scored]:
        """Return one `Scored` per query over its `depth` best passages in `head`, with this reranker's own score.

        The score is a probability in [0, 1]. A passage that could not be read is left out: it has no score
        from this reranker, and keeps its place by the fused score alone.
        """
        ...
