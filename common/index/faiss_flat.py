"""Exact search of FAISS, to the bit as it sums one product at a time, at the speed of a matrix product.

For a block of queries FAISS takes a matrix product, which is several times as fast, only above a threshold; and it sums
in another order, so that equal vectors may get scores that differ in the last bit. Here the matrix product chooses a
few more than are wanted, these are compared again one at a time, and where an error of rounding could have left one out
the whole is searched the slow way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Search = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]
"""(queries, wanted) to (scores, rows), best first."""

_FEW_QUERIES = 4
_ALWAYS, _NEVER = 0, 2**31 - 1


def faiss_module() -> Any:
    """Import FAISS when it is first needed; its type stubs lack half of it, hence Any."""
    import faiss

    return faiss


class Threshold:
    """Set for a block from how many query values on FAISS takes a matrix product; the old number is put back."""

    def __init__(self, value: int) -> None:
        self.value = value
        self.before = 0

    def __enter__(self) -> None:
        settings = faiss_module().cvar
        self.before = settings.distance_compute_blas_threshold
        settings.distance_compute_blas_threshold = self.value

    def __exit__(self, *_: object) -> None:
        faiss_module().cvar.distance_compute_blas_threshold = self.before


def product_from(dim: int) -> float:
    """Return from how many queries of width `dim` on FAISS takes a matrix product by itself."""
    return faiss_module().cvar.distance_compute_blas_threshold / dim


def among(vectors: np.ndarray) -> Search:
    """Return an exact search of float32 [N, D] vectors that are no index."""
    faiss = faiss_module()

    def search(queries: np.ndarray, wanted: int) -> tuple[np.ndarray, np.ndarray]:
        return faiss.knn(queries, vectors, wanted, metric=faiss.METRIC_INNER_PRODUCT)

    return search


def longest(vectors: np.ndarray) -> float:
    """Return the length of the longest of float32 [N, D] vectors; 0 for none."""
    return float(np.sqrt(np.einsum("nd,nd->n", vectors, vectors).max(initial=0.0)))


def one_by_one(
    search: Search, take: Callable[[np.ndarray], np.ndarray], count: int, length: float, queries: np.ndarray
) -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
    """Return `wanted` to (scores, rows) [Q, wanted], as `search` gives them below its threshold.

    Parameters
    ----------
    search
        An exact search of FAISS.
    take
        Rows to their vectors.
    count, length
        How many vectors are searched, and the length of the longest.
    queries
        float32 [Q, D].
    """
    dim = queries.shape[1]
    rounding = dim * 2.0**-24 / (1 - dim * 2.0**-24)  # of one sum, as a part of the product of the lengths
    slack = 2 * rounding * 1.01 * np.linalg.norm(queries.astype(np.float64), axis=1) * length

    def find(wanted: int) -> tuple[np.ndarray, np.ndarray]:
        more = wanted + max(16, wanted // 4)
        if len(queries) < _FEW_QUERIES or 4 * more > count or dim > 2**20:
            with Threshold(_NEVER):
                return search(queries, wanted)
        with Threshold(_ALWAYS):
            rough, rows = search(queries, more)
        found, names = np.empty((len(queries), wanted), np.float32), np.empty((len(queries), wanted), np.int64)
        with Threshold(_NEVER):
            for query, chosen in enumerate(rows):
                scores, places = among(take(chosen))(queries[query : query + 1], wanted)
                found[query], names[query] = scores[0], chosen[places[0]]
            unsure = np.flatnonzero(~(found[:, -1] > rough[:, -1] + slack))
            if len(unsure):
                found[unsure], names[unsure] = search(queries[unsure], wanted)
        return found, names

    return find
