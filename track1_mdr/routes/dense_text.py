"""Single-vector text retrieval: a page is as similar to the question as its best chunk."""

from __future__ import annotations

import numpy as np

from common.encoders.embeddings import Embeddings
from track1_mdr.chunks import Chunks, chunk_passages
from track1_mdr.config import DenseTextConfig
from track1_mdr.datasets.tables import Candidates, Passages, Queries, Scored
from track1_mdr.routes.base import Environment
from track1_mdr.routes.text_vectors import chunk_namer, encode_texts, score_groups, take_rows, text_encoder
from track1_mdr.routes.vector_search import OwnedVectors


class DenseTextRoute:
    """Cosine of question and chunk vectors; exact search (a product of two matrices) among the candidates.

    With another index than FAISS, candidates with thousands of chunks are searched there.
    """

    def __init__(self, config: DenseTextConfig, environment: Environment) -> None:
        self._config = config
        self._environment = environment
        self._recipe = text_encoder(config, environment, precision=config.precision)
        self._encoder = self._recipe()
        self._chunks: Chunks | None = None
        self._vectors: Embeddings | None = None
        self._index: OwnedVectors | None = None

    def fit(self, passages: Passages) -> None:
        """Encode the chunks that the cache lacks."""
        self._index = None
        self._chunks = chunk_passages(passages.texts, self._config.words, self._config.stride)
        self._vectors = encode_texts(
            self._encoder,
            self._recipe,
            self._chunks.texts,
            "passage",
            self._environment,
            batch_size=self._config.batch_size,
            dtype="float32",
            what="chunks",
            multi=False,
            name=chunk_namer(passages, self._chunks),
        )

    def score(self, queries: Queries, candidates: Candidates) -> list[Scored]:
        """Score the candidates that have text; a query without text says nothing."""
        if self._chunks is None or self._vectors is None:
            raise RuntimeError("call fit before score")
        vectors = self._vectors.vectors
        questions = encode_texts(
            self._encoder,
            self._recipe,
            queries.texts,
            "query",
            self._environment,
            batch_size=self._config.batch_size,
            dtype="float32",
            what="questions",
            multi=False,
        )
        asked = questions.vectors

        def score(chunks: np.ndarray, members: list[int], rows: np.ndarray) -> np.ndarray:
            del rows
            return take_rows(vectors, chunks) @ asked[members].T

        def search(members: list[int], rows: np.ndarray) -> list[Scored]:
            found = [Scored.empty()] * len(members)
            heard = np.flatnonzero(questions.present[members])
            for place, one in zip(heard, self._search(asked[np.asarray(members)[heard]], rows), strict=True):
                found[place] = one
            return found

        through = search if self._environment.index.engine != "faiss" else None
        return score_groups(queries, candidates, self._chunks.owners, score, self._config.top, through)

    def _search(self, asked: np.ndarray, rows: np.ndarray) -> list[Scored]:
        """Return each question's best passages among `rows` through the index over all chunks."""
        assert self._chunks is not None and self._vectors is not None  # noqa: S101 - fitted
        owners = self._chunks.owners[self._vectors.present]
        if self._index is None:
            self._index = OwnedVectors(self._vectors.vectors[self._vectors.present], owners, self._environment)
        return self._index.best(asked, np.flatnonzero(np.isin(owners, rows)), self._config.top)
