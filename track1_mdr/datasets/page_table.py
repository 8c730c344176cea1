"""The official page and layout tables (parquet), read column by column and batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from common.errors import DataError
from track1_mdr.datasets.questions import require
from track1_mdr.datasets.tables import LAYOUT_SCHEMA, PASSAGE_SCHEMA

BATCH_ROWS = 4_096
KINDS = ("text", "title", "equation", "figure", "table")
TextChoice = Literal["auto", "ocr_text", "vlm_text", "both"]


@dataclass(frozen=True)
class PageRows:
    """Pages read from a table: `PASSAGE_SCHEMA`, and for each its row in the file (int64), for its image."""

    table: pl.DataFrame
    file_rows: np.ndarray
    has_images: bool
    notes: tuple[str, ...]


def read_pages(path: Path, counts: Mapping[str, int], text: TextChoice) -> PageRows:
    """Read the pages of the documents in `counts` (name -> number of pages), sorted by document and page.

    Images are not read. The page numbers of each document must be exactly 0 to its count less one.

    Raises
    ------
    DataError
        Not a parquet file, a missing or renamed column, a page number that is no whole number, repeated,
        missing or too large, or a document without pages.
    """
    with open_parquet(path) as file:
        columns = ["doc_name", "passage_id", *_text_columns(file.schema_arrow.names, text, path)]
        require(file.schema_arrow.names, columns, path)
        has_images = "image_binary" in file.schema_arrow.names
        paths = ["image_path"] if "image_path" in file.schema_arrow.names else []
        found: dict[str, dict[int, tuple[int, str, str | None]]] = {}
        shortened = 0
        for number, row in _rows(file, [*columns, *paths], path):
            name, cut = _document(row["doc_name"], counts)
            if name is None:
                continue
            shortened += cut
            page = _page_number(row["passage_id"], path, number, name)
            if page in found.setdefault(name, {}):
                raise DataError("a page is there twice", where=f"{path}, row {number}", got=f"{name}, page {page}")
            words = "\n".join(part for column in columns[2:] if (part := (row[column] or "").strip()))
            found[name][page] = (number, words, row.get("image_path") or f"{name}_{page}.jpg")
    for name, count in counts.items():
        check_range(name, sorted(found.get(name, {})), count, path)
    return _page_rows(found, has_images, _suffix_note(shortened, path))


def _page_rows(
    found: Mapping[str, Mapping[int, tuple[int, str, str | None]]], has_images: bool, notes: tuple[str, ...]
) -> PageRows:
    flat = [(name, page, *found[name][page]) for name in sorted(found) for page in sorted(found[name])]
    table = pl.DataFrame(
        {
            "passage_id": [str(row[1]) for row in flat],
            "doc_name": [row[0] for row in flat],
            "text": [row[3] for row in flat],
            "image_name": [row[4] if has_images else None for row in flat],
        },
        schema=PASSAGE_SCHEMA,
    )
    rows = np.asarray([row[2] if has_images else -1 for row in flat], dtype=np.int64)
    return PageRows(table, rows, has_images, notes)


def check_range(name: str, pages: Sequence[int], count: int, where: object) -> None:
    """Raise `DataError` unless `pages` (sorted) is 0 .. count - 1."""
    if list(pages) == list(range(count)):
        return
    hint = None
    if not pages:
        what, got = f"document {name!r} has no pages", "none"
    elif list(pages) in (list(range(count - 1)), list(range(count + 1)), list(range(1, count + 1))):
        what, got = f"the pages of document {name!r} are off by one", f"{pages[0]} to {pages[-1]}"
        hint = "page ranges in the benchmark's files include both ends; a half-open slice loses the last page"
    else:
        absent = sorted(set(range(count)) - set(pages))
        beyond = [page for page in pages if not 0 <= page < count]
        what = f"the pages of document {name!r} do not match its num_of_pages"
        got = f"{len(pages)} pages; missing: {absent[:5] or 'none'}; too many: {beyond[:5] or 'none'}"
    raise DataError(what, where=where, expected=f"pages 0 to {count - 1}, each once", got=got, todo=hint)


def read_layouts(
    path: Path, first_rows: Mapping[str, int], counts: Mapping[str, int]
) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """Read the layout table into `LAYOUT_SCHEMA`, sorted by passage; blocks of other documents are left out.

    Parameters
    ----------
    first_rows, counts
        For each document, its first row in the passages table and its number of pages.

    Raises
    ------
    DataError
        A missing column, an unknown type, a page or a box out of range.
    """
    wanted = ["doc_name", "type", "page_id", "text", "ocr_text", "vlm_text", "bbox", "page_size"]
    blocks: list[tuple[int, str, str, list[float]]] = []
    shortened = 0
    with open_parquet(path) as file:
        require(file.schema_arrow.names, wanted, path)
        for number, row in _rows(file, wanted, path):
            name, cut = _document(row["doc_name"], first_rows)
            if name is None:
                continue
            shortened += cut
            where = f"{path}, row {number}"
            page, kind = row["page_id"], row["type"]
            if kind not in KINDS:
                raise DataError("unknown layout type", where=where, expected=", ".join(KINDS), got=repr(kind))
            if not isinstance(page, int) or not 0 <= page < counts[name]:
                last = counts[name] - 1
                raise DataError("a layout's page is out of range", where=where, expected=f"0 to {last}", got=repr(page))
            parts = (row["text"], row["vlm_text"], row["ocr_text"])
            text = "\n".join(part.strip() for part in parts if part and part.strip())
            blocks.append((first_rows[name] + page, kind, text, _shares(row["bbox"], row["page_size"], where)))
    blocks.sort(key=lambda block: block[0])
    return pl.DataFrame(blocks, schema=LAYOUT_SCHEMA, orient="row"), _suffix_note(shortened, path)


def _shares(box: Any, size: Any, where: str) -> list[float]:
    good = (
        isinstance(box, list)
        and isinstance(size, list)
        and (len(box), len(size)) == (4, 2)
        and all(isinstance(value, (int, float)) and np.isfinite(value) for value in [*box, *size])
        and min(size) > 0
    )
    if not good:
        raise DataError(
            "a layout's box is damaged", where=where, expected="bbox of 4, page_size of 2 numbers", got=f"{box}, {size}"
        )
    return [min(max(value / size[edge % 2], 0.0), 1.0) for edge, value in enumerate(box)]


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a parquet file; raise `DataError` when it is none."""
    try:
        return pq.ParquetFile(path, pre_buffer=False)
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            "not a readable parquet file", where=path, got=str(error)[:200], todo="download the file again"
        ) from None


