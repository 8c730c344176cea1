"""Candidates as Milvus' filter expressions, within the limits of a server."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.index.base import IdTable

MOST_FOUND = 16_384
"""A server gives no more of them for a query."""
IDS_IN_FILTER = 10_000
RANGES_IN_FILTER = 50


@dataclass(frozen=True)
class Filter:
    """An expression (empty: all), and how many vectors it lets through."""

    text: str
    size: int


def filters(table: IdTable, allowed: np.ndarray | None, wanted: int) -> list[Filter]:
    """Return filters that together let each allowed vector through once; the best of all are among the best of each.

    Parameters
    ----------
    table
        The ids that there are.
    allowed
        Those to be let through, int64, ascending, each once and all in `table`; None is all.
    wanted
        How many are asked for. Above `MOST_FOUND` each filter lets no more than that through, so that all are found.

    >>> table = IdTable(np.asarray([2, 3, 5, 8, 9]))
    >>> [one.text for one in filters(table, np.asarray([3, 5, 9]), 2)]
    ['(id >= 3 and id <= 5) or id == 9']
    """
    count = len(table)
    if allowed is None and wanted <= MOST_FOUND:
        return [Filter("", count)]
    places = np.arange(count) if allowed is None else np.searchsorted(table.sorted, allowed)
    if wanted <= MOST_FOUND and len(_runs(places)) > RANGES_IN_FILTER and count - len(places) <= IDS_IN_FILTER:
        return [Filter(f"id not in {_list(np.delete(table.sorted, places))}", len(places))]
    if wanted <= MOST_FOUND and len(_runs(places)) <= RANGES_IN_FILTER:
        return [_one(table, places)]
    size = IDS_IN_FILTER if len(_runs(places)) > RANGES_IN_FILTER else MOST_FOUND
    return [_one(table, places[start : start + size]) for start in range(0, len(places), size)]


def _one(table: IdTable, places: np.ndarray) -> Filter:
    runs = _runs(places)
    if len(runs) > RANGES_IN_FILTER:
        return Filter(f"id in {_list(table.sorted[places])}", len(places))
    parts: list[str] = []
    for run in runs:
        first, last = int(table.sorted[run[0]]), int(table.sorted[run[-1]])
        parts.append(f"id == {first}" if first == last else f"(id >= {first} and id <= {last})")
    return Filter(" or ".join(parts), len(places))


def _runs(places: np.ndarray) -> list[np.ndarray]:
    """Return places that ascend, cut where neighbours in the table are left out."""
    return np.split(places, np.flatnonzero(np.diff(places) != 1) + 1)


def _list(ids: np.ndarray) -> str:
    return f"[{','.join(map(str, ids.tolist()))}]"
