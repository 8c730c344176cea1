"""BM25 over layout blocks: a page is as good as its best block (the text twin of cropping figures)."""

from __future__ import annotations

import numpy as np
import polars as pl

from common.errors import DataError
from track1_mdr.chunks import Chunks
from track1_mdr.config import LayoutConfig
from track1_mdr.datasets.tables import Candidates, Passages, Queries, Scored
from track1_mdr.routes.base import Environment
from track1_mdr.routes.bm25 import TextUnits
from track1_mdr.routes.bm25_tokens import Analyzer


class LayoutRoute:
    """BM25 over the blocks of the layouts table; short blocks (headings, labels) join the next one."""

    def __init__(self, config: LayoutConfig, environment: Environment) -> None:
        self._config = config
        self._units: TextUnits | None = None

    def fit(self, passages: Passages) -> None:
        """Tokenise the blocks; raise `DataError` when the data has no layouts."""
        if passages.layouts is None:
            raise DataError(
                "the layout route needs a layouts table",
                expected="MMDocIR_layouts.parquet, or PDFs, from which layouts are made",
                todo="add the file, or switch the route off: --set 'tasks.mmdocir.routes.layout=null'",
            )
        units = join_short_blocks(passages.layouts, self._config.min_words)
        config = self._config
        self._units = TextUnits(
            units,
            len(passages),
            Analyzer(ngrams=config.ngrams),
            k1=config.k1,
            b=config.b,
            scope="collection",
            top=config.top,
        )

    def score(self, queries: Queries, candidates: Candidates) -> list[Scored]:
        """Score the candidates that have a block with text."""
        if self._units is None:
            raise RuntimeError("call fit before score")
        return self._units.score(queries, candidates)


def join_short_blocks(layouts: pl.DataFrame, min_words: int) -> Chunks:
    """Return the blocks in order; one with fewer than `min_words` words is joined with the next of its page."""
    texts: list[str] = []
    owners: list[int] = []
    held: list[str] = []
    holder = -1

    def flush() -> None:
        if held:
            texts.append(" ".join(held))
            owners.append(holder)
            held.clear()

    ordered = layouts.sort("passage", maintain_order=True)
    for passage, text in zip(ordered["passage"], ordered["text"], strict=True):
        if passage != holder:
            flush()
            holder = int(passage)
        if text and text.strip():
            held.append(text.strip())
        if sum(len(piece.split()) for piece in held) >= min_words:
            flush()
    flush()
    return Chunks(texts, np.asarray(owners, dtype=np.int64))
