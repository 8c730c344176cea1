"""What the routes over text vectors share: the encoder, chunks of passages, and questions, in the embedding store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal, Protocol

import numpy as np

from common.encoders.base import Backend, Role, TextEncoder, TokenEncoder, text_key
from common.encoders.spread import TextCoder, spread_texts
from common.encoders.store import EmbeddingStore
from common.encoders.text import Precision, build_text_encoder
from track1_mdr.chunks import Chunks
from track1_mdr.datasets.tables import Candidates, Passages, Queries, Scored, top_k
from track1_mdr.routes.base import Environment
from track1_mdr.routes.vector_search import INDEX_FROM

_SHARD_CHUNKS = 512
_BLOCK_SCORES = 20_000_000  # query x passage scores held at once: 80 MB


class EncoderSettings(Protocol):
    """What the configurations of routes with a text encoder have in common."""

    model: str
    backend: Backend
    query_prompt: str
    passage_prompt: str
    max_tokens: int


def text_encoder(
    config: EncoderSettings, environment: Environment, *, precision: Precision = "float32"
) -> partial[TextEncoder]:
    """Return what makes the text encoder of a route's configuration, here and in workers."""
    return partial(
        build_text_encoder,
        config.model,
        cache=environment.cache,
        backend=config.backend,
        query_prompt=config.query_prompt,
        passage_prompt=config.passage_prompt,
        max_tokens=config.max_tokens,
        device=environment.device,
        threads=environment.threads,
        precision=precision,
    )


def encode_texts(
    encoder: TextEncoder | TokenEncoder,
    recipe: Callable[..., TextEncoder | TokenEncoder],
    texts: Sequence[str],
    role: Role,
    environment: Environment,
    *,
    batch_size: int,
    dtype: Literal["float32", "float16"],
    what: str,
    multi: bool,
    name: Callable[[int], str] | None = None,
) -> Any:
    """Return the texts' `Embeddings` (or `MultiEmbeddings`), encoding what the cache lacks.

    `recipe` is the `functools.partial` that made the encoder: workers of an engine make theirs by it.
    """
    coder = TextCoder(encoder, role, batch_size)
    store = EmbeddingStore(
        environment.cache,
        encoder.name,
        encoder.revision,
        role,
        encoder.preprocessing,
        dtype,
        shard_items=_SHARD_CHUNKS,
    )
    # The whole shard is handed over: encoders sort by length inside, which small batches would prevent.
    return store.encode_all(
        [text_key(text) for text in texts],
        lambda row: texts[row],
        coder.encode,
        batch_size=_SHARD_CHUNKS,
        faults=environment.faults,
        shard=environment.shard if role == "passage" else (0, 1),
        what=what,
        name=name,
        spread=spread_texts(environment.engine, recipe, coder, texts, device=environment.device),
        multi=multi,  # pyright: ignore[reportCallIssue, reportArgumentType]
    )


def chunk_namer(passages: Passages, chunks: Chunks) -> Callable[[int], str]:
    """Return a function that names a chunk in messages by its document and passage."""
    ids = passages.table.select("doc_name", "passage_id").rows()

    def name(chunk: int) -> str:
        document, passage = ids[int(chunks.owners[chunk])]
        return f"{document} page {passage}" if document else passage

    return name


def score_groups(
    queries: Queries,
    candidates: Candidates,
    owners: np.ndarray,
    score: Callable[[np.ndarray, list[int], np.ndarray], np.ndarray],
    top: int,
    search: Callable[[list[int], np.ndarray], list[Scored]] | None = None,
) -> list[Scored]:
    """Score the queries that have text, all those with the same candidates together.

    Parameters
    ----------
    owners
        int64 [C], ascending: the passage row of each chunk.
    score
        (chunks int64 [c], query rows, passage rows) to float [c, q] chunk scores; NaN where there is none.
    top
        Passages kept per query.
    search
        (query rows, passage rows) to each query's best passages, through an index: used instead of `score` where the
        candidates have more than `INDEX_FROM` chunks.
    """
    results: list[Scored] = [Scored.empty()] * len(queries)
    asked = [bool(text.strip()) for text in queries.texts]
    for rows, members in candidates.groups():
        chunks = np.flatnonzero(np.isin(owners, rows))
        if not len(chunks):
            continue
        if search is not None and len(chunks) > INDEX_FROM:
            heard = [member for member in members if asked[member]]
            for query, scored in zip(heard, search(heard, rows), strict=True):
                results[query] = scored
            continue
        for block in _blocks([m for m in members if asked[m]], max(1, _BLOCK_SCORES // len(chunks))):
            found, best = best_by_owner(score(chunks, block, rows), owners[chunks])
            for query, row in zip(block, np.ascontiguousarray(best.T), strict=True):
                given = np.flatnonzero(~np.isnan(row))
                if len(given) > top:  # sorting a shared pool whole would take most of the time
                    given = given[row[given] >= np.partition(row[given], -top)[-top]]
                results[query] = top_k(Scored(found[given], row[given]), top)
    return results


def best_by_owner(scores: np.ndarray, owners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the passage rows that own chunks and, float32 [rows, q], their best chunk's score (NaN: none).

    `owners` is ascending, so that a passage's chunks are neighbours.
    """
    rows, starts = np.unique(owners, return_index=True)
    return rows.astype(np.int64), np.fmax.reduceat(scores.astype(np.float32, copy=False), starts, axis=0)


def take_rows(vectors: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return `vectors[rows]` for ascending distinct rows; without a copy where they are neighbours.

    A block of questions over a shared pool would otherwise copy the whole pool's vectors.
    """
    first, last = int(rows[0]), int(rows[-1])
    return vectors[first : last + 1] if last - first + 1 == len(rows) else vectors[rows]


def _blocks(members: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(members), size):
        yield members[start : start + size]
