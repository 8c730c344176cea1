"""Page images by a vision-language model: every page is encoded once, then compared with every question.

A passage is a matrix [T, D] of unit vectors, whatever the model: the tokens of a page (late interaction), or
one vector each for the page and its figures, or for its chunks of text. A query is a matrix [t, D] as well,
and the score is MaxSim: the sum over the query's vectors of the best product with one of the passage's. With
one query vector that is the cosine of the best page, figure or chunk.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from common.encoders.page_image import PageImageEncoder, Role, Settings, VisualItem, prepare_image
from common.encoders.revision import model_revision
from common.encoders.spread import Spread
from common.encoders.store import EmbeddingStore, MultiEmbeddings
from common.encoders.vlm import free_memory
from common.engine.base import sendable
from common.hashing import digest
from track1_mdr.chunks import chunk_passages
from track1_mdr.config import PageImageConfig
from track1_mdr.datasets.image_folder import content_keys
from track1_mdr.datasets.tables import Candidates, ImageSource, Passages, Queries, Scored, top_k
from track1_mdr.figures import FigureLimits, find_figures
from track1_mdr.routes.base import Environment

_SHARD_PAGES = 64  # a kill loses at most this many pages' work
_BLOCK_VECTORS = 65_536  # passage vectors compared at once: with 512 query vectors, 134 MB of products
_BLOCK_QUERY_VECTORS = 512
_CROPS_VERSION = 1


class PageImageRoute:
    """The route `page_image_late_interaction`; see `PageImageConfig` for what the pieces are."""

    def __init__(self, config: PageImageConfig, environment: Environment) -> None:
        self._config = config
        self._environment = environment
        self._revision = model_revision(config.model)
        self._settings = Settings(
            pooling=config.pooling,
            dtype=config.dtype,
            max_pixels=config.max_pixels,
            last_k=config.last_k,
            end_token=config.end_token,
            query_instruction=config.query_instruction,
            passage_instruction=config.passage_instruction,
            text_tokens=config.text_tokens,
        )
        self._rows = np.empty(0, np.int64)
        self._vectors: MultiEmbeddings | None = None

    def fit(self, passages: Passages) -> None:
        """Encode the passages that the cache lacks; one that fails is a recorded fault, and has no score."""
        keys = self._passage_keys(passages)
        self._rows = np.asarray(sorted(keys), dtype=np.int64)
        table = passages.table
        names = [f"{doc} page {page}" if doc else page for doc, page in table.select("doc_name", "passage_id").rows()]
        coder = self._coder("passage", passages.images)
        texts, alone = passages.texts, self._config.passage == "text"

        def send(i: int) -> tuple[int | None, str]:
            row = int(self._rows[i])
            return None if alone else row, texts[row] or ""

        self._vectors = self._store("passage").encode_all(
            [keys[row] for row in self._rows.tolist()],
            lambda i: coder.load(send(i)),
            coder.encode,
            batch_size=self._config.batch_size,
            faults=self._environment.faults,
            shard=self._environment.shard,
            what="pages",
            name=lambda i: names[int(self._rows[i])],
            spread=self._spread("passage", passages.images, send),
            multi=True,
        )
        coder.release()

    def score(self, queries: Queries, candidates: Candidates) -> list[Scored]:
        """Score the candidates that have vectors; a query without text and image says nothing."""
        if self._vectors is None:
            raise RuntimeError("call fit before score")
        query_rows, query_vectors = self._encode_queries(queries)
        vectors = {row: query_vectors.item(i) for i, row in enumerate(query_rows) if query_vectors.present[i]}
        results = [Scored.empty()] * len(queries)
        for rows, group in candidates.groups():
            asked = [query for query in group if query in vectors]
            for query, scored in zip(
                asked, self._score_group(self._vectors, rows, [vectors[q] for q in asked]), strict=True
            ):
                results[query] = scored
        return results

    def _score_group(self, passages: MultiEmbeddings, rows: np.ndarray, queries: list[np.ndarray]) -> list[Scored]:
        """Score one set of candidates for all queries that share it, a block of passages at a time."""
        places = np.flatnonzero(np.isin(self._rows, rows) & passages.present)
        best = [Scored.empty() for _ in queries]
        if not queries:
            return best
        for block in _blocks(places, passages.lengths):
            flat, offsets = passages.gather(block)
            scores = max_sim(queries, flat, offsets, device=self._environment.device)
            for i, row in enumerate(scores):
                both = Scored(np.concatenate([best[i].rows, self._rows[block]]), np.concatenate([best[i].scores, row]))
                best[i] = top_k(both, self._config.top)
        return best

    def _encode_queries(self, queries: Queries) -> tuple[list[int], MultiEmbeddings]:
        parts = self._query_parts(queries)
        rows = list(parts)
        ids = queries.table["question_id"].to_list()

        coder = self._coder("query", queries.images)

        def send(i: int) -> tuple[int | None, str]:
            text, image = parts[rows[i]]
            return rows[i] if image else None, text

        vectors = self._store("query").encode_all(
            [digest("query", *parts[row]) for row in rows],
            lambda i: coder.load(send(i)),
            coder.encode,
            batch_size=self._config.batch_size,
            faults=self._environment.faults,
            what="questions",
            name=lambda i: f"question {ids[rows[i]]}",
            spread=self._spread("query", queries.images, send),
            multi=True,
        )
        coder.release()
        return rows, vectors

    def _query_parts(self, queries: Queries) -> dict[int, tuple[str, str]]:
        """Return (text, image key) of the queries that have one of them; "" for what is absent or not used."""
        config, table = self._config, queries.table
        keys: list[str | None] = [None] * len(queries)
        if config.query != "text":
            threads, faults = self._environment.threads, self._environment.faults
            keys = content_keys(queries.images, table["image_name"].to_list(), faults, "query image", threads)
        parts: dict[int, tuple[str, str]] = {}
        for row, (instruction, question) in enumerate(table.select("instruction", "question").rows()):
            words = [instruction or "" if config.table_instruction else "", question or ""]
            text = _joined(*words) if config.query != "image" else ""
            if text or keys[row]:
                parts[row] = (text, keys[row] or "")
        return parts

    def _passage_keys(self, passages: Passages) -> dict[int, str]:
        """Return the content keys of the passages that have what the route reads, by row."""
        config = self._config
        reads_text = config.passage == "text" or config.join_text
        texts = [(text or "") if reads_text else "" for text in passages.texts]
        if config.passage == "text":
            return {row: digest("passage", None, text) for row, text in enumerate(texts) if text.strip()}
        names = passages.table["image_name"].to_list()
        threads, faults = self._environment.threads, self._environment.faults
        images = content_keys(passages.images, names, faults, "page image", threads)
        return {row: digest("passage", image, texts[row]) for row, image in enumerate(images) if image is not None}

    def _store(self, role: Role) -> EmbeddingStore:
        config = self._config
        pieces = config.model_dump(include={"passage", "passage_prompt", "words", "stride", "max_chunks", "crops"})
        extra = json.dumps({**pieces, "crops_version": _CROPS_VERSION}, sort_keys=True) if role == "passage" else ""
        return EmbeddingStore(
            self._environment.cache / "page_image",
            config.model,
            self._revision,
            role,
            self._settings.identity() + extra,
            "float16" if role == "passage" else "float32",
            shard_items=_SHARD_PAGES,
        )

    def _spread(self, role: Role, images: ImageSource, send: Callable[[int], Any]) -> Spread | None:
        """Return how an engine's workers encode; they read the images where they are."""
        environment = self._environment
        make = partial(_coder, self._config, self._settings, environment.device, role, images)
        if not environment.engine.spreads or not sendable(make):
            return None
        return Spread(environment.engine, make, self._identity(), send, device=environment.device)

    def _coder(self, role: Role, images: ImageSource) -> _Coder:
        return _Coder(self._config, self._settings, self._environment.device, role, images, self._identity())

    def _identity(self) -> str:
        return f"{self._config.model} {self._revision} {self._settings.identity()}"


