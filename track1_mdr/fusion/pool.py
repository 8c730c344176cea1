"""All routes' scores of one query side by side, with what is missing said so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from track1_mdr.datasets.tables import Scored

RouteScores = Mapping[str, Sequence[Scored]]
"""Route name -> one `Scored` per query."""


@dataclass(frozen=True)
class Pool:
    """The union of the candidates that any route scored for one query.

    `rows` int64 [K], ascending; `values` float64 [K, R], NaN where route r has no score for candidate k;
    `routes` names the R columns.
    """

    rows: np.ndarray
    values: np.ndarray
    routes: tuple[str, ...]

    @classmethod
    def of(cls, scores: RouteScores, query: int) -> Pool:
        """Gather the scores of one query."""
        routes = tuple(scores)
        results = [scores[route][query] for route in routes]
        rows = np.unique(np.concatenate([r.rows for r in results])) if results else np.empty(0, np.int64)
        values = np.full((len(rows), len(routes)), np.nan)
        for column, result in enumerate(results):
            values[np.searchsorted(rows, result.rows), column] = result.scores
        return cls(rows.astype(np.int64), values, routes)


def pools(scores: RouteScores) -> Iterator[Pool]:
    """Yield the pool of each query in order."""
    count = len(next(iter(scores.values()))) if scores else 0
    for query in range(count):
        yield Pool.of(scores, query)


def zscores(values: np.ndarray) -> np.ndarray:
    """Standardise each column of [K, R] over its observed values; NaN stays NaN; a constant column gives 0.

    >>> zscores(np.array([[1.0], [3.0], [np.nan]])).ravel().tolist()
    [-1.0, 1.0, nan]
    """
    observed = ~np.isnan(values)
    count = observed.sum(axis=0).clip(min=1)
    mean = np.where(observed, values, 0).sum(axis=0) / count
    centred = values - mean
    deviation = np.sqrt((np.where(observed, centred, 0) ** 2).sum(axis=0) / count)
    # Equal scores differ by rounding only: their spread is no information.
    flat = deviation <= 1e-9 * np.maximum(np.abs(mean), 1.0)
    return np.where(flat & observed, 0.0, centred / np.where(flat, 1.0, deviation))


def ranks(values: np.ndarray) -> np.ndarray:
    """Return each observed value's rank in its column of [K, R], best = 1; NaN where missing.

    Equal values share their mean rank, so that the order of the rows changes nothing.

    >>> ranks(np.array([[5.0], [9.0], [5.0], [np.nan]])).ravel().tolist()
    [2.5, 1.0, 2.5, nan]
    """
    from scipy.stats import rankdata

    result = np.full(values.shape, np.nan)
    for column in range(values.shape[1]):
        observed = ~np.isnan(values[:, column])
        if observed.any():
            result[observed, column] = rankdata(-values[observed, column])
    return result
