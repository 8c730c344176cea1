"""Colliding items move to another code of the last level by optimal transport (LC-Rec; LETTER)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from common.errors import DataError
from common.tokenizers.base import Quantizer, chunks
from common.tokenizers.packed import RowIndex

EPSILON = 0.003
ITERATIONS = 50
ROUNDS = 20
"""LETTER's values."""
_CELLS = 1 << 22
"""Distances held at once: 32 MiB as float64."""

Distances = Callable[[np.ndarray], np.ndarray]
"""From rows int64 [n] to the squared distances float [n, K] of these items to each code of the last level."""


class HasLastLevel(Protocol):
    """A quantizer that knows its own distances, where decoding every candidate would be slow."""

    def last_level_distances(self, x: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Return float [n, K]: vectors [n, D] with codes [n, L], to each code of the last level."""
        ...


@dataclass(frozen=True)
class Reassigned:
    """Codes int32 [N, L] after the rounds, the rows that still collide, and how many rows have another code now."""

    codes: np.ndarray
    left: np.ndarray
    moved: int


def sinkhorn(
    distances: np.ndarray, allowed: np.ndarray, *, epsilon: float = EPSILON, iterations: int = ITERATIONS
) -> np.ndarray:
    """Return log plans float64 [G, n, K] of G independent transport problems: each item once, no code too often.

    A row sums to one; a column to at most max(1, items / codes), so that the plan is even over codes only where
    there are as many items. LETTER asks for even codes always, which drives two items with 256 codes to choose from
    away from their nearest ones. The inequality is projected on as in Chizat et al. (Math. Comp. 2018).

    Parameters
    ----------
    distances
        Float [G, n, K]. Each problem is scaled to -1..1 first, as LETTER does with a batch, so that `epsilon`
        means the same whatever the data.
    allowed
        Bool [G, n, K]: which code an item may take; a row without one is padding. Codes that nobody may take get none.
    epsilon, iterations
        Entropic regularisation, and rounds of alternate scaling of rows and columns (Cuturi, NeurIPS 2013), here of
        logarithms: nothing underflows at small `epsilon`.
    """
    low = np.where(allowed, distances, np.inf).min(axis=(1, 2), keepdims=True)
    high = np.where(allowed, distances, -np.inf).max(axis=(1, 2), keepdims=True)
    items = allowed.any(axis=2).sum(axis=1).reshape(-1, 1, 1)
    room = np.log(np.maximum(1, items / np.maximum(1, allowed.any(axis=1).sum(axis=1).reshape(-1, 1, 1))))
    with np.errstate(invalid="ignore"):  # a problem without items: inf - inf
        scaled = (distances - (high + low) / 2) / ((high - low) / 2 + 1e-5)
        kernel = np.where(allowed, -scaled / epsilon, -np.inf)
    rows = -_log_sum(kernel, axis=2)
    columns = np.zeros((kernel.shape[0], 1, kernel.shape[2]))
    for _ in range(iterations):
        columns = np.minimum(0, room - _log_sum(kernel + rows, axis=1))
        rows = -_log_sum(kernel + columns, axis=2)
    return kernel + rows + columns


def _log_sum(plan: np.ndarray, axis: int) -> np.ndarray:
    """Return log sum exp; 0 where every entry is -inf, so that subtracting it keeps them so."""
    top = plan.max(axis=axis, keepdims=True)
    top = np.where(np.isneginf(top), 0.0, top)
    with np.errstate(divide="ignore"):
        total = top + np.log(np.exp(plan - top).sum(axis=axis, keepdims=True))
    return np.where(np.isneginf(total), 0.0, total)


def reassign(
    codes: np.ndarray,
    sizes: tuple[int, ...],
    distances: Distances,
    *,
    fixed: int = 0,
    rounds: int = ROUNDS,
    epsilon: float = EPSILON,
) -> Reassigned:
    """Give colliding items other codes of the last level until none collide, in at most `rounds` rounds.

    In each round the colliding items of a prefix share the codes of the last level that no other item with that
    prefix has, by `sinkhorn`. Where two still want one code, the one with more of the plan keeps it for good (ties:
    the smaller row) and the other tries again: unlike in LC-Rec's loop, even equal vectors part. Items that did not
    collide keep all their codes, and the first L - 1 levels never change.

    Parameters
    ----------
    codes, sizes
        Integers [N, L] and the number of codes of each level.
    distances
        See `Distances`; `last_level` makes it from a quantizer.
    fixed
        The first rows, that many, keep their codes whatever collides with them.
    """
    codes = codes.astype(np.int32)
    before = codes[:, -1].copy()
    waiting = _colliding(codes, sizes, fixed)
    settled = np.ones(len(codes), dtype=bool)
    settled[waiting] = False
    prefix = _numbers(codes[:, :-1], sizes[:-1])
    for _ in range(rounds):
        if not len(waiting):
            break
        for rows, places, owners in _problems(waiting, prefix, codes[:, -1], settled, sizes[-1]):
            _share(rows, places, owners, codes, settled, distances(rows), epsilon)
        waiting = waiting[~settled[waiting]]
    left = _colliding(codes, sizes, fixed)
    return Reassigned(codes, left, int((codes[:, -1] != before).sum()))


def last_level(quantizer: Quantizer, x: np.ndarray, codes: np.ndarray) -> Distances:
    """Return the distances of vectors [N, D] (memory-mapped or not) with codes [N, L] to codes of the last level.

    By the quantizer's `last_level_distances` if it has one; otherwise every candidate is decoded.
    """
    if len(x) != len(codes):
        raise DataError("as many vectors as rows of codes", expected=f"{len(codes)} vectors", got=len(x))
    own = getattr(quantizer, "last_level_distances", None)
    size = quantizer.codebook_sizes[-1]

    def distances(rows: np.ndarray) -> np.ndarray:
        vectors = np.concatenate([chunk for _, chunk in chunks(x[rows], quantizer.dim)])
        if own is not None:
            return own(vectors, codes[rows])
        found = np.empty((len(rows), size), dtype=np.float64)
        order = np.lexsort(codes[rows, :-1].T) if codes.shape[1] > 1 else np.arange(len(rows))
        step = max(1, _CELLS // (size * quantizer.dim))
        for start in range(0, len(rows), step):
            part = order[start : start + step]
            prefixes, which = np.unique(codes[rows[part], :-1], axis=0, return_inverse=True)
            candidates = np.repeat(prefixes, size, axis=0)
            candidates = np.column_stack([candidates, np.tile(np.arange(size), len(prefixes))]).astype(np.int32)
            points = quantizer.decode(candidates).reshape(len(prefixes), size, -1)
            difference = vectors[part, None, :].astype(np.float64) - points[which.reshape(-1)]
            found[part] = np.square(difference, out=difference).sum(axis=2)
        return found

    return distances


def _colliding(codes: np.ndarray, sizes: tuple[int, ...], fixed: int) -> np.ndarray:
    """Return the rows from `fixed` on that share their codes with another row, ascending."""
    index = RowIndex(codes, sizes)
    _, counts = index.groups()
    rows = np.sort(index.order[np.repeat(counts > 1, counts)])
    return rows[rows >= fixed]


def _numbers(codes: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    """Return int64 [N], a number 0..G-1 for each different row of codes."""
    if not sizes:
        return np.zeros(len(codes), dtype=np.int64)
    index = RowIndex(codes, sizes)
    starts, counts = index.groups()
    number = np.empty(len(codes), dtype=np.int64)
    number[index.order] = np.repeat(np.arange(len(starts)), counts)
    return number


def _problems(
    waiting: np.ndarray, prefix: np.ndarray, last: np.ndarray, settled: np.ndarray, size: int
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return batches (rows [n], (problem, place) [n, 2], taken bool [G, K]) of prefixes with about as many items."""
    groups, number, counts = np.unique(prefix[waiting], return_inverse=True, return_counts=True)
    order = np.argsort(number, kind="stable")
    place = np.empty(len(waiting), dtype=np.int64)
    place[order] = np.arange(len(waiting)) - np.repeat(np.cumsum(counts) - counts, counts)
    near = np.isin(prefix, groups) & settled
    owners, taken_codes = np.searchsorted(groups, prefix[near]), last[near]
    free = size - np.bincount(owners, minlength=len(groups))
    batches = []
    solvable = np.flatnonzero(free > 0)
    by_size = solvable[np.argsort(counts[solvable], kind="stable")]
    while len(by_size):
        # Neighbours in size share a tensor padded to the largest of them: at most twice the smallest.
        widest = min(2 * int(counts[by_size[0]]), int(counts[by_size[-1]]))
        take = min(int(np.searchsorted(counts[by_size], widest, side="right")), max(1, _CELLS // (widest * size)))
        chosen, by_size = by_size[:take], by_size[take:]
        new = np.full(len(groups), -1)
        new[chosen] = np.arange(take)
        mine = new[number] >= 0
        taken = np.zeros((take, size), dtype=bool)
        theirs = new[owners] >= 0
        taken[new[owners[theirs]], taken_codes[theirs]] = True
        batches.append((waiting[mine], np.column_stack([new[number[mine]], place[mine]]), taken))
    return batches


def _share(
    rows: np.ndarray,
    places: np.ndarray,
    taken: np.ndarray,
    codes: np.ndarray,
    settled: np.ndarray,
    distances: np.ndarray,
    epsilon: float,
) -> None:
    """Solve one batch of problems; give codes to the items that won them, in place."""
    problem, place = places.T
    shape = (len(taken), int(place.max()) + 1, taken.shape[1])
    cost = np.zeros(shape)
    cost[problem, place] = distances
    allowed = np.zeros(shape, dtype=bool)
    allowed[problem, place] = ~taken[problem]
    plan = sinkhorn(cost, allowed, epsilon=epsilon)[problem, place]
    code = plan.argmax(axis=1)
    share = plan[np.arange(len(rows)), code]
    order = np.lexsort((rows, -share, code, problem))
    won = np.ones(len(rows), dtype=bool)
    won[1:] = (np.diff(problem[order]) != 0) | (np.diff(code[order]) != 0)
    winners = order[won]
    codes[rows[winners], -1] = code[winners]
    settled[rows[winners]] = True