class _Coder:
    """Passages or questions to vectors. The model is loaded when something has to be encoded."""

    def __init__(
        self, config: PageImageConfig, settings: Settings, device: str, role: Role, images: ImageSource, identity: str
    ) -> None:
        self._config, self._settings, self._device = config, settings, device
        self._role: Role = role
        self._images = images
        self._encoder: PageImageEncoder | None = None
        self.identity = identity

    def load(self, sent: tuple[int | None, str]) -> list[VisualItem]:
        """Return the items of (row of the image, text); None = without an image."""
        row, text = sent
        if self._role == "passage":
            return self._passage(row, text)
        return [VisualItem(None if row is None else self._prepared(self._images.load(row)), text)]

    def _passage(self, row: int | None, text: str) -> list[VisualItem]:
        config = self._config
        if row is None:
            chunks = [text]
            if config.words:
                chunks = chunk_passages([text], config.words, config.stride or config.words).texts
            return [VisualItem(text=_joined(config.passage_prompt, c)) for c in chunks[: config.max_chunks or None]]
        page = self._images.load(row)
        items = [VisualItem(self._prepared(page), _joined(config.passage_prompt, text if config.join_text else ""))]
        if config.crops:
            pixels = np.asarray(page)
            for box in find_figures(pixels, FigureLimits(max_figures=config.crops)):
                cut = page.crop((box.left, box.top, box.right, box.bottom))
                items.append(VisualItem(self._prepared(cut), config.passage_prompt))
        return items

    def _prepared(self, image: Image.Image) -> Image.Image:
        return prepare_image(image, self._config.max_pixels)

    def encode(self, items: list[list[VisualItem]]) -> list[np.ndarray]:
        """Encode items of several passages; the vectors of one passage are stacked."""
        if self._encoder is None:
            self._encoder = PageImageEncoder(self._config.model, self._settings, device=self._device)
        flat = [item for group in items for item in group]
        size = self._config.batch_size
        vectors: list[np.ndarray] = []
        for start in range(0, len(flat), size):
            vectors += self._encoder.encode(flat[start : start + size], self._role)
        ends = np.cumsum([len(group) for group in items]).tolist()
        return [np.concatenate(vectors[end - len(group) : end]) for group, end in zip(items, ends, strict=True)]

    def release(self) -> None:
        """Drop the model: recipes name several of 17 GB, and one at a time must fit."""
        if self._encoder is not None:
            self._encoder = None
            free_memory()


