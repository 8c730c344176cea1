"""Generative retrieval of pages: a question is translated into the semantic ID of its page (CART, ACL 2025).

The pages get IDs from their text vectors, a small network learns from pseudo-queries of the pages to write the ID of
the page that a text stands on, and a question is decoded over the pages of its document only.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.errors import ConfigError, DataError
from common.hashing import digest
from track1_mdr.cart_config import CartIdsConfig, CartRouteConfig
from track1_mdr.chunks import chunk_passages
from track1_mdr.datasets.tables import Candidates, Passages, Queries, Scored, top_k
from track1_mdr.given_queries import read_given
from track1_mdr.pseudo_queries import PseudoQueries, match_key, pseudo_queries
from track1_mdr.routes.base import Environment
from track1_mdr.routes.text_vectors import chunk_namer, encode_texts, text_encoder

if TYPE_CHECKING:
    from common.generative.cart import Cart, CartConfig
    from common.tokenizers.semantic_ids import SemanticIdMap

_VERSION = 1  # of what makes a model from pages: raise it when the same pages give another model


def page_vectors(vectors: np.ndarray, owners: np.ndarray, pooling: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the passage rows that own chunks, int64 [N], and their pooled, L2-normalised vectors, float32 [N, D].

    `owners` is ascending: a passage's chunks are neighbours.
    """
    rows, starts, counts = np.unique(owners, return_index=True, return_counts=True)
    if not len(rows):
        return rows.astype(np.int64), np.empty((0, vectors.shape[1]), np.float32)
    reduce = np.maximum if pooling == "max" else np.add
    pooled = reduce.reduceat(vectors.astype(np.float64), starts, axis=0)
    if pooling == "mean":
        pooled /= counts[:, None]
    length = np.linalg.norm(pooled, axis=1, keepdims=True)
    return rows.astype(np.int64), (pooled / np.where(length > 0, length, 1)).astype(np.float32)


class CartRoute:
    """Log-probability of a page's semantic ID given the question, among the IDs of the candidates.

    Attributes
    ----------
    rows
        int64 [N], ascending: the passage rows that have an ID; item i of `model` is passage row `rows[i]`.
    model
        The trained generator; None before `fit` and where no passage has text.
    queries
        What it was trained on.
    """

    def __init__(self, config: CartRouteConfig, environment: Environment) -> None:
        self._config = config
        self._environment = environment
        self._recipe = text_encoder(config, environment)
        self._encoder = self._recipe()
        self._fitted = False
        self.rows = np.empty(0, np.int64)
        self.model: Cart | None = None
        self.queries = PseudoQueries()

    def fit(self, passages: Passages) -> None:
        """Give the passages IDs and train on their pseudo-queries; both are taken from the cache where they are there.

        Raises
        ------
        DataError
            The file of the user's own queries cannot be used.
        """
        config, say = self._config, self._environment.say
        given = PseudoQueries() if config.queries is None else read_given(Path(config.queries), passages)
        if config.queries is not None:
            say(f"cart: {len(given)} queries of {config.queries} are for these passages")
        vectors = self._vectors(passages, given)
        if self._environment.shard[1] > 1:  # this job only encodes
            return
        self._fitted = True
        self.rows, pages = vectors
        self.queries = pseudo_queries(passages, config.pseudo).joined(given)
        if not len(self.rows) or not len(self.queries):
            say("cart: no passage has text to learn from, so that this route says nothing")
            return
        say(f"cart: {describe(self.queries, len(self.rows))}")
        self.model = self._trained(pages)

    def score(self, queries: Queries, candidates: Candidates) -> list[Scored]:
        """Decode each question over its candidates that have an ID; a question without text says nothing."""
        if not self._fitted:
            raise RuntimeError("call fit before score")
        results: list[Scored] = [Scored.empty()] * len(queries)
        if self.model is None:
            return results
        self._tell(queries)
        texts = queries.texts
        whole = self.model.trie()
        for rows, members in candidates.groups():
            mask = np.isin(self.rows, rows)
            asked = [query for query in members if texts[query].strip()]
            if not asked or not mask.any():
                continue
            trie = whole if mask.all() else whole.restrict(mask)
            beam = min(self._config.beam, len(trie))
            found = self.model.rank([texts[q] for q in asked], trie, beam=beam, top_k=min(beam, self._config.top))
            for query, items, scores in zip(asked, found.items.numpy(), found.scores.numpy(), strict=True):
                there = items >= 0
                results[query] = top_k(Scored(self.rows[items[there]], scores[there]), self._config.top)
        return results

    def _vectors(self, passages: Passages, given: PseudoQueries) -> tuple[np.ndarray, np.ndarray]:
        """Return rows and vectors of the passages; one without text is what the user's queries say about it."""
        texts = passages.texts
        silent = {row for row in given.rows.tolist() if not texts[row].strip()}
        for text, row in zip(given.texts, given.rows.tolist(), strict=True):
            if row in silent:
                texts[row] = f"{texts[row]} {text}"
        chunks = chunk_passages(texts, self._config.words, self._config.stride)
        vectors = encode_texts(
            self._encoder,
            self._recipe,
            chunks.texts,
            "passage",
            self._environment,
            batch_size=self._config.batch_size,
            dtype="float32",
            what="chunks",
            multi=False,
            name=chunk_namer(passages, chunks),
        ).vectors
        return page_vectors(np.asarray(vectors), chunks.owners, self._config.pooling)

    def _trained(self, pages: np.ndarray) -> Cart:
        """Return the generator of these pages and queries, trained unless the cache has it."""
        from common.generative.cart import Cart, train_cart

        given = self._config.ids.file
        if given is None:
            ids = make_ids(pages, self._config.ids, self._environment.seed)
        else:
            ids = given_ids(Path(given), self.rows)
            self._environment.say(f"cart: IDs of {given}, version {ids.version}")
        config = network(self._config)
        # A given query of a page that has neither text nor ID is not there: such a page got its text from the query.
        targets = np.searchsorted(self.rows, self.queries.rows)
        parts = [config.model_dump_json(), self._encoder.revision, self._environment.seed, *self.queries.texts]
        key = digest("cart", _VERSION, ids.version, targets.astype(np.int64).tobytes(), *parts)
        folder = self._environment.cache / "cart" / key[:32]
        if (folder / "model.json").is_file():
            return Cart.load(folder, ids).to(self._environment.device)
        return train_cart(
            self.queries.texts,
            targets,
            ids,
            config,
            folder=folder,
            seed=self._environment.seed,
            device=self._environment.device,
            say=self._environment.say,
        )

    def _tell(self, queries: Queries) -> None:
        """Say what a user should know of these questions: which get no answer, and which were trained on."""
        asked = [match_key(text) for text in queries.texts if text.strip()]
        if silent := len(queries) - len(asked):
            self._environment.say(f"cart: {silent} questions have no text, only an image: nothing is said on them")
        pairs = zip(self.queries.texts, self.queries.kinds, strict=True)
        given = {match_key(text) for text, kind in pairs if kind == "given"}
        if known := sum(key in given for key in asked):
            self._environment.say(f"cart: {known} questions are in {self._config.queries}: trained on, not held out")


