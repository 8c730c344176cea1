"""What a generator is compared with, behind one `Recommender` protocol; and the generator itself behind it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from common.errors import DataError
from common.generative.evaluate import top_k
from common.generative.sequences import Histories, Sequences
from common.index.base import Kind
from common.index.build import IndexSettings, make_index

if TYPE_CHECKING:
    from common.generative.base import GenerativeRetriever
    from common.generative.sasrec import SasRec
    from common.generative.trie import PrefixTrie


class Popularity:
    """The items that the training part holds most often, for everyone alike."""

    name = "popularity"

    def __init__(self, train: Sequences) -> None:
        self.counts = np.bincount(train.items, minlength=len(train.item_ids)).astype(np.float32)

    def scores(self, histories: Histories) -> np.ndarray:
        """Return float32 [Q, N], the counts in each row (a read-only view)."""
        return np.broadcast_to(self.counts, (len(histories), len(self.counts)))

    def recommend(
        self, histories: Histories, k: int, *, allowed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Recommender`."""
        items, scores = top_k(self.counts[None, :], k, allowed)
        return items.repeat(len(histories), axis=0), scores.repeat(len(histories), axis=0)


class DenseRetrieval:
    """Items by the inner product of their vector with the query's, searched with FAISS unless `search_with` says so.

    Parameters
    ----------
    vectors
        float32 [N, D], row i of item row i.
    kind
        Of the index (`common.index.base.choose_kind`); "flat" is exact.
    """

    name = "dense"

    def __init__(self, vectors: np.ndarray, kind: Kind = "flat", seed: int = 7) -> None:
        self.vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        self.kind: Kind = kind
        self.seed = seed
        self.search_with(IndexSettings(), Path())

    def search_with(self, settings: IndexSettings, work: Path, say: Callable[[str], None] = lambda _: None) -> None:
        """Search the vectors with another engine from now on; see `common.index.build.make_index`."""
        self.index = make_index(settings, self.vectors.shape[1], self.kind, work=work, seed=self.seed, say=say)
        self.index.add(self.vectors, np.arange(len(self.vectors)))

    def queries(self, histories: Histories) -> np.ndarray:
        """Return the query vectors float32 [Q, D]."""
        raise NotImplementedError

    def scores(self, histories: Histories) -> np.ndarray:
        """Return float32 [Q, N], exact whatever the index."""
        return self.queries(histories) @ self.vectors.T

    def recommend(
        self, histories: Histories, k: int, *, allowed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Recommender`."""
        candidates = None if allowed is None else np.flatnonzero(allowed)
        scores, items = self.index.search(self.queries(histories), k, candidates)
        return items, scores


class NearestEmbedding(DenseRetrieval):
    """The items nearest to the last item of a history, or to the mean of its items, by cosine.

    Nothing is trained. The items of the history compete like others unless they are excluded by the caller; the last
    item itself, which would always come first, does not. An empty history is a zero vector: all items tie.
    """

    def __init__(self, vectors: np.ndarray, mode: Literal["last", "mean"] = "last", kind: Kind = "flat") -> None:
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        super().__init__(vectors / np.maximum(norms, 1e-12), kind)
        self.mode, self.name = mode, f"nearest to {mode}"

    def queries(self, histories: Histories) -> np.ndarray:
        """Return the last item's vector, or the mean of the history's, float32 [Q, D]."""
        made = np.zeros((len(histories), self.vectors.shape[1]), np.float32)
        for query, history in enumerate(histories):
            if len(history):
                made[query] = (
                    self.vectors[history[-1] if self.mode == "last" else history].reshape(-1, made.shape[1]).mean(0)
                )
        return made

    def scores(self, histories: Histories) -> np.ndarray:
        """Return float32 [Q, N]; the last item of each history is -inf."""
        made = super().scores(histories)
        some = np.flatnonzero(histories.lengths)
        made[some, histories.items[histories.ends[some] - 1]] = -np.inf
        return made

    def recommend(
        self, histories: Histories, k: int, *, allowed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Recommender`."""
        items, scores = super().recommend(histories, k + 1, allowed=allowed)
        last = np.array([one[-1] if len(one) else -2 for one in histories], np.int64)
        own = items == last[:, None]
        order = np.argsort(own, axis=1, kind="stable")[:, :k]  # the last item goes to the end, or the k + 1-th does
        rows = np.arange(len(items))[:, None]
        items, scores = np.where(own, -1, items), np.where(own, -np.inf, scores).astype(np.float32)
        return items[rows, order], scores[rows, order]


class SasRecRetrieval(DenseRetrieval):
    """A trained SASRec as dense retrieval: the state after a history is searched among the item embeddings."""

    name = "sasrec"

    def __init__(self, model: SasRec, kind: Kind = "flat") -> None:
        super().__init__(model.item_vectors(), kind)
        self.model = model

    def queries(self, histories: Histories) -> np.ndarray:
        """Return the model's state after each history, float32 [Q, D]."""
        return self.model.user_vectors(histories)

    def score_items(self, histories: Histories, items: np.ndarray) -> np.ndarray:
        """Return the log-probability float32 [Q, K] of item rows int64 [Q, K]: softmax over all; -1 gets -inf."""
        logits = self.scores(histories).astype(np.float64)
        peak = logits.max(axis=1, keepdims=True)
        total = peak + np.log(np.exp(logits - peak).sum(axis=1, keepdims=True))
        chosen = np.take_along_axis(logits, np.maximum(items, 0), axis=1) - total
        return np.where(items >= 0, chosen, -np.inf).astype(np.float32)


class Generated:
    """A generative retriever of sequences: beam search over the trie, which holds the allowed items only.

    Parameters
    ----------
    model
        Takes `TigerBatch`es.
    most
        Items of a history that it is given, the last ones.
    beam
        Width; asked for more items than that, it is widened to their number.
    """

    def __init__(
        self, model: GenerativeRetriever, *, most: int, beam: int = 50, name: str = "tiger", batch: int = 64
    ) -> None:
        self.model, self.most, self.beam, self.name, self.batch = model, most, beam, name, batch
        self.trie: PrefixTrie = model.trie()

    def recommend(
        self, histories: Histories, k: int, *, allowed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Recommender`."""
        from common.generative.tiger_batches import TigerBatch

        trie = self.trie if allowed is None else self.trie.restrict(allowed)
        items = np.full((len(histories), k), -1, np.int64)
        scores = np.full((len(histories), k), -np.inf, np.float32)
        for rows in histories.batches(self.batch, self.most):
            part = histories.take(rows)
            batch = TigerBatch.of([one[-self.most :] for one in part], part.users).to(self.model.device)
            found = self.model.generate(batch, trie, beam=max(self.beam, k), top_k=k)
            items[rows], scores[rows] = found.items.cpu().numpy(), found.scores.cpu().numpy()
        return items, scores

    def score_items(self, histories: Histories, items: np.ndarray) -> np.ndarray:
        """Return the exact log-probability float32 [Q, K] of item rows int64 [Q, K]; -1 is padding, and gets -inf."""
        from common.generative.tiger_batches import TigerBatch

        scores = np.empty(items.shape, np.float32)
        for rows in histories.batches(self.batch, self.most):
            part = histories.take(rows)
            batch = TigerBatch.of([one[-self.most :] for one in part], part.users).to(self.model.device)
            scores[rows] = self.model.score(batch, items[rows]).cpu().numpy()
        return scores


def allowed_items(sequences: Sequences, excluded: list[object], where: object) -> np.ndarray:
    """Return bool [N], False for the excluded (sold out) items.

    Raises
    ------
    DataError
        An id that is not in the data, or nothing is left.
    """
    allowed = np.ones(len(sequences.item_ids), bool)
    allowed[sequences.rows_of(excluded, "items to exclude", where)] = False
    if not allowed.any():
        raise DataError("every item is excluded", where=where, expected="at least one item to recommend")
    return allowed
