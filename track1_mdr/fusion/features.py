"""What the learned fusion sees of a (question, passage) pair: scores, ranks, neighbours, question and page.

Nothing here names a document or a question: only quantities that mean the same on documents never seen.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from track1_mdr.config import ScoreScale
from track1_mdr.datasets.tables import Passages, Queries
from track1_mdr.fusion.pool import Pool, ranks, zscores
from track1_mdr.fusion.simple import fill_lowest

_VISUAL = re.compile(r"\b(chart|graph|figure|fig|image|picture|photo|diagram|plot|logo|colou?r|icon|map)s?\b", re.I)
_TABULAR = re.compile(r"\b(table|tables|row|rows|column|columns|total|percent|percentage|ratio|amount)\b", re.I)
_COUNT = re.compile(r"\b(how many|number of|how much)\b", re.I)
_CAPTION = re.compile(r"^\s*(?:figure|fig\.?|table|chart|exhibit)\s*\d", re.I | re.M)

QUERY_FEATURES = ("query_words", "query_visual", "query_tabular", "query_count", "query_digits", "candidates")
PAGE_FEATURES = ("page_words", "page_digits", "page_captions", "page_position")


@dataclass(frozen=True)
class FeatureBuilder:
    """Builds the feature matrix of one query's pool.

    `scales` says for each route what its scores mean. Of a sparse route the raw score is the feature, 0 where
    missing. Of the others z-score and rank are, with the raw score where it is absolute, and its share of the
    query's best where it is relative: the raw one would be of another size on another collection.
    """

    scales: Mapping[str, ScoreScale]
    queries: np.ndarray
    pages: np.ndarray

    @classmethod
    def of(cls, queries: Queries, passages: Passages, scales: Mapping[str, ScoreScale]) -> FeatureBuilder:
        """Precompute what depends on the question alone and on the passage alone."""
        return cls(dict(scales), _query_features(queries), _page_features(passages))

    def _of(self, routes: Sequence[str], *scales: ScoreScale) -> list[int]:
        return [place for place, route in enumerate(routes) if self.scales[route] in scales]

    def names(self, routes: Sequence[str]) -> list[str]:
        """Return the names of the columns that `build` gives for these routes."""
        dense = [routes[i] for i in self._of(routes, "absolute", "relative")]
        names = [f"{routes[i]}.raw" for i in self._of(routes, "absolute")]
        names += [f"{routes[i]}.share" for i in self._of(routes, "relative")]
        names += [f"{route}.{kind}" for kind in ("z", "rank", "gap") for route in dense]
        names += [routes[i] for i in self._of(routes, "sparse")]
        return [*names, "fused", "fused_rank", "fused_before", "fused_after", *QUERY_FEATURES, *PAGE_FEATURES]

    def build(self, pool: Pool, query: int) -> np.ndarray:
        """Return float64 [K, F] for the candidates of `pool`; NaN where a route has no score."""
        values = pool.values[:, self._of(pool.routes, "absolute", "relative")]
        standard = zscores(values)
        best = np.nanmax(standard, axis=0, initial=-np.inf, where=~np.isnan(standard))
        named = np.nan_to_num(pool.values[:, self._of(pool.routes, "sparse")], nan=0.0)
        fused = fill_lowest(standard).mean(axis=1) + named.sum(axis=1)
        before, after = _neighbours(pool.rows, fused)
        own = np.broadcast_to([*self.queries[query], np.log1p(len(pool.rows))], (len(pool.rows), len(QUERY_FEATURES)))
        return np.column_stack(
            [
                pool.values[:, self._of(pool.routes, "absolute")],
                _share_of_best(pool.values[:, self._of(pool.routes, "relative")]),
                standard,
                np.log(ranks(values)),
                standard - best,
                named,
                fused,
                np.log(ranks(fused[:, None]))[:, 0],
                before,
                after,
                own,
                self.pages[pool.rows],
            ]
        )

    def monotone(self, routes: Sequence[str]) -> list[int]:
        """Return +1 (-1) for the columns where a better value must never lower (raise) the prediction.

        Scores of routes are evidence for a page by construction; the constraint keeps some thousand pairs
        from teaching the trees otherwise.
        """
        signs: list[int] = []
        for name in self.names(routes):
            kind = name.rpartition(".")[2]
            if kind in ("raw", "share", "z", "gap") or self.scales.get(name) == "sparse" or name == "fused":
                signs.append(1)
            elif kind == "rank" or name == "fused_rank":
                signs.append(-1)
            else:
                signs.append(0)
        return signs


def _share_of_best(values: np.ndarray) -> np.ndarray:
    """Divide each column of [K, R] by its best value; 0 where the best is not positive, NaN where missing."""
    best = np.nanmax(values, axis=0, initial=0.0, where=~np.isnan(values))
    return np.where(np.isnan(values) | (best > 0), values / np.where(best > 0, best, 1.0), 0.0)


def _neighbours(rows: np.ndarray, fused: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the fused score of the passage one row before and one row after; NaN where it is no candidate."""
    before, after = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
    adjacent = np.flatnonzero(np.diff(rows) == 1)
    before[adjacent + 1] = fused[adjacent]
    after[adjacent] = fused[adjacent + 1]
    return before, after


def _query_features(queries: Queries) -> np.ndarray:
    """Return float64 [Q, 5]: words, and whether figures, tables, counts or digits are asked for."""
    rows = [
        [
            len(text.split()),
            bool(_VISUAL.search(text)),
            bool(_TABULAR.search(text)),
            bool(_COUNT.search(text)),
            bool(re.search(r"\d", text)),
        ]
        for text in queries.texts
    ]
    return np.asarray(rows, dtype=np.float64).reshape(len(queries), len(QUERY_FEATURES) - 1)


def _page_features(passages: Passages) -> np.ndarray:
    """Return float64 [N, 4]: log words, share of words with digits, captions, position in the document (0..1)."""
    texts = passages.texts
    documents = passages.table["doc_name"].to_list()
    first: dict[str, int] = {}
    count: dict[str, int] = {}
    for row, name in enumerate(documents):
        first.setdefault(name, row)
        count[name] = count.get(name, 0) + 1
    rows: list[list[float]] = []
    for row, (text, name) in enumerate(zip(texts, documents, strict=True)):
        words = text.split()
        digits = sum(any(c.isdigit() for c in word) for word in words) / max(len(words), 1)
        position = (row - first[name]) / max(count[name] - 1, 1)
        rows.append([float(np.log1p(len(words))), digits, float(len(_CAPTION.findall(text))), position])
    return np.asarray(rows, dtype=np.float64).reshape(len(passages), len(PAGE_FEATURES))
