"""K-means on float32 vectors: exact nearest centroids whatever the batch, no cluster left empty."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.errors import DataError
from common.tokenizers.base import check_vectors
from common.tokenizers.breathing import breathe
from common.tokenizers.parallel import over_rows, single_blas

SEED_ROWS = 32
"""The start looks at this many rows a centroid (at least 4,096 in all): more cost time and change little."""
SETTLED = 1e-3
"""Lloyd stops when no more than this share of the rows changes its cluster."""
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
    codes = np.zeros(len(x), dtype=np.int32)
    if len(centroids) > 1:
        table = _Table(centroids)
        least = max((1 << 22) // centroids.size, 64)
        over_rows(lambda rows: table.nearest(x[rows], codes[rows]), len(x), least)
    return codes


class _Table:
    """Centroids, ready to be compared with rows."""

    def __init__(self, centroids: np.ndarray) -> None:
        size, dim = centroids.shape
        self.centroids = centroids
        self.weights, self.norms = np.ascontiguousarray(-centroids.T), 0.5 * _squares(centroids)
        self.longest = float(np.sqrt(2 * self.norms.max()))
        # |fl(x.c) - x.c| <= g |x| |c| with g = D u / (1 - D u), u = 2^-24; the norm, the sum and both sides double it.
        self.unit = 2.5 * (dim + 4) * 2.0**-24
        self.tile = max(_TILE // size, 64)

    def nearest(self, x: np.ndarray, codes: np.ndarray) -> None:
        """Write the nearest centroid of each row into `codes`, tile by tile."""
        scores = np.empty((min(self.tile, len(x)), len(self.centroids)), dtype=np.float32)
        for start in range(0, len(x), self.tile):
            part = x[start : start + self.tile]
            with np.errstate(over="ignore", invalid="ignore"):
                codes[start : start + len(part)] = self._tile(part, scores[: len(part)])

    def _tile(self, x: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Return the nearest centroid of a few rows; `scores` [n, K] is room to work in: |c|^2 / 2 - x.c."""
        np.matmul(x, self.weights, out=scores)
        scores += self.norms
        rows, first = np.arange(len(x)), scores.argmin(axis=1)
        best = scores[rows, first]
        scores[rows, first] = np.inf
        bound = self.unit * self.longest * (np.sqrt(_squares(x)) + self.longest)
        # Not "gap <= bound": an overflow makes it NaN, and then every centroid is compared.
        near = np.flatnonzero(~(scores.min(axis=1) - best > bound))
        if len(near):
            scores[near, first[near]] = best[near]
            close = ~(scores[near] - best[near, None] > bound[near, None])
            first[near] = _among(x[near], self.centroids, close)
        return first


def kmeans(x: np.ndarray, size: int, *, seed: int | tuple[int, ...], iterations: int = 25) -> KMeans:
    """Cluster float32 [N, D] into `size` clusters, none empty: Lloyd's algorithm from a good start.

    The start: k-means++ (Arthur & Vassilvitskii, 2007) and breathing k-means on a part of the rows.

    A cluster that falls empty is moved onto a row drawn in proportion to its squared distance from its own centroid.
    Stops early when nearly every row (all but 0.1%) keeps its cluster.

    Raises
    ------
    DataError
        Fewer rows, or fewer different rows, than clusters.
    """
    check_vectors(x, least=size)
    rng = np.random.default_rng(seed)
    x = np.ascontiguousarray(x, dtype=np.float32)
    with single_blas():
        centroids = _seeds(x, size, rng)
    codes = nearest(x, centroids)
    sums = ClusterSums(x, codes, size)
    for _ in range(iterations):
        centroids = _means(x, sums, centroids, rng)
        found = nearest(x, centroids)
        if sums.move(found) <= SETTLED * len(x):
            break
    return _fill(x, centroids, sums.codes)