def _coder(config: PageImageConfig, settings: Settings, device: str, role: Role, images: ImageSource) -> _Coder:
    identity = f"{config.model} {model_revision(config.model)} {settings.identity()}"
    return _Coder(config, settings, device, role, images, identity)


def max_sim(queries: Sequence[np.ndarray], flat: np.ndarray, offsets: np.ndarray, *, device: str = "cpu") -> np.ndarray:
    """Return MaxSim of every query with every passage: float32 [Q, P].

    Parameters
    ----------
    queries
        Q matrices float32 [t_i, D].
    flat, offsets
        The passages' vectors float32 [T, D]; passage p is rows ``offsets[p]:offsets[p + 1]``, at least one.
    device
        Where the products are computed.
    """
    import torch

    passages = torch.from_numpy(np.ascontiguousarray(flat)).to(device)
    lengths = torch.from_numpy(np.diff(offsets)).to(device)
    result = np.empty((len(queries), len(offsets) - 1), np.float32)
    for block in _query_blocks(queries):
        stacked = torch.from_numpy(np.concatenate([queries[q] for q in block])).to(device)
        best = torch.segment_reduce(passages @ stacked.T, "max", lengths=lengths, axis=0, unsafe=True)  # [P, t]
        # A product with a 0/1 matrix sums each query's columns in a fixed order, on any device.
        owner = torch.from_numpy(np.repeat(np.arange(len(block)), [len(queries[q]) for q in block])).to(device)
        result[block] = (best @ torch.nn.functional.one_hot(owner, len(block)).to(best.dtype)).T.cpu().numpy()
    return result


def _query_blocks(queries: Sequence[np.ndarray]) -> Iterator[list[int]]:
    block: list[int] = []
    size = 0
    for query, vectors in enumerate(queries):
        if block and size + len(vectors) > _BLOCK_QUERY_VECTORS:
            yield block
            block, size = [], 0
        block.append(query)
        size += len(vectors)
    if block:
        yield block


def _blocks(places: np.ndarray, lengths: np.ndarray) -> Iterator[np.ndarray]:
    """Cut `places` into runs of at most `_BLOCK_VECTORS` vectors, at least one place each."""
    start = size = 0
    for i, place in enumerate(places.tolist()):
        if i > start and size + lengths[place] > _BLOCK_VECTORS:
            yield places[start:i]
            start, size = i, 0
        size += int(lengths[place])
    if start < len(places):
        yield places[start:]


def _joined(*parts: str) -> str:
    return " ".join(part for part in parts if part.strip())
