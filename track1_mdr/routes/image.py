"""A CLIP-like image encoder: question text or query image against page images and the figures in them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from common.encoders.base import text_key
from common.encoders.embeddings import Embeddings
from common.encoders.image import OpenClipEncoder
from common.encoders.spread import Coder, Spread, identity_of
from common.encoders.store import EmbeddingStore
from common.engine.base import sendable
from track1_mdr.config import ImageConfig
from track1_mdr.datasets.image_folder import content_keys
from track1_mdr.datasets.tables import Candidates, ImageSource, Passages, Queries, Scored, top_k
from track1_mdr.figures import Box, FigureLimits, find_figures, top_part
from track1_mdr.routes.base import Environment
from track1_mdr.routes.vector_search import INDEX_FROM, OwnedVectors

MAX_FIGURES = 10
"""Figures per passage; all of them are embedded."""
TALL = 2.0
"""A page this many times higher than wide is a web page: its top stands for it, squeezed whole it is a blur."""
_SHARD_IMAGES = 128
_VERSION = 1


class ImageRoute:
    """Route `image`: the passage's best view counts; a query without a usable part says nothing.

    Views of a passage are its page image (or the top of a tall screenshot) and, with `sub_figures`, the
    figures cut out of it. `query` chooses what the query is: `image` or `text` alone, `both` = the mean of
    both unit vectors, `auto` = whatever there is, the mean where there are both.
    """

    def __init__(self, config: ImageConfig, environment: Environment) -> None:
        self.config = config
        self.environment = environment
        self._recipe = partial(
            OpenClipEncoder,
            config.model,
            config.pretrained,
            environment.device,
            batch_size=config.batch_size,
            seed=environment.seed,
        )
        self.encoder = self._recipe()
        self._vectors = np.empty((0, self.encoder.dim), np.float32)
        self._owners = np.empty(0, np.int64)
        self._index: OwnedVectors | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the scores must know of the weights."""
        return self.encoder.notes

    def fit(self, passages: Passages) -> None:
        """Encode the views of the passages that the cache lacks; one that fails is a fault, and has no score."""
        names = passages.table["image_name"].to_list()
        environment = self.environment
        keys = content_keys(passages.images, names, environment.faults, "page image", environment.threads)
        rows = [row for row, key in enumerate(keys) if key is not None]
        coder = PageCoder(self.encoder, passages.images, self.config.sub_figures)
        embeddings = self._store("passage").encode_all(
            [str(keys[row]) for row in rows],
            lambda i: coder.load(rows[i]),
            coder.encode,
            batch_size=self.config.batch_size,
            faults=environment.faults,
            shard=environment.shard,
            what="page images",
            name=lambda i: names[rows[i]] or f"row {rows[i]}",
            spread=self._spread(
                partial(_page_coder, self._recipe, passages.images, self.config.sub_figures), lambda i: rows[i]
            ),
            multi=True,
        )
        present = np.flatnonzero(embeddings.present)
        vectors, _ = embeddings.gather(present)
        self._vectors = vectors.reshape(-1, self.encoder.dim)
        self._owners = np.repeat(np.asarray(rows, dtype=np.int64)[present], embeddings.lengths[present])
        self._index = None

    def score(self, queries: Queries, candidates: Candidates) -> list[Scored]:
        """Return the `top` passages of each query by cosine, in [-1, 1]."""
        vectors, present = self._query_vectors(queries)
        results = [Scored.empty()] * len(queries)
        for rows, members in candidates.groups():
            asked = [query for query in members if present[query]]
            places = np.flatnonzero(np.isin(self._owners, rows))
            if not asked or not len(places):
                continue
            search = self._search_index if len(places) > INDEX_FROM else self._search_all
            for query, scored in zip(asked, search(vectors[asked], places), strict=True):
                results[query] = scored
        return results

    def _search_all(self, queries: np.ndarray, places: np.ndarray) -> list[Scored]:
        """Score every candidate exactly."""
        owners, starts = np.unique(self._owners[places], return_index=True)
        best = np.maximum.reduceat(queries @ self._vectors[places].T, starts, axis=1)
        return [top_k(Scored(owners, row), self.config.top) for row in best.astype(np.float32)]

    def _search_index(self, queries: np.ndarray, places: np.ndarray) -> list[Scored]:
        """Search the index over all views."""
        if self._index is None:
            self._index = OwnedVectors(self._vectors, self._owners, self.environment)
        return self._index.best(queries, places, self.config.top)

    def _spread(self, make: Callable[[], Coder], send: Callable[[int], int]) -> Spread | None:
        """Return how an engine's workers encode; they read the images where they are."""
        environment = self.environment
        if not environment.engine.spreads or not sendable(make):
            return None
        return Spread(environment.engine, make, identity_of(self.encoder), send, device=environment.device)

    def _query_vectors(self, queries: Queries) -> tuple[np.ndarray, np.ndarray]:
        """Return the queries' unit vectors, float32 [Q, D], and which of them there are, bool [Q]."""
        shape, mode = (len(queries), self.encoder.dim), self.config.query
        images, texts = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        has_image, has_text = np.zeros(len(queries), bool), np.zeros(len(queries), bool)
        if mode != "text":
            self._encode_query_images(queries, images, has_image)
        if mode != "image":
            self._encode_query_texts(queries.texts, texts, has_text)
        present = has_image & has_text if mode == "both" else has_image | has_text
        total = images + texts
        lengths = np.linalg.norm(total, axis=1, keepdims=True)
        return total / np.maximum(lengths, 1e-12), present & (lengths[:, 0] > 1e-6)

    def _encode_query_images(self, queries: Queries, vectors: np.ndarray, present: np.ndarray) -> None:
        names = queries.table["image_name"].to_list()
        environment = self.environment
        keys = content_keys(queries.images, names, environment.faults, "query image", environment.threads)
        rows = np.asarray([row for row, key in enumerate(keys) if key is not None], dtype=np.int64)
        coder = QueryImageCoder(self.encoder, queries.images)
        found = self._store("query image").encode_all(
            [str(keys[row]) for row in rows.tolist()],
            lambda i: coder.load(int(rows[i])),
            coder.encode,
            batch_size=self.config.batch_size,
            faults=environment.faults,
            what="query images",
            name=lambda i: names[rows[i]] or f"row {rows[i]}",
            spread=self._spread(partial(_query_coder, self._recipe, queries.images), lambda i: int(rows[i])),
        )
        _put(found, rows, vectors, present)

    def _encode_query_texts(self, texts: list[str], vectors: np.ndarray, present: np.ndarray) -> None:
        rows = np.asarray([row for row, text in enumerate(texts) if text.strip()], dtype=np.int64)
        found = self._store("query text").encode_all(
            [text_key(texts[row]) for row in rows.tolist()],
            lambda i: texts[int(rows[i])],
            self.encoder.encode_texts,
            batch_size=self.config.batch_size,
            faults=self.environment.faults,
            what="questions",
        )
        _put(found, rows, vectors, present)

    def _store(self, role: str) -> EmbeddingStore:
        views = ""
        if role == "passage":
            views = f" views {_VERSION} {TALL} {MAX_FIGURES if self.config.sub_figures else 0} {FigureLimits()}"
        return EmbeddingStore(
            self.environment.cache / "image",
            self.encoder.name,
            self.encoder.revision,
            role,
            self.encoder.preprocessing + views,
            shard_items=_SHARD_IMAGES,
        )


