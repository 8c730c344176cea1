"""Late interaction over text: every question token looks for its best passage token (MaxSim)."""

from __future__ import annotations

from functools import partial

import numpy as np

from common.encoders.colbert import build_token_encoder
from common.encoders.embeddings import MultiEmbeddings
from common.encoders.maxsim import maxsim
from track1_mdr.chunks import Chunks, chunk_passages
from track1_mdr.config import ColbertConfig
from track1_mdr.datasets.tables import Candidates, Passages, Queries, Scored
from track1_mdr.routes.base import Environment
from track1_mdr.routes.text_vectors import chunk_namer, encode_texts, score_groups

_BLOCK_CHUNKS = 256  # token vectors read and compared at once: about 256 x 180 x 384 x 4 B = 71 MB


class ColbertRoute:
    """Mean over question tokens of the best chunk token; a page scores as its best chunk.

    Token vectors stay on disk as float16; memory holds those of `_BLOCK_CHUNKS` chunks at a time. The search
    is exact over all candidates: inside a document that is cheap; over a shared pool (M2KR) it reads the whole
    index once per block of questions, which wants a GPU (`device`) or patience.
    """

    def __init__(self, config: ColbertConfig, environment: Environment) -> None:
        self._config = config
        self._environment = environment
        self._recipe = partial(
            build_token_encoder,
            config.model,
            backend=config.backend,
            query_prompt=config.query_prompt,
            passage_prompt=config.passage_prompt,
            max_tokens=config.max_tokens,
            device=environment.device,
            threads=environment.threads,
        )
        self._encoder = self._recipe()
        self._chunks: Chunks | None = None
        self._vectors: MultiEmbeddings | None = None

    def fit(self, passages: Passages) -> None:
        """Encode the chunks that the cache lacks."""
        self._chunks = chunk_passages(passages.texts, self._config.words, self._config.stride)
        self._vectors = encode_texts(
            self._encoder,
            self._recipe,
            self._chunks.texts,
            "passage",
            self._environment,
            batch_size=self._config.batch_size,
            dtype="float16",
            what="chunks",
            multi=True,
            name=chunk_namer(passages, self._chunks),
        )

    def score(self, queries: Queries, candidates: Candidates) -> list[Scored]:
        """Score the candidates that have text; a query without text says nothing."""
        if self._chunks is None or self._vectors is None:
            raise RuntimeError("call fit before score")
        vectors, owners = self._vectors, self._chunks.owners
        asked: MultiEmbeddings = encode_texts(
            self._encoder,
            self._recipe,
            queries.texts,
            "query",
            self._environment,
            batch_size=self._config.batch_size,
            dtype="float16",
            what="questions",
            multi=True,
        )
        texts = queries.texts

        def score(chunks: np.ndarray, members: list[int], rows: np.ndarray) -> np.ndarray:
            tokens, offsets = asked.gather(members)
            weights = self._rarity([texts[m] for m in members], chunks, len(rows)) if self._config.idf else None
            parts: list[np.ndarray] = []
            for start in range(0, len(chunks), _BLOCK_CHUNKS):
                flat, spans = vectors.gather(chunks[start : start + _BLOCK_CHUNKS])
                parts.append(maxsim(flat, spans, tokens, offsets, weights, self._environment.device))
            return np.concatenate(parts)

        return score_groups(queries, candidates, owners, score, self._config.top)

    def _rarity(self, questions: list[str], chunks: np.ndarray, passages: int) -> np.ndarray:
        """Return the weight of each question token: its inverse document frequency among the passages.

        The formula is BM25's, log(1 + (N - n + 0.5) / (n + 0.5)). Tokens that are no words (markers, start and
        end) get the mean weight of their question's words.
        """
        frequency = self._frequencies(chunks)
        parts: list[np.ndarray] = []
        for question in questions:
            tokens = self._encoder.token_texts(question)
            counts = np.asarray([frequency.get(token, 0) for token in tokens], np.float64)
            weights = np.log1p((passages - counts + 0.5) / (counts + 0.5))
            is_word = np.asarray([bool(token) for token in tokens])
            weights[~is_word] = weights[is_word].mean() if is_word.any() else 1.0
            parts.append(weights.astype(np.float32))
        return np.concatenate(parts)

    def _frequencies(self, chunks: np.ndarray) -> dict[str, int]:
        """Return for each token the number of passages with it, among the passages of `chunks`."""
        assert self._chunks is not None  # noqa: S101 - `score` has checked
        by_owner: dict[int, set[str]] = {}
        for chunk in chunks.tolist():
            words = self._encoder.vocabulary_of(self._chunks.texts[chunk])
            by_owner.setdefault(int(self._chunks.owners[chunk]), set()).update(words)
        frequency: dict[str, int] = {}
        for words in by_owner.values():
            for word in words:
                frequency[word] = frequency.get(word, 0) + 1
        return frequency