def squared_distances(x: np.ndarray, centroids: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Return float64 [N], |x - its centroid|^2: 0 for equal vectors only, however small they are."""
    found = np.empty(len(x))
    for start in range(0, len(x), 4096):
        rows = slice(start, start + 4096)
        found[rows] = _squares(x[rows].astype(np.float64) - centroids[codes[rows]])
    return found


class ClusterSums:
    """Sums float64 [K, D] and counts int64 [K] of the rows of each cluster; when few rows move, little is added up."""

    def __init__(self, x: np.ndarray, codes: np.ndarray, size: int) -> None:
        self.x, self.size = x, size
        self._start(codes)

    def move(self, codes: np.ndarray) -> int:
        """Take the clusters that rows are in now; return how many rows changed theirs."""
        rows = np.flatnonzero(codes != self.codes)
        if 2 * len(rows) > len(codes):
            self._start(codes)
        elif len(rows):
            added, counts = self._add(rows, codes[rows])
            lost, losses = self._add(rows, self.codes[rows])
            self.sums += added - lost
            self.counts += counts - losses
            self.codes = codes
        return len(rows)

    def _start(self, codes: np.ndarray) -> None:
        self.codes = codes
        self.sums, self.counts = self._add(np.arange(len(codes)), codes)

    def _add(self, rows: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Add these rows of `x` up by their codes, in their order."""
        from scipy.sparse import csr_array

        counts = np.bincount(codes, minlength=self.size)
        starts = np.concatenate([[0], np.cumsum(counts)])
        members = csr_array((np.ones(len(rows)), np.argsort(codes, kind="stable"), starts), (self.size, len(rows)))
        sums = np.zeros((self.size, self.x.shape[1]))
        for start in range(0, self.x.shape[1], 16):  # a block of columns in float64 at a time
            columns = slice(start, start + 16)
            sums[:, columns] = members @ self.x[rows, columns].astype(np.float64)
        return sums, counts


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
    """Choose the first centroids on a part of the rows: greedy k-means++, then breathing k-means."""
    most = max(SEED_ROWS * size, 4096)
    pool = x if len(x) <= most else x[np.sort(rng.choice(len(x), most, replace=False))]
    moved = pool - pool.mean(axis=0)  # near the origin less is lost in |x|^2 - 2 x.c + |c|^2
    squares = _squares(moved)
    trials = 1 if size > 512 else 2 + int(np.log(size))
    chosen = [int(rng.integers(len(pool)))]
    turned = np.ascontiguousarray(moved.T)
    left = _from(turned, squares, moved, chosen)[0]
    while len(chosen) < size:
        sums = np.cumsum(left, dtype=np.float64)
        if not sums[-1] > 0:
            return _different(x, size, rng)
        picks = np.searchsorted(sums, rng.random(trials) * sums[-1], side="right")
        picks = np.minimum(picks, len(pool) - 1)
        after = np.minimum(left, _from(turned, squares, moved, picks))
        best = int(after.sum(axis=1).argmin())
        chosen.append(int(picks[best]))
        left = after[best]
    return breathe(pool, pool[chosen], rng)


def _from(turned: np.ndarray, squares: np.ndarray, x: np.ndarray, rows: np.ndarray | list[int]) -> np.ndarray:
    """Return float32 [len(rows), n], squared distances from these rows of `x`; what is rounding alone is 0."""
    found = (-2 * x[rows]) @ turned
    scale = squares + squares[rows][:, None]
    found += scale
    scale *= np.float32(1e-6)
    found *= found > scale
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


def _means(x: np.ndarray, sums: ClusterSums, centroids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return each cluster's mean; an empty one goes to a row far from its own centroid."""
    moved = (sums.sums / np.maximum(sums.counts, 1)[:, None]).astype(np.float32)
    empty = np.flatnonzero(sums.counts == 0)
    if len(empty):
        weights = squared_distances(x, centroids, sums.codes)
        moved[empty] = centroids[empty]
        count = min(len(empty), int((weights > 0).sum()))
        if count:
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


def count_different(x: np.ndarray) -> int:
    """Return how many different rows float32 [N, D] has, by a random projection of each row."""
    direction = np.random.default_rng(0).normal(size=x.shape[1])
    return len(np.unique(np.einsum("nd,d->n", x, direction, dtype=np.float64)))


def revive(x: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Return the centroids with each one that no row of `x` is nearest to moved onto a far row: none stays dead.

    Raises
    ------
    DataError
        Fewer different rows than centroids.
    """
    return _fill(x, centroids, nearest(x, centroids)).centroids