def _rows(file: pq.ParquetFile, columns: list[str], path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    try:
        for batch in file.iter_batches(BATCH_ROWS, columns=columns):
            for row in batch.to_pylist():
                yield number, row
                number += 1
    except (OSError, pa.ArrowException) as error:
        raise DataError("the parquet file is damaged", where=path, got=str(error)[:200]) from None


def _text_columns(names: Sequence[str], choice: TextChoice, path: Path) -> list[str]:
    both = ["vlm_text", "ocr_text"]
    if choice == "auto":
        present = [name for name in both if name in names]
        return present or both[1:]  # none: `require` names what is missing
    columns = both if choice == "both" else [choice]
    require(names, columns, path)
    return columns


def _document(name: Any, wanted: Mapping[str, Any]) -> tuple[str | None, bool]:
    """Return the wanted document that `name` means, if any, and whether it was written with .pdf."""
    if name in wanted:
        return name, False
    short = name.removesuffix(".pdf") if isinstance(name, str) else None
    return (short, True) if short != name and short in wanted else (None, False)


def _suffix_note(count: int, path: Path) -> tuple[str, ...]:
    return (f"{path.name}: {count} rows name their document with .pdf; read as without",) if count else ()


def _page_number(value: Any, path: Path, row: int, name: str) -> int:
    text = str(value)
    if isinstance(value, bool) or not (text.isascii() and text.isdigit() and str(int(text)) == text):
        raise DataError(
            "passage_id is not a page number",
            where=f"{path}, row {row}, document {name}",
            expected='a whole number from "0", without leading zeros',
            got=repr(value),
        )
    return int(text)
