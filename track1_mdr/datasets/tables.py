"""The typed tables that both tasks become: passages, queries, candidates, qrels.

Everything after the readers works on these alone. Passages and queries are addressed by their row number
in the tables (int64); the competition's string ids appear again only when a submission is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import polars as pl
from PIL import Image

from common.errors import DataError

TaskName = Literal["mmdocir", "m2kr"]

# passage_id: MMDocIR page index from "0" inside its document, or M2KR passage id. doc_name: "" for M2KR.
# text: what text routes read. image_name: a name for messages, null where the passage has no image.
PASSAGE_SCHEMA = {"passage_id": pl.String, "doc_name": pl.String, "text": pl.String, "image_name": pl.String}
# question: "" for image-only M2KR queries. num_of_pages: 0 for M2KR. image_name: null where there is none.
QUERY_SCHEMA = {
    "question_id": pl.String,
    "question": pl.String,
    "instruction": pl.String,
    "doc_name": pl.String,
    "domain": pl.String,
    "num_of_pages": pl.Int64,
    "image_name": pl.String,
}
# One row a layout block. passage: row in the passages table. kind: text, title, equation, figure or table.
# text: the block's words. bbox: left, top, right, bottom as shares (0..1) of the page.
LAYOUT_SCHEMA = {"passage": pl.Int64, "kind": pl.String, "text": pl.String, "bbox": pl.List(pl.Float64)}


class ImageSource(Protocol):
    """Images by table row, loaded when asked for."""

    def __len__(self) -> int:
        """Return the number of rows, with and without an image."""
        ...

    def key(self, row: int) -> str | None:
        """Return a content key (SHA-256) of the row's image, or None where there is none."""
        ...

    def load(self, row: int) -> Image.Image:
        """Return the row's image as RGB; raise `DataError` naming it when it cannot be read."""
        ...


@dataclass(frozen=True)
class NoImages:
    """The image source of a table without images."""

    rows: int

    def __len__(self) -> int:
        return self.rows

    def key(self, row: int) -> str | None:
        """Return None: there is no image."""
        return None

    def load(self, row: int) -> Image.Image:
        """Raise `DataError`: there is no image."""
        raise DataError("no image for this row", where=f"row {row}")


@dataclass(frozen=True)
class Passages:
    """The passages of one task.

    `table` has the columns of `PASSAGE_SCHEMA`; pages of one document are contiguous and in page order.
    `layouts` has the columns of `LAYOUT_SCHEMA`, or is None where no layout is known.
    """

    table: pl.DataFrame
    images: ImageSource
    layouts: pl.DataFrame | None = None

    def __len__(self) -> int:
        return self.table.height

    @property
    def texts(self) -> list[str]:
        """The passages' text, one string a row."""
        return self.table["text"].to_list()


@dataclass(frozen=True)
class Queries:
    """The queries of one task; `table` has the columns of `QUERY_SCHEMA`."""

    table: pl.DataFrame
    images: ImageSource

    def __len__(self) -> int:
        return self.table.height

    @property
    def texts(self) -> list[str]:
        """The questions, one string a row ("" for image-only queries)."""
        return self.table["question"].to_list()


