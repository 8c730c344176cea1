"""BM25 over pages or over chunks of pages (Robertson & Zaragoza 2009)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from track1_mdr.chunks import Chunks, chunk_passages
from track1_mdr.config import Bm25Config
from track1_mdr.datasets.tables import Candidates, Passages, Queries, Scored, top_k
from track1_mdr.routes.base import Environment
from track1_mdr.routes.bm25_tokens import Analyzer, TokenIds

COUNT_UNITS = 256
"""Units whose tokens are counted at once."""


class Bm25Index:
    """BM25 of a few query tokens over text units, in the variant of Lucene (Kamphuis et al. 2020).

    `vocabulary` maps the tokens of all queries to ids from 1; id 0 stands for every other word, which
    counts for the length of a unit only. No query ever scores the others, so that leaving them out changes
    no score, and memory grows with the questions instead of the corpus. Scores are those of bm25s to the last
    bit; a general index counts every token of every unit, this one only those that are asked for.
    """

    def __init__(self, units: Sequence[np.ndarray], vocabulary: dict[str, int], k1: float, b: float) -> None:
        self._size, self._vocabulary = len(units), vocabulary
        lengths = np.asarray([len(unit) for unit in units], dtype=np.int64)
        places, ids, counts = _count_tokens(units, len(vocabulary) + 1)
        order = np.argsort(ids, kind="stable")  # by token, then by unit
        self._units = places[order].astype(np.int32)
        found = np.bincount(ids, minlength=len(vocabulary) + 1)
        self._starts = np.concatenate([[0], np.cumsum(found)])
        rarity = [math.log(1 + (len(units) - n + 0.5) / (n + 0.5)) for n in found.tolist()]
        saturation = k1 * ((1 - b) + b * lengths / lengths.mean()) if lengths.any() else np.ones(len(units))
        times = counts[order].astype(np.float64)
        idf = np.asarray(rarity, np.float32)[ids[order]]
        self._weights = (idf * (times / (saturation[self._units] + times))).astype(np.float32)

    def scores(self, query: Sequence[str]) -> np.ndarray:
        """Return float32 [N] scores; all zero when no query token stands in a unit."""
        scores = np.zeros(self._size, np.float32)
        for token in query:
            number = self._vocabulary[token]
            mine = slice(self._starts[number], self._starts[number + 1])
            scores[self._units[mine]] += self._weights[mine]
        return scores


def _count_tokens(units: Sequence[np.ndarray], tokens: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return unit, token id and count of each token above 0 in each unit, by unit: int64 [M] each."""
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    for first in range(0, len(units), COUNT_UNITS):
        block = units[first : first + COUNT_UNITS]
        ids = np.concatenate(block).astype(np.int64)
        places = np.repeat(np.arange(first, first + len(block)), [len(unit) for unit in block])
        known = ids > 0
        parts.append(np.unique(places[known] * tokens + ids[known], return_counts=True))
    none = np.empty(0, np.int64)
    pairs = np.concatenate([none, *(pair for pair, _ in parts)])
    return pairs // tokens, pairs % tokens, np.concatenate([none, *(count for _, count in parts)])


class TextUnits:
    """Units of text (pages, chunks or layout blocks) and the BM25 score of their passages.

    Document frequencies are counted inside the candidates of a query (`scope="document"`: what sets one
    page apart from the others of its document) or over all units (`scope="collection"`).
    """

    def __init__(
        self, units: Chunks, rows: int, analyzer: Analyzer, *, k1: float, b: float, scope: str, top: int
    ) -> None:
        self._units = units
        self._analyzer = analyzer
        self._rows = rows
        self._k1, self._b, self._scope, self._top = k1, b, scope, top

    def score(self, queries: Queries, candidates: Candidates) -> list[Scored]:
        """Return per query the best unit's score of each candidate that has text."""
        tokens = [self._analyzer.query(text) for text in queries.texts]
        vocabulary = {token: place for place, token in enumerate(dict.fromkeys(t for q in tokens for t in q), 1)}
        encode = TokenIds(self._analyzer, vocabulary, queries.texts)
        ids = [encode(text) for text in self._units.texts]
        whole = Bm25Index(ids, vocabulary, self._k1, self._b) if self._scope == "collection" else None
        results: list[Scored] = [Scored.empty()] * len(queries)
        for rows, members in candidates.groups():
            mine = self._members(rows)
            if not len(mine):
                continue
            index = whole or Bm25Index([ids[i] for i in mine], vocabulary, self._k1, self._b)
            select = slice(None) if whole is None else mine
            for query in members:
                if tokens[query]:
                    results[query] = self._best(index.scores(tokens[query])[select], mine)
        return results

    def _members(self, rows: np.ndarray) -> np.ndarray:
        """Return the units of the passages in `rows`; owners and rows are both ascending."""
        first = np.searchsorted(self._units.owners, rows, side="left")
        last = np.searchsorted(self._units.owners, rows, side="right")
        return np.concatenate([np.arange(a, b) for a, b in zip(first, last, strict=True)]) if len(rows) else rows

    def _best(self, scores: np.ndarray, units: np.ndarray) -> Scored:
        owners = self._units.owners[units]
        starts = np.flatnonzero(np.diff(owners, prepend=-1))
        return top_k(Scored(owners[starts], np.maximum.reduceat(scores, starts)), self._top)


class Bm25Route:
    """BM25 route; `unit: chunk` scores a page by its best chunk."""

    def __init__(self, config: Bm25Config, environment: Environment) -> None:
        self._config = config
        self._units: TextUnits | None = None

    def fit(self, passages: Passages) -> None:
        """Cut the passages into units; tokens are counted when the questions are known."""
        config = self._config
        if config.unit == "chunk":
            units = chunk_passages(passages.texts, config.words, config.stride)
        else:
            units = whole_passages(passages.texts)
        self._units = TextUnits(
            units,
            len(passages),
            Analyzer(config.tokens, config.ngrams),
            k1=config.k1,
            b=config.b,
            scope=config.scope,
            top=config.top,
        )

    def score(self, queries: Queries, candidates: Candidates) -> list[Scored]:
        """Score the candidates that have text; a query without words says nothing."""
        if self._units is None:
            raise RuntimeError("call fit before score")
        return self._units.score(queries, candidates)


def whole_passages(texts: Sequence[str]) -> Chunks:
    """Return each text that has a word as one unit."""
    owners = [row for row, text in enumerate(texts) if text.strip()]
    return Chunks([texts[row] for row in owners], np.asarray(owners, dtype=np.int64))
