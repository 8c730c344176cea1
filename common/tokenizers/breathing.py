"""A better start for k-means: centroids are added where the error is and removed where none would be missed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.tokenizers.parallel import over_rows

ROUNDS = 8
_TILE = 1 << 18


@dataclass(frozen=True)
class _State:
    """Centroids [K, D], and of each row: its cluster, and its squared distances from the two nearest centroids."""

    centroids: np.ndarray
    codes: np.ndarray
    first: np.ndarray
    second: np.ndarray

    @property
    def error(self) -> float:
        return float(self.first.sum(dtype=np.float64))


def breathe(x: np.ndarray, centroids: np.ndarray, rng: np.random.Generator, rounds: int = ROUNDS) -> np.ndarray:
    """Return centroids float32 [K, D] of a smaller error than the given ones on float32 [n, D].

    Breathing k-means (Fritzke, 2021): add m centroids in the clusters of the largest error, let them settle, take
    away the m that would be missed least, let the rest settle; keep what is better, halve m otherwise. This gets out
    of the local minima of Lloyd's algorithm in which one centroid has two clusters and two centroids have one.
    """
    size, extra = len(centroids), len(centroids) // 8 + 1
    if size < 3:
        return centroids
    mean = x.mean(axis=0)
    x = x - mean
    squares = np.einsum("nd,nd->n", x, x)
    best = _settle(x, squares, centroids - mean, 3)
    for _ in range(rounds):
        grown = _settle(x, squares, np.concatenate([best.centroids, _new(x, best, extra, rng)]), 1)
        shrunk = _settle(x, squares, grown.centroids[_kept(grown, size)], 2)
        if shrunk.error < best.error * (1 - 1e-4):
            best = shrunk
        elif extra == 1:
            break
        else:
            extra = (extra + 1) // 2
    return best.centroids + mean


def _settle(x: np.ndarray, squares: np.ndarray, centroids: np.ndarray, steps: int) -> _State:
    """Run some of Lloyd's steps; an empty cluster keeps its centroid."""
    from scipy.sparse import csr_array

    state = _measure(x, squares, centroids)
    rows = np.arange(len(x) + 1)
    for _ in range(steps):
        counts = np.bincount(state.codes, minlength=len(centroids))[:, None]
        members = csr_array((np.ones(len(x), np.float32), state.codes, rows), (len(x), len(centroids)))
        centroids = np.where(counts > 0, (members.T @ x) / np.maximum(counts, 1), centroids).astype(np.float32)
        state = _measure(x, squares, centroids)
    return state


def _measure(x: np.ndarray, squares: np.ndarray, centroids: np.ndarray) -> _State:
    """Compare all rows with all centroids, as roughly as float32 has it: what follows chooses among starts only."""
    codes, first, second = np.empty(len(x), np.int64), np.empty(len(x), np.float32), np.empty(len(x), np.float32)
    turned, norms = (-2 * centroids).T, np.einsum("nd,nd->n", centroids, centroids)
    tile = max(_TILE // len(centroids), 64)

    def work(block: slice) -> None:
        room = np.empty((min(tile, block.stop - block.start), len(centroids)), np.float32)
        for start in range(block.start, block.stop, tile):
            part = slice(start, min(start + tile, block.stop))
            scores = np.matmul(x[part], turned, out=room[: part.stop - part.start])
            scores += norms
            rows, codes[part] = np.arange(len(scores)), scores.argmin(axis=1)
            first[part] = scores[rows, codes[part]]
            scores[rows, codes[part]] = np.inf
            second[part] = scores.min(axis=1)

    over_rows(work, len(x), 4 * tile, tile)
    return _State(centroids, codes, np.maximum(first + squares, 0), np.maximum(second + squares, 0))


def _new(x: np.ndarray, state: _State, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return a row of each of the `count` clusters of the largest error, drawn by its squared distance."""
    errors = np.bincount(state.codes, weights=state.first, minlength=len(state.centroids))
    worst = np.argsort(-errors, kind="stable")[:count]
    keys = rng.exponential(size=len(x)) / np.maximum(state.first, 1e-30)  # the smallest is row i with weight first[i]
    order = np.lexsort((keys, state.codes))
    edges = np.searchsorted(state.codes[order], worst)
    return x[order[np.minimum(edges, len(x) - 1)]]


def _kept(state: _State, size: int) -> np.ndarray:
    """Return which `size` centroids stay: those go whose rows lose least to their second nearest.

    Of a removed centroid the nearest neighbour stays, since it takes over the rows (unless too few are left to go).
    """
    loss = np.bincount(state.codes, weights=state.second - state.first, minlength=len(state.centroids))
    norms = np.einsum("nd,nd->n", state.centroids, state.centroids)
    between = norms + norms[:, None] - 2 * (state.centroids @ state.centroids.T)
    np.fill_diagonal(between, np.inf)
    neighbours = between.argmin(axis=1)
    gone, frozen = np.zeros(len(loss), dtype=bool), np.zeros(len(loss), dtype=bool)
    order = np.argsort(loss, kind="stable")
    for centroid in order:
        if gone.sum() == len(loss) - size:
            break
        if not frozen[centroid]:
            gone[centroid] = True
            frozen[neighbours[centroid]] = True
    spare = order[~gone[order]][: int((~gone).sum()) - size]
    gone[spare] = True
    return np.flatnonzero(~gone)
