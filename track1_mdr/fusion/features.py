"""What the learned fusion sees of a (question, passage) pair: scores, ranks, neighbours, question and page.

Nothing here names a document or a question. Raw BM25 scores grow with the collection; they stay because the
fusion keeps its gain when a held-out fold is scored as a collection of its own (README, "Results").
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from track1_mdr.config import Coverage
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

    `sparse` routes speak about a few candidates only: their raw score is the feature, 0 where missing.
    """

    sparse: frozenset[str]
    queries: np.ndarray
    pages: np.ndarray

    @classmethod
    def of(cls, queries: Queries, passages: Passages, coverage: Mapping[str, Coverage]) -> FeatureBuilder:
        """Precompute what depends on the question alone and on the passage alone."""
        sparse = frozenset(route for route, kind in coverage.items() if kind == "sparse")
        return cls(sparse, _query_features(queries), _page_features(passages))

    def names(self, routes: Sequence[str]) -> list[str]:
        """Return the names of the columns that `build` gives for these routes."""
        dense = [route for route in routes if route not in self.sparse]
        names = [f"{route}.{kind}" for kind in ("raw", "z", "rank", "gap") for route in dense]
        names += [route for route in routes if route in self.sparse]
        return [*names, "fused", "fused_rank", "fused_before", "fused_after", *QUERY_FEATURES, *PAGE_FEATURES]

    def build(self, pool: Pool, query: int) -> np.ndarray:
        """Return float64 [K, F] for the candidates of `pool`; NaN where a route has no score."""
        dense = [i for i, route in enumerate(pool.routes) if route not in self.sparse]
        sparse = [i for i, route in enumerate(pool.routes) if route in self.sparse]
        values = pool.values[:, dense]
        standard = zscores(values)
        named = np.nan_to_num(pool.values[:, sparse], nan=0.0)
        fused = fill_lowest(standard).mean(axis=1) + named.sum(axis=1)
        before, after = _neighbours(pool.rows, fused)
        own = np.broadcast_to([*self.queries[query], np.log1p(len(pool.rows))], (len(pool.rows), len(QUERY_FEATURES)))
        return np.column_stack(
            [
                values,
                standard,
                np.log(ranks(values)),
                values - np.nanmax(values, axis=0, initial=-np.inf, where=~np.isnan(values)),
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
            if kind in ("raw", "z", "gap") or name in self.sparse or name == "fused":
                signs.append(1)
            elif kind == "rank" or name == "fused_rank":
                signs.append(-1)
            else:
                signs.append(0)
        return signs


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
