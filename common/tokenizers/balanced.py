"""Assignment of rows to clusters of fixed sizes at (nearly) the smallest total cost, by an auction."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

_ROWS = 48
"""Rows a cluster in a first, small auction that finds where prices start."""
_FEW = 8
"""One row in so many is free: from here on each cluster keeps its rows in a heap, and a round costs what bids."""


@dataclass(frozen=True)
class Assignment:
    """The cluster int64 [N] of each row, and the prices float64 [K] that a next, similar assignment may start from."""

    clusters: np.ndarray
    prices: np.ndarray


def balanced_assignment(
    costs: np.ndarray, sizes: np.ndarray, *, tolerance: float, prices: np.ndarray | None = None
) -> Assignment:
    """Give cluster k exactly `sizes[k]` of the N rows; the total cost is at most N `tolerance` above the smallest.

    The auction algorithm for similar objects (Bertsekas & Castanon, 1989), all free rows bidding at once: each bids
    for the cluster that is cheapest with its price, as much as it would lose at the second; a full cluster keeps the
    highest bids, and its lowest one becomes the price. Coarse bids come first, down to `tolerance` ("epsilon
    scaling"). Equal bids are decided by the row.

    Parameters
    ----------
    costs
        float [N, K].
    sizes
        int [K], sum N.
    tolerance
        Above 0, in units of `costs`.
    prices
        To start from: those of a similar assignment save most of the work.
    """
    count, clusters = costs.shape
    if int(sizes.sum()) != count or (sizes < 0).any():
        raise ValueError(f"sizes need to sum up to {count} rows, got {int(sizes.sum())}")
    if clusters == 1 or not count:
        return Assignment(np.zeros(count, dtype=np.int64), np.zeros(clusters))
    open_ = np.flatnonzero(sizes > 0)
    if len(open_) < clusters:
        inner = balanced_assignment(costs[:, open_], sizes[open_], tolerance=tolerance)
        return Assignment(open_[inner.clusters], np.zeros(clusters))
    if prices is None and count > 2 * _ROWS * clusters:
        prices = _rough(costs, sizes, tolerance)
    found = np.zeros(clusters) if prices is None else prices.copy()
    step = tolerance if prices is not None else max(tolerance, float(np.ptp(costs)) / 8)
    while True:
        owners, found = _auction(costs, sizes, found, step)
        if step <= tolerance:
            return Assignment(owners, found - found.min())
        step = max(step / 5, tolerance)


def _rough(costs: np.ndarray, sizes: np.ndarray, tolerance: float) -> np.ndarray:
    """Return the prices of an assignment of a part of the rows."""
    rows = np.sort(np.random.default_rng(0).choice(len(costs), _ROWS * len(sizes), replace=False))
    share = sizes * (len(rows) / len(costs))
    part = share.astype(np.int64)
    part[np.argsort(part - share, kind="stable")[: len(rows) - int(part.sum())]] += 1
    return balanced_assignment(costs[rows], part, tolerance=tolerance).prices


def _auction(costs: np.ndarray, sizes: np.ndarray, prices: np.ndarray, step: float) -> tuple[np.ndarray, np.ndarray]:
    """Return (clusters, prices) of one auction whose bids rise by `step` at least."""
    prices = prices.copy()
    owners, bids = np.full(len(costs), -1), np.zeros(len(costs))
    free = np.arange(len(costs))
    while len(free) > len(costs) // _FEW:
        total = costs[free] + prices
        rows = np.arange(len(free))
        first = total.argmin(axis=1)
        best = total[rows, first]
        total[rows, first] = np.inf
        owners[free], bids[free] = first, prices[first] + (total.min(axis=1) - best) + step
        asked = np.zeros(len(sizes), dtype=bool)
        asked[first] = True
        bidders = np.flatnonzero(asked[owners])
        order = bidders[np.lexsort((bidders, -bids[bidders], owners[bidders]))]
        groups = owners[order]
        starts = np.searchsorted(groups, groups)
        rank = np.arange(len(order)) - starts
        kept = rank < sizes[groups]
        last = order[rank == sizes[groups] - 1]  # of the clusters that are full
        prices[owners[last]] = bids[last]
        free = np.sort(order[~kept])
        owners[free] = -1
    if len(free):
        _last_rounds(costs, sizes, prices, step, owners, bids, free)
    return owners, prices


def _last_rounds(
    costs: np.ndarray,
    sizes: np.ndarray,
    prices: np.ndarray,
    step: float,
    owners: np.ndarray,
    bids: np.ndarray,
    free: np.ndarray,
) -> None:
    """Go on with the same auction, in place, when few rows are free: there are never more of them later.

    Nearly all rounds are of this kind: some rows that outbid each other by `step`.
    """
    held: list[list[tuple[float, int]]] = [[] for _ in sizes]  # (bid, -row): the least is who goes next
    for row in np.flatnonzero(owners >= 0).tolist():
        held[owners[row]].append((float(bids[row]), -row))
    for heap in held:
        heapq.heapify(heap)
    limits, rows = sizes.tolist(), free.tolist()
    while rows:
        asked = set()
        for row, cluster, bid in zip(rows, *_bids(costs, prices, step, rows), strict=True):
            heapq.heappush(held[cluster], (bid, -row))
            asked.add(cluster)
        rows = []
        for cluster in asked:
            heap, most = held[cluster], limits[cluster]
            while len(heap) > most:
                rows.append(-heapq.heappop(heap)[1])
            if len(heap) == most:
                prices[cluster] = heap[0][0]
    for cluster, heap in enumerate(held):
        for _, row in heap:
            owners[-row] = cluster


def _bids(costs: np.ndarray, prices: np.ndarray, step: float, rows: list[int]) -> tuple[list[int], list[float]]:
    """Return the cluster that each row asks for, and its bid."""
    if len(rows) < 4:
        clusters, bids = [], []
        for row in rows:
            total = costs[row] + prices
            first = int(total.argmin())
            best, total[first] = float(total[first]), np.inf
            clusters.append(first)
            bids.append(float(prices[first]) + (float(total.min()) - best) + step)
        return clusters, bids
    total = costs[rows] + prices
    place = np.arange(len(rows))
    first = total.argmin(axis=1)
    best = total[place, first]
    total[place, first] = np.inf
    return first.tolist(), (prices[first] + (total.min(axis=1) - best) + step).tolist()


def even_sizes(count: int, clusters: int, demand: np.ndarray) -> np.ndarray:
    """Return int64 [K]: `count` split as evenly as whole numbers allow, the larger sizes to the largest demand.

    >>> even_sizes(7, 3, np.array([1, 2, 4])).tolist()
    [2, 2, 3]
    """
    sizes = np.full(clusters, count // clusters)
    sizes[np.argsort(-demand, kind="stable")[: count % clusters]] += 1
    return sizes