@dataclass(frozen=True)
class Candidates:
    """Which passages each query may retrieve: one sorted int64 array of passage rows per query.

    Queries with the same candidates share one array object, so that the M2KR pool is held once.
    """

    rows: tuple[np.ndarray, ...]

    @classmethod
    def everything(cls, queries: int, passages: int) -> Candidates:
        """Return candidates where each query may retrieve every passage."""
        every = np.arange(passages, dtype=np.int64)
        return cls((every,) * queries)

    @classmethod
    def by_document(cls, query_docs: Sequence[str], passage_docs: Sequence[str]) -> Candidates:
        """Return candidates where a query may retrieve the pages of its own document only."""
        spans: dict[str, list[int]] = {}
        for row, name in enumerate(passage_docs):
            spans.setdefault(name, []).append(row)
        arrays = {name: np.asarray(rows, dtype=np.int64) for name, rows in spans.items()}
        missing = sorted({name for name in query_docs if name not in arrays})
        if missing:
            raise DataError(
                f"{len(missing)} documents of the questions have no pages",
                where=", ".join(missing[:5]),
                todo="add their pages to the page table or their PDFs to the pdfs folder",
            )
        return cls(tuple(arrays[name] for name in query_docs))

    def __len__(self) -> int:
        return len(self.rows)

    def groups(self) -> list[tuple[np.ndarray, list[int]]]:
        """Return (passage rows, query rows) for each distinct candidate array, in order of first use."""
        by_id: dict[int, tuple[np.ndarray, list[int]]] = {}
        for query, rows in enumerate(self.rows):
            by_id.setdefault(id(rows), (rows, []))[1].append(query)
        return list(by_id.values())


Qrels = Mapping[str, tuple[str, ...]]
"""question_id -> the gold passage ids, for the questions whose gold is known."""


@dataclass(frozen=True)
class TaskTables:
    """One task, read and checked."""

    task: TaskName
    passages: Passages
    queries: Queries
    candidates: Candidates
    qrels: Qrels = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def gold_rows(self) -> list[np.ndarray | None]:
        """Return for each query the passage rows of its gold pages, or None where the gold is unknown.

        Raises
        ------
        DataError
            A gold passage is not among the query's candidates.
        """
        ids = self.passages.table["passage_id"].to_list()
        result: list[np.ndarray | None] = []
        lookup: dict[int, dict[str, int]] = {}
        for question_id, rows in zip(self.queries.table["question_id"], self.candidates.rows, strict=True):
            gold = self.qrels.get(question_id)
            if gold is None:
                result.append(None)
                continue
            by_id = lookup.setdefault(id(rows), {ids[row]: int(row) for row in rows})
            unknown = [passage for passage in gold if passage not in by_id]
            if unknown:
                raise DataError(
                    "a gold passage is not among the question's candidates",
                    where=f"{self.task}, question {question_id}",
                    got=", ".join(unknown),
                    todo="check the gold file against the page table",
                )
            result.append(np.asarray([by_id[passage] for passage in gold], dtype=np.int64))
        return result


@dataclass(frozen=True)
class Scored:
    """What a route says about one query: passage rows (int64 [K], unique) and scores (float32 [K], finite).

    Higher is better. A candidate that is not listed has no score: missing, which is neither 0 nor -inf.
    """

    rows: np.ndarray
    scores: np.ndarray

    @classmethod
    def empty(cls) -> Scored:
        """Return a result that says nothing about any candidate."""
        return cls(np.empty(0, np.int64), np.empty(0, np.float32))

    def check(self, route: str, query: str) -> Scored:
        """Return self; raise `DataError` on a non-finite score, a duplicate row or unequal lengths."""
        if self.rows.shape != self.scores.shape or self.rows.ndim != 1:
            raise DataError("rows and scores differ in shape", where=f"route {route}, question {query}")
        if not np.isfinite(self.scores).all():
            bad = self.rows[~np.isfinite(self.scores)]
            raise DataError(
                f"{len(bad)} scores are not finite (NaN or infinite)",
                where=f"route {route}, question {query}, passage row {int(bad[0])}",
                expected="finite scores; leave a passage out to say that it has none",
                todo="this is a fault of the route's code or of its embeddings",
            )
        if len(np.unique(self.rows)) != len(self.rows):
            raise DataError("a passage is scored twice", where=f"route {route}, question {query}")
        return self


def top_k(scored: Scored, k: int) -> Scored:
    """Return the `k` best passages, best first; equal scores are ordered by passage row (deterministic)."""
    order = np.lexsort((scored.rows, -scored.scores.astype(np.float64)))[:k]
    return Scored(scored.rows[order], scored.scores[order])
