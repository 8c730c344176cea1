"""The query image against the figures of page screenshots, confirmed by matched keypoints.

The anchor that the 1st and 2nd place used for M2KR, without weights: figures are cut out of every
screenshot; thumbnails choose a shortlist of passages per query; SIFT matches that agree with one homography
(RANSAC) confirm a passage. A query without a confirmed passage says nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from common.errors import DataError
from common.progress import bar
from track1_mdr.config import SubfigureConfig
from track1_mdr.datasets.image_folder import content_keys
from track1_mdr.datasets.tables import Candidates, Passages, Queries, Scored, top_k
from track1_mdr.figure_store import FigureStore, FigureTable, Recipe
from track1_mdr.figures import FigureLimits
from track1_mdr.keypoints import tentative_matches, verify
from track1_mdr.routes.base import Environment

FIGURES_PER_PASSAGE = 3
"""Figures of a shortlisted passage whose keypoints are compared: those most like the query."""
QUERY_BLOCK = 64
FIGURE_BLOCK = 8_192


class SubfigureRoute:
    """Route `subfigure`: needs images on both sides, and no weights."""

    def __init__(self, config: SubfigureConfig, environment: Environment) -> None:
        self.config = config
        self.environment = environment
        limits = replace(FigureLimits(), max_figures=config.max_figures)
        folder = environment.cache / "subfigure"
        self._pages = FigureStore(folder, Recipe("page", limits, config.features), environment.engine)
        self._wholes = FigureStore(folder, Recipe("whole", limits, config.features), environment.engine)
        self._figures: FigureTable | None = None
        self._passages = 0

    def fit(self, passages: Passages) -> None:
        """Cut out and describe the figures of all screenshots; what is in the cache is not done again."""
        environment = self.environment
        names = passages.table["image_name"].to_list()
        keys = content_keys(passages.images, names, environment.faults, "screenshot", environment.threads)
        self._figures = self._pages.describe(
            passages.images,
            keys,
            names,
            workers=environment.threads,
            faults=environment.faults,
            shard=environment.shard,
            what="screenshot",
        )
        self._passages = len(passages)

    def score(self, queries: Queries, candidates: Candidates) -> list[Scored]:
        """Return the confirmed passages of each query; score = `keypoints.Verified.score`, in (0, 1)."""
        if self._figures is None:
            raise RuntimeError("score() needs fit() first")
        environment = self.environment
        names = queries.table["image_name"].to_list()
        keys = content_keys(queries.images, names, environment.faults, "query image", environment.threads)
        wholes = self._wholes.describe(
            queries.images, keys, names, workers=environment.threads, faults=environment.faults, what="query image"
        )
        place = {int(row): i for i, row in enumerate(wholes.rows)}
        results = [Scored.empty()] * len(queries)
        with bar("match keypoints", total=len(place), unit="query") as shown:
            for rows, members in candidates.groups():
                asked = [query for query in members if query in place]
                vectors = wholes.vectors[[place[query] for query in asked]]
                chosen = shortlist(vectors, self._figures, rows, self.config.shortlist)
                for query, figures in zip(asked, chosen, strict=True):
                    results[query] = self._confirm(wholes, place[query], figures)
                    shown.update(1)
        return results

    def _confirm(self, wholes: FigureTable, query: int, figures: np.ndarray) -> Scored:
        """Compare one query with the shortlisted figures; the best figure of a passage counts."""
        table, config = self._table(), self.config
        left = wholes.keypoints(query)
        others = [table.keypoints(int(figure)) for figure in figures]
        best: dict[int, float] = {}
        size = (int(wholes.sizes[query, 0]), int(wholes.sizes[query, 1]))
        for figure, right, pairs in zip(
            figures, others, tentative_matches(left, others, config.min_inliers), strict=True
        ):
            found = verify(left, right, pairs, size, seed=self.environment.seed)
            if found and found.inliers >= config.min_inliers and found.ratio >= config.min_inlier_ratio:
                row = int(table.rows[figure])
                best[row] = max(best.get(row, 0.0), found.score)
        rows = np.asarray(sorted(best), dtype=np.int64)
        return top_k(Scored(rows, np.asarray([best[int(r)] for r in rows], dtype=np.float32)), config.top)

    def _table(self) -> FigureTable:
        if self._figures is None:
            raise DataError("the route is not fitted")
        return self._figures


def shortlist(
    queries: np.ndarray, figures: FigureTable, rows: np.ndarray, passages: int, block: int = QUERY_BLOCK
) -> Iterator[np.ndarray]:
    """Yield for each query the figures to compare: the best few of the `passages` most similar passages.

    Parameters
    ----------
    queries
        float [Q, views, D] vectors; similarity is the best dot product over both pictures' views.
    figures
        The figures of all passages.
    rows
        int64, sorted: the candidate passages.
    passages
        Length of the shortlist.

    Yields
    ------
    numpy.ndarray
        int64 indices into `figures`, ascending. Ties go to the lower passage row and figure.
    """
    allowed = np.flatnonzero(np.isin(figures.rows, rows))
    owners = figures.rows[allowed]
    if len(allowed) == 0:
        yield from ([np.empty(0, np.int64)] * len(queries))
        return
    starts = np.flatnonzero(np.concatenate([[True], owners[1:] != owners[:-1]]))
    ends = np.append(starts[1:], len(owners))
    for first in range(0, len(queries), block):
        similar = _similarities(queries[first : first + block], figures.vectors, allowed)
        by_passage = np.maximum.reduceat(similar, starts, axis=1)
        for values, scores in zip(similar, by_passage, strict=True):
            nearest = np.sort(np.argsort(-scores, kind="stable")[:passages])
            picked = [
                starts[p] + np.argsort(-values[starts[p] : ends[p]], kind="stable")[:FIGURES_PER_PASSAGE]
                for p in nearest
            ]
            yield allowed[np.sort(np.concatenate(picked))]


def _similarities(queries: np.ndarray, vectors: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return the best dot product over all pairs of views, float32 [Q, len(chosen)]."""
    views, dim = vectors.shape[1:]
    left = queries.astype(np.float32).reshape(-1, dim)
    result = np.empty((len(queries), len(chosen)), np.float32)
    for start in range(0, len(chosen), FIGURE_BLOCK):  # as float32, all of them would be gigabytes
        right = vectors[chosen[start : start + FIGURE_BLOCK]].astype(np.float32).reshape(-1, dim)
        products = (left @ right.T).reshape(len(queries), -1, len(right) // views, views)
        result[:, start : start + FIGURE_BLOCK] = products.max(axis=(1, 3))
    return result