class PageCoder:
    """The views of a passage and their vectors, by its row."""

    def __init__(self, encoder: OpenClipEncoder, images: ImageSource, sub_figures: bool) -> None:
        self._encoder, self._images, self._sub_figures = encoder, images, sub_figures
        self.identity = identity_of(encoder)

    def load(self, sent: int) -> list[np.ndarray]:
        """Return the page's views, prepared."""
        page = self._images.load(sent)
        width, height = page.size
        boxes = [top_part(width, height) if height > TALL * width else Box(0, 0, width, height)]
        if self._sub_figures:
            boxes += find_figures(np.asarray(page), FigureLimits(max_figures=MAX_FIGURES))
        views = [page.crop((box.left, box.top, box.right, box.bottom)) for box in boxes]
        return [self._encoder.prepare(view) for view in views]

    def encode(self, items: list[list[np.ndarray]]) -> list[np.ndarray]:
        """Return the vectors of each page's views."""
        vectors = self._encoder.encode_prepared([view for group in items for view in group])
        return np.split(vectors, np.cumsum([len(group) for group in items])[:-1])


class QueryImageCoder:
    """A query's image and its vector, by the query's row."""

    def __init__(self, encoder: OpenClipEncoder, images: ImageSource) -> None:
        self._encoder, self._images = encoder, images
        self.identity = identity_of(encoder)

    def load(self, sent: int) -> np.ndarray:
        """Return the image, prepared."""
        return self._encoder.prepare(self._images.load(sent))

    def encode(self, items: list[np.ndarray]) -> np.ndarray:
        """Return the images' vectors."""
        return self._encoder.encode_prepared(items)


def _page_coder(recipe: Callable[[], OpenClipEncoder], images: ImageSource, sub_figures: bool) -> PageCoder:
    return PageCoder(recipe(), images, sub_figures)


def _query_coder(recipe: Callable[[], OpenClipEncoder], images: ImageSource) -> QueryImageCoder:
    return QueryImageCoder(recipe(), images)


def _put(found: Embeddings, rows: np.ndarray, vectors: np.ndarray, present: np.ndarray) -> None:
    """Write the vectors that were found into their rows."""
    if found.present.any():
        present[rows[found.present]] = True
        vectors[rows[found.present]] = found.vectors[found.present]
