"""One entry to all fusions, and the blend of a reranker's scores into a ranking."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from track1_mdr.config import FusionConfig, LearnedConfig, MeanRankConfig, RrfConfig
from track1_mdr.datasets.tables import Passages, Queries, Scored
from track1_mdr.fusion.pool import RouteScores, zscores
from track1_mdr.fusion.simple import mean_rank_fusion, must_run, reciprocal_rank_fusion, zscore_fusion


def fuse(config: FusionConfig, scores: RouteScores, queries: Queries, passages: Passages) -> list[Scored]:
    """Return one ranking per query from all routes' scores.

    Raises
    ------
    ConfigError
        The fusion names a route that does not run, or was fitted for other routes.
    """
    if isinstance(config, RrfConfig):
        return reciprocal_rank_fusion(scores, config)
    if isinstance(config, MeanRankConfig):
        return mean_rank_fusion(scores, config)
    if isinstance(config, LearnedConfig):
        from track1_mdr.fusion.learned import LearnedFusion, find_model

        return LearnedFusion.load(find_model(config.model)).fuse(scores, queries, passages)
    return zscore_fusion(scores, config)


def check_fusion(config: FusionConfig, routes: Sequence[str]) -> None:
    """Raise before hours of work what `fuse` would raise after them.

    Raises
    ------
    ConfigError
        The fusion names a route that does not run, was fitted for other routes, or is not there.
    DataError
        The fitted fusion is damaged.
    """
    if isinstance(config, LearnedConfig):
        from track1_mdr.fusion.learned import LearnedFusion, find_model

        LearnedFusion.load(find_model(config.model)).check_routes(routes)
        return
    for field in ("weights", "bonus", "anchors"):
        must_run(routes, getattr(config, field, {}))


def blend(fused: list[Scored], reranked: list[Scored], weight: float) -> list[Scored]:
    """Return z-scored `fused` plus `weight` x the reranker's score, 0 where it read nothing.

    Rerankers give probabilities: what they read gains at least nothing over what they did not read.
    """
    results: list[Scored] = []
    for base, extra in zip(fused, reranked, strict=True):
        total = zscores(base.scores.astype(np.float64)[:, None])[:, 0] if len(base.rows) else np.empty(0)
        place = {int(row): i for i, row in enumerate(base.rows)}
        for row, score in zip(extra.rows, extra.scores, strict=True):
            total[place[int(row)]] += weight * float(score)
        results.append(Scored(base.rows, total.astype(np.float32)))
    return results