def make_ids(pages: np.ndarray, config: CartIdsConfig, seed: int) -> SemanticIdMap:
    """Return the IDs of page vectors [N, D]; codebooks are cut so that few pages can fill them."""
    from common.generative.cart_ids import CartIds
    from common.generative.cart_ids import CartIdsConfig as Ids
    from common.tokenizers.semantic_ids import SemanticIdMap

    # After each level some residuals are zero, and each level needs as many different ones as it has codes.
    most = max(1, len(np.unique(pages, axis=0)) // (2 + len(config.fine)))
    cut = Ids(coarse=min(config.coarse, most), fine=tuple(min(size, most) for size in config.fine))
    ids = CartIds.fit(pages, cut, seed=seed).id_map
    return SemanticIdMap.random(len(ids), ids.sizes, seed) if config.random else ids


def given_ids(path: Path, rows: np.ndarray) -> SemanticIdMap:
    """Return the IDs that a file has for passage rows [N]; those of other passages are left out.

    Raises
    ------
    ConfigError
        No such file.
    DataError
        Another file, or a passage with text has no ID in it.
    """
    from common.tokenizers.files import read_sids
    from common.tokenizers.semantic_ids import SemanticIdMap

    if not path.is_file():
        raise ConfigError("no such file of IDs", where="ids.file", expected="a parquet file", got=path)
    file = read_sids(path)
    place = np.minimum(np.searchsorted(file.item_ids, rows), max(0, len(file.item_ids) - 1))
    lacking = rows if not len(file.item_ids) else rows[file.item_ids[place] != rows]
    if len(lacking):
        raise DataError(
            f"{len(lacking):,} of {len(rows):,} passages with text have no ID",
            where=path,
            expected="item_id = the passage's row in the task's table, from 0",
            got=f"none for row {', '.join(map(str, lacking[:5].tolist()))}",
            todo="encode the vectors of all passages, in their order; each task's route names a file of its own",
        )
    return SemanticIdMap.from_sids(file.sids[place], file.sizes, levels=file.levels, version=file.version)


def network(config: CartRouteConfig) -> CartConfig:
    """Return the generator's own configuration."""
    from common.generative.cart import CartConfig

    own = config.network.model_dump(exclude={"encoder", "layers", "max_tokens"})
    encoder = {
        "model": "words" if config.network.encoder == "words" else config.model,
        "trainable": config.network.encoder == "trained",
        "layers": config.network.layers,
        "max_tokens": config.network.max_tokens,
    }
    fit = {**config.training.model_dump(exclude={"batch_size"}), "schedule": {"type": "cosine", "warmup_steps": 50}}
    return CartConfig.model_validate({**own, "encoder": encoder, "fit": fit, "batch_size": config.training.batch_size})


def describe(queries: PseudoQueries, pages: int) -> str:
    """Return a line on the training pairs: how many of which kind, and how many pages have none."""
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(Counter(queries.kinds).items()))
    covered = len(np.unique(queries.rows))
    return f"{len(queries):,} training queries ({kinds}) of {covered:,} of {pages:,} passages with text"
