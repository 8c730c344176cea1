"""Passages by their best vector, a chunk's or a view's, searched through an index where there are many."""

from __future__ import annotations

import numpy as np

from common.index.base import VectorIndex, choose_kind
from common.index.build import make_index
from track1_mdr.datasets.tables import Scored, top_k
from track1_mdr.routes.base import Environment

INDEX_FROM = 5_000
"""Candidate sets with more vectors are searched through an index, smaller ones by one matrix product."""
MEMORY = 4 << 30


class OwnedVectors:
    """An index over vectors of which each belongs to a passage.

    Parameters
    ----------
    vectors
        float32 [V, D].
    owners
        int64 [V], ascending: the passage row of each vector.
    """

    def __init__(self, vectors: np.ndarray, owners: np.ndarray, environment: Environment) -> None:
        self._owners = owners
        # A few thousand queries, asked once, do not repay the minutes that a graph takes to build.
        fits = vectors.nbytes <= MEMORY
        self._index: VectorIndex = make_index(
            environment.index,
            vectors.shape[1],
            "flat" if fits else choose_kind(len(owners), vectors.shape[1], MEMORY),
            work=environment.cache,
            seed=environment.seed,
            threads=environment.threads,
            say=environment.say,
        )
        self._index.add(vectors, np.arange(len(owners)))

    def best(self, queries: np.ndarray, places: np.ndarray, top: int) -> list[Scored]:
        """Return the `top` passages of each query by their best vector among `places`, int64, ascending.

        The index is asked for twice as many vectors until they are of enough passages: until the worst one found is
        worse than the best one of the last passage, or all are found.
        """
        every = None if len(places) == len(self._owners) else places
        results: list[Scored | None] = [None] * len(queries)
        wanted, left = min(2 * top, len(places)), np.arange(len(queries))
        while len(left):
            scores, found = self._index.search(queries[left], wanted, every)
            unfinished: list[int] = []
            for query, values, ids in zip(left.tolist(), scores, found, strict=True):
                values, owners = values[ids >= 0], self._owners[ids[ids >= 0]]
                _, first = np.unique(owners, return_index=True)  # best first: the first one of an owner is its best
                kept = top_k(Scored(owners[first], values[first]), top)
                whole = wanted == len(places) or len(values) < wanted
                if whole or (len(kept.rows) == top and values[-1] < kept.scores[-1]):
                    results[query] = kept
                else:
                    unfinished.append(query)
            left, wanted = np.asarray(unfinished, np.int64), min(2 * wanted, len(places))
        return [one for one in results if one is not None]
