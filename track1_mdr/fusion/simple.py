"""Fusions without training: reciprocal rank, weighted z-scores, mean rank with anchors."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from common.errors import ConfigError
from track1_mdr.config import MeanRankConfig, RrfConfig, ZScoreConfig
from track1_mdr.datasets.tables import Scored
from track1_mdr.fusion.pool import Pool, RouteScores, pools, ranks, zscores


def reciprocal_rank_fusion(scores: RouteScores, config: RrfConfig) -> list[Scored]:
    """Return sum over routes of weight / (k + rank); a route without a score adds nothing.

    Source: Cormack, Clarke and Buettcher, "Reciprocal rank fusion outperforms Condorcet", SIGIR 2009.
    """
    weights = _weights(scores, config.weights)
    results: list[Scored] = []
    for pool in pools(scores):
        shares = weights / (config.k + ranks(pool.values))
        results.append(_scored(pool, np.nansum(shares, axis=1)))
    return results


def zscore_fusion(scores: RouteScores, config: ZScoreConfig) -> list[Scored]:
    """Return the weighted sum of per-query z-scores over the union of candidates.

    A candidate that a route did not score takes the route's lowest observed z-score of that query: it is
    ranked below what the route found, but other routes can still bring it to the top.
    """
    must_run(scores, config.bonus)
    dense = [route for route in scores if route not in config.bonus or route in config.weights]
    weights = _weights({route: scores[route] for route in dense}, config.weights)
    results: list[Scored] = []
    for pool in pools(scores):
        columns = [pool.routes.index(route) for route in dense]
        standard = zscores(pool.values[:, columns])
        total = fill_lowest(standard) @ weights
        for route, weight in config.bonus.items():
            total += weight * np.nan_to_num(pool.values[:, pool.routes.index(route)], nan=0.0)
        results.append(_scored(pool, total))
    return results


def fill_lowest(standard: np.ndarray) -> np.ndarray:
    """Replace the NaN of each column of [K, R] by the column's lowest observed value; 0 if it has none."""
    observed = ~np.isnan(standard)
    lowest = np.where(observed, standard, np.inf).min(axis=0, initial=np.inf)
    return np.where(observed, standard, np.where(np.isinf(lowest), 0.0, lowest))


def mean_rank_fusion(scores: RouteScores, config: MeanRankConfig) -> list[Scored]:
    """Return minus the mean rank over the routes; a candidate that a route lacks has rank `absent` there.

    A route in `anchors` takes no part in the mean: its best candidate goes to rank 1 when its score exceeds
    the threshold. Source: iLearn, 1st place of the challenge (mean of five experts, visual anchor).
    """
    must_run(scores, config.anchors)
    voters = [route for route in scores if route not in config.anchors]
    results: list[Scored] = []
    for pool in pools(scores):
        columns = [pool.routes.index(route) for route in voters]
        filled = np.nan_to_num(ranks(pool.values[:, columns]), nan=config.absent)
        total = -filled.mean(axis=1) if columns else np.zeros(len(pool.rows))
        for route, threshold in config.anchors.items():
            column = pool.values[:, pool.routes.index(route)]
            if len(column) and np.nanmax(np.nan_to_num(column, nan=-np.inf)) > threshold:
                total[int(np.nanargmax(column))] = 0.0  # every mean rank is below 0
        results.append(_scored(pool, total))
    return results


def _scored(pool: Pool, total: np.ndarray) -> Scored:
    return Scored(pool.rows, total.astype(np.float32))


def _weights(scores: RouteScores, given: Mapping[str, float]) -> np.ndarray:
    must_run(scores, given)
    return np.asarray([given.get(route, 1.0) for route in scores], dtype=np.float64)


def must_run(routes: Collection[str], named: Mapping[str, float]) -> None:
    """Raise `ConfigError` when a fusion names a route that is not among `routes`."""
    unknown = [route for route in named if route not in routes]
    if unknown:
        raise ConfigError(
            f"the fusion names routes that do not run: {', '.join(unknown)}",
            expected=f"some of: {', '.join(routes)}",
            todo="add the route to `routes`, or take its weight out",
        )
