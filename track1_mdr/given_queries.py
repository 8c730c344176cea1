"""The user's own training queries: a file of (passage, text) pairs, checked row by row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from common.errors import DataError
from track1_mdr.datasets.tables import Passages
from track1_mdr.pseudo_queries import PseudoQueries

_READERS = {".parquet": pl.read_parquet, ".csv": pl.read_csv, ".jsonl": pl.read_ndjson, ".ndjson": pl.read_ndjson}
_TODO = "a row is passage_id, text and, for pages of documents, doc_name"


def read_given(path: Path, passages: Passages) -> PseudoQueries:
    """Return the file's queries of these passages, in the order of the file; kind "given".

    The file (parquet, CSV or JSON lines) has the columns `passage_id` and `text`, and `doc_name` where passages
    are pages of documents. One file may serve both tasks: rows with a doc_name are for pages, rows without
    (empty or null, or no such column) for M2KR passages; the other task's rows are passed over.

    Raises
    ------
    DataError
        The file cannot be read, lacks a column, or a row has an unknown passage or no text; file and row are named.
    """
    table = _read(path)
    by_document = passages.table["doc_name"].str.len_chars().max() not in (None, 0)
    known = {key: row for row, key in enumerate(passages.table.select("doc_name", "passage_id").iter_rows())}
    texts: list[str] = []
    rows: list[int] = []
    for number, (document, passage, text) in enumerate(table.iter_rows(), start=1):
        where = f"{path}, row {number}"
        if not (text or "").strip():
            raise DataError("the text of a query is empty", where=where, todo=_TODO)
        if bool(document) != by_document:
            continue
        row = known.get((document or "", passage))
        if row is None:
            name = f"doc_name {document!r}, " if document else ""
            raise DataError("a query names an unknown passage", where=where, got=f"{name}passage_id {passage!r}")
        texts.append(" ".join(text.split()))
        rows.append(row)
    return PseudoQueries(texts, np.asarray(rows, dtype=np.int64), ["given"] * len(texts))


def _read(path: Path) -> pl.DataFrame:
    """Return the columns doc_name, passage_id and text as strings, doc_name "" where it is not given."""
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            "not a file of queries", where=path, expected=", ".join(_READERS), got=path.suffix or "no suffix"
        )
    try:
        table = pl.read_csv(path, infer_schema=False) if reader is pl.read_csv else reader(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError("the file of queries cannot be read", where=path, got=str(error)) from None
    missing = [name for name in ("passage_id", "text") if name not in table.columns]
    if missing:
        raise DataError(
            f"missing columns: {', '.join(missing)}",
            where=path,
            expected="passage_id, text, and doc_name for pages of documents",
            got=", ".join(table.columns),
        )
    if "doc_name" not in table.columns:
        table = table.with_columns(pl.lit("").alias("doc_name"))
    return table.select(pl.col("doc_name", "passage_id", "text").cast(pl.String).fill_null(""))
