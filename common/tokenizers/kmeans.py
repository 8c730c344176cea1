"""K-means on float32 vectors: exact nearest centroids whatever the batch, no cluster left empty."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.errors import DataError
from common.tokenizers.base import check_vectors

SEED_ROWS = 32
"""k-means++ looks at this many rows a centroid (at least 4,096 in all): more cost time and change little."""
_TILE = 1 << 18
"""Scores of a tile (1 MiB of float32): it stays in the second-level cache between the passes."""
_PAIRS = 1 << 14


@dataclass(frozen=True)
class KMeans:
    """Centroids float32 [K, D], and the code int32 [N] of each row they were fitted on: every code occurs."""

    centroids: np.ndarray
    codes: np.ndarray


def nearest(x: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Return int32 [N]: the nearest of `centroids` float32 [K, D] to each row of float32 [N, D], ties to the smallest.

    Matrix products round differently for different batches. So the products only rule out: where a second centroid
    is within their error bound of the first, those few are compared again, each pair by itself, in float64. The
    result is a function of the row alone, not of its place, of the batch or of the threads.
    """
    size, dim = centroids.shape
    codes = np.empty(len(x), dtype=np.int32)
    if size == 1:
        codes[:] = 0
        return codes
    weights, norms = np.ascontiguousarray(-centroids.T), 0.5 * _squares(centroids)
    longest = float(np.sqrt(2 * norms.max()))
    # |fl(x.c) - x.c| <= g |x| |c| with g = D u / (1 - D u), u = 2^-24; the norm, the sum and both sides double it.
    unit = 2.5 * (dim + 4) * 2.0**-24
    tile = max(_TILE // size, 64)
    scores = np.empty((min(tile, len(x)), size), dtype=np.float32)
    for start in range(0, len(x), tile):
        part = x[start : start + tile]
        found = scores[: len(part)]
        with np.errstate(over="ignore", invalid="ignore"):
            np.matmul(part, weights, out=found)
            found += norms
            first = found.argmin(axis=1)
            rows = np.arange(len(part))
            best = found[rows, first]
            found[rows, first] = np.inf
            bound = unit * longest * (np.sqrt(_squares(part)) + longest)
            # Not "gap <= bound": an overflow makes it NaN, and then every centroid is compared.
            near = np.flatnonzero(~(found.min(axis=1) - best > bound))
            if len(near):
                found[near, first[near]] = best[near]
                first[near] = _among(part[near], centroids, ~(found[near] - best[near, None] > bound[near, None]))
        codes[start : start + len(part)] = first
    return codes


def kmeans(x: np.ndarray, size: int, *, seed: int | tuple[int, ...], iterations: int = 25) -> KMeans:
    """Cluster float32 [N, D] into `size` clusters, none empty: k-means++ (Arthur & Vassilvitskii, 2007), then Lloyd.

    A cluster that falls empty is moved onto a row drawn in proportion to its squared distance from its own centroid.
    Stops early when no row changes its cluster.

    Raises
    ------
    DataError
        Fewer rows, or fewer different rows, than clusters.
    """
    check_vectors(x, least=size)
    rng = np.random.default_rng(seed)
    x = np.ascontiguousarray(x, dtype=np.float32)
    centroids = _seeds(x, size, rng)
    codes = nearest(x, centroids)
    for _ in range(iterations):
        centroids = _means(x, codes, centroids, rng)
        before, codes = codes, nearest(x, centroids)
        if np.array_equal(before, codes):
            break
    return _fill(x, centroids, codes)


def squared_distances(x: np.ndarray, centroids: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Return float64 [N], |x - its centroid|^2: 0 for equal vectors only, however small they are."""
    found = np.empty(len(x))
    for start in range(0, len(x), 4096):
        rows = slice(start, start + 4096)
        found[rows] = _squares(x[rows].astype(np.float64) - centroids[codes[rows]])
    return found


def cluster_sums(x: np.ndarray, codes: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (sums float64 [K, D], counts int64 [K]) of the rows of each cluster, added up in their order."""
    from scipy.sparse import csr_array

    counts = np.bincount(codes, minlength=size)
    order = np.argsort(codes, kind="stable")
    starts = np.concatenate([[0], np.cumsum(counts)])
    members = csr_array((np.ones(len(x)), order, starts), shape=(size, len(x)))
    return members @ x, counts


def _squares(x: np.ndarray) -> np.ndarray:
    """|x|^2 of each row."""
    return np.einsum("nd,nd->n", x, x)


def _among(x: np.ndarray, centroids: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Return the nearest of the allowed [n, K] centroids to each row, in float64, ties to the smallest code."""
    rows, codes = np.nonzero(allowed)
    distances = np.empty(len(rows))
    for start in range(0, len(rows), _PAIRS):
        pairs = slice(start, start + _PAIRS)
        difference = x[rows[pairs]].astype(np.float64)
        difference -= centroids[codes[pairs]]
        distances[pairs] = np.square(difference, out=difference).sum(axis=1)
    order = np.lexsort((codes, distances, rows))
    firsts = np.searchsorted(rows, np.arange(len(x)))  # rows come sorted, and each has at least one
    return codes[order[firsts]]


def _seeds(x: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Choose `size` different rows by greedy k-means++ on a part of the rows."""
    most = max(SEED_ROWS * size, 4096)
    pool = x if len(x) <= most else x[np.sort(rng.choice(len(x), most, replace=False))]
    moved = pool - pool.mean(axis=0)  # near the origin less is lost in |x|^2 - 2 x.c + |c|^2
    squares = _squares(moved)
    trials = 1 if size > 512 else 2 + int(np.log(size))
    chosen = [int(rng.integers(len(pool)))]
    left = _from(moved, squares, chosen)[:, 0]
    while len(chosen) < size:
        sums = np.cumsum(left, dtype=np.float64)
        if not sums[-1] > 0:
            return _different(x, size, rng)
        picks = np.searchsorted(sums, rng.random(trials) * sums[-1], side="right")
        picks = np.minimum(picks, len(pool) - 1)
        after = np.minimum(left[:, None], _from(moved, squares, picks))
        best = int(after.sum(axis=0, dtype=np.float64).argmin())
        chosen.append(int(picks[best]))
        left = np.ascontiguousarray(after[:, best])
    return pool[chosen]


def _from(x: np.ndarray, squares: np.ndarray, rows: np.ndarray | list[int]) -> np.ndarray:
    """Return float32 [n, len(rows)], squared distances from these rows; what is rounding alone is 0."""
    scale = squares[:, None] + squares[rows]
    found = scale - 2 * (x @ x[rows].T)
    found[found < 1e-6 * scale] = 0
    return found


def _different(x: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Choose different rows of all of `x` at random, for when the part that k-means++ saw has too few."""
    rows = np.unique(x + np.float32(0), axis=0)  # -0.0 and 0.0 are one value
    if len(rows) < size:
        raise too_few(size, len(rows), len(x))
    return rows[rng.permutation(len(rows))[:size]]


def too_few(size: int, different: int, rows: int, where: str | None = None) -> DataError:
    """Return the error of vectors that are too much alike for a codebook of `size`."""
    return DataError(
        "fewer different vectors than codes: some codes would never be used",
        where=where,
        expected=f"at least {size} different vectors",
        got=f"{different} among {rows}",
        todo="ask for smaller codebooks or fewer levels, or give more vectors",
    )


def _means(x: np.ndarray, codes: np.ndarray, centroids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return each cluster's mean; an empty one goes to a row far from its own centroid."""
    sums, counts = cluster_sums(x, codes, len(centroids))
    empty = np.flatnonzero(counts == 0)
    moved = (sums / np.maximum(counts, 1)[:, None]).astype(np.float32)
    if len(empty):
        weights = squared_distances(x, centroids, codes)
        moved[empty] = centroids[empty]
        candidates = int((weights > 0).sum())
        if candidates:
            count = min(len(empty), candidates)
            moved[empty[:count]] = x[rng.choice(len(x), count, replace=False, p=weights / weights.sum())]
    return moved


def _fill(x: np.ndarray, centroids: np.ndarray, codes: np.ndarray) -> KMeans:
    """Put the centroid of each cluster that is still empty onto the row farthest from its own, until none is."""
    centroids = centroids.copy()
    while len(empty := np.flatnonzero(np.bincount(codes, minlength=len(centroids)) == 0)):
        distances = squared_distances(x, centroids, codes)
        farthest = np.argsort(-distances, kind="stable")
        farthest = farthest[distances[farthest] > 0][: 4 * len(empty)]
        _, order = np.unique(x[farthest], axis=0, return_index=True)
        rows = farthest[np.sort(order)][: len(empty)]
        if not len(rows):
            raise too_few(len(centroids), len(centroids) - len(empty), len(x))  # every row sits on its centroid
        centroids[empty[: len(rows)]] = x[rows]
        codes = nearest(x, centroids)
    return KMeans(centroids, codes)
