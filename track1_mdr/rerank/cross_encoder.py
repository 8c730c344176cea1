"""A cross-encoder reads the question together with the best chunks of each of the top passages."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from common.encoders.base import pair_key
from common.encoders.cross_encoder import build_pair_scorer
from common.encoders.spread import PairCoder, spread_pairs
from common.encoders.store import EmbeddingStore
from common.logits import sigmoid
from track1_mdr.chunks import chunk_passages
from track1_mdr.config import CrossEncoderConfig
from track1_mdr.datasets.tables import Passages, Queries, Scored, top_k
from track1_mdr.routes.base import Environment
from track1_mdr.routes.bm25 import Bm25Index
from track1_mdr.routes.bm25_tokens import Analyzer, TokenIds, tokenize

_SHARD_PAIRS = 256


@dataclass(frozen=True)
class _Pair:
    query: int
    passage: int
    text: str


class CrossEncoderReranker:
    """The reranker `cross_encoder`: a passage scores as the sigmoid of its best chunk's logit.

    Which `chunks` chunks of a passage are read is decided by BM25 among all chunks of the query's top
    passages. Logits are kept in the embedding store by the content of the pair, so that a second run, or one
    with another depth, reads only what is new.
    """

    def __init__(self, config: CrossEncoderConfig, environment: Environment) -> None:
        self._config = config
        self._environment = environment
        self._recipe = partial(
            build_pair_scorer,
            config.model,
            backend=config.backend,
            max_tokens=config.max_tokens,
            device=environment.device,
            threads=environment.threads,
        )
        self._scorer = self._recipe()

    @property
    def depth(self) -> int:
        """How many passages of each query are read."""
        return self._config.depth

    def rerank(self, queries: Queries, passages: Passages, head: list[Scored]) -> list[Scored]:
        """Return the probabilities of each query's `depth` best passages; those without text are left out."""
        heads = [top_k(scored, self._config.depth) for scored in head]
        questions, texts = queries.texts, passages.texts
        pairs = [
            pair for query, scored in enumerate(heads) for pair in self._pairs(query, questions[query], scored, texts)
        ]
        best: list[dict[int, float]] = [{} for _ in heads]
        for pair, probability in zip(pairs, self._probabilities(pairs, questions), strict=True):
            if not np.isnan(probability):
                known = best[pair.query]
                known[pair.passage] = max(known.get(pair.passage, 0.0), float(probability))
        return [_in_order(scored, known) for scored, known in zip(heads, best, strict=True)]

    def _pairs(self, query: int, question: str, scored: Scored, texts: list[str]) -> list[_Pair]:
        """Return the chunks to read: of each passage those that BM25 likes best, the earlier on equal scores."""
        if not question.strip():
            return []
        config = self._config
        rows = scored.rows.tolist()
        chunks = chunk_passages([texts[row] for row in rows], config.words, config.stride)
        asked = tokenize(question)
        vocabulary = {token: place for place, token in enumerate(dict.fromkeys(asked), 1)}
        encode = TokenIds(Analyzer(), vocabulary, [question])
        overlap = Bm25Index([encode(text) for text in chunks.texts], vocabulary, k1=1.2, b=0.75).scores(asked)
        pairs: list[_Pair] = []
        for place, row in enumerate(rows):
            own = np.flatnonzero(chunks.owners == place)
            liked = own[np.argsort(-overlap[own], kind="stable")][: config.chunks]
            pairs += [_Pair(query, row, chunks.texts[chunk]) for chunk in liked]
        return pairs

    def _probabilities(self, pairs: list[_Pair], questions: list[str]) -> np.ndarray:
        """Return float32 [N]; NaN for a pair that the store lacks."""
        store = EmbeddingStore(
            self._environment.cache,
            self._scorer.name,
            self._scorer.revision,
            "pair",
            self._scorer.preprocessing,
            shard_items=_SHARD_PAIRS,
        )
        coder = PairCoder(self._scorer, self._config.batch_size)

        def load(i: int) -> tuple[str, str]:
            return questions[pairs[i].query], pairs[i].text

        logits = store.encode_all(
            [pair_key(questions[pair.query], pair.text) for pair in pairs],
            load,
            coder.encode,
            batch_size=_SHARD_PAIRS,
            faults=self._environment.faults,
            what="pairs",
            spread=spread_pairs(self._environment.engine, self._recipe, coder, load, device=self._environment.device),
        )
        probabilities = np.full(len(pairs), np.nan, np.float32)
        if logits.present.any():
            probabilities[logits.present] = sigmoid(logits.vectors[logits.present, 0])
        return probabilities


def _in_order(scored: Scored, known: dict[int, float]) -> Scored:
    rows = [row for row in scored.rows.tolist() if row in known]
    return Scored(np.asarray(rows, np.int64), np.asarray([known[row] for row in rows], np.float32))
