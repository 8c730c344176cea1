"""MMDocIR as it lies on disk: what a run would refuse is read here all the same, so that it can be counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import polars as pl
import pyarrow as pa

from common.errors import DataError
from common.explore.findings import Finding
from common.faults import FaultLog
from common.hashing import digest
from common.progress import bar
from track1_mdr.config import OcrConfig
from track1_mdr.datasets.documents import prepare_documents
from track1_mdr.datasets.mmdocir import ANNOTATIONS_FILE, GOLD_FILE, PAGE_FILES, QUESTIONS_FILE
from track1_mdr.datasets.page_images import PdfImages, PdfPage, TableImages
from track1_mdr.datasets.page_table import open_parquet
from track1_mdr.datasets.prepare import find_pdfs
from track1_mdr.datasets.questions import read_questions, require
from track1_mdr.datasets.tables import QUERY_SCHEMA, ImageSource, NoImages, Qrels
from track1_mdr.gold import read_annotations, read_gold

PAGE_SCHEMA = {
    "doc_name": pl.String,
    "page": pl.Int64,
    "text": pl.String,
    "words": pl.UInt32,
    "same": pl.String,
    "image": pl.String,
}
"""page: null where the file has no number; same: the text with spaces made one, in lower case; image: its digest."""
PIXELS = 480
"""Long side of a PDF page that is rendered for a thumbnail."""
T = TypeVar("T")


@dataclass
class Mmdocir:
    """What is there; `findings` are the faults that reading met.

    Attributes
    ----------
    questions
        `QUERY_SCHEMA`; empty where the file cannot be read.
    pages
        `PAGE_SCHEMA`, a row a page, by document and page; documents that no question asks about are there too.
    images
        One entry a row of `pages`.
    has_images
        Whether the source has images at all; `compared`: whether `pages` has their digests.
    file_digests
        Document -> SHA-256 of its PDF; empty for a page table.
    """

    questions: pl.DataFrame
    pages: pl.DataFrame
    images: ImageSource
    source: str = ""
    has_images: bool = False
    compared: bool = False
    file_digests: Mapping[str, str] = field(default_factory=dict)
    gold: Qrels = field(default_factory=dict)
    evidence: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    gold_source: str = ""
    findings: list[Finding] = field(default_factory=list)


def read_mmdocir(root: Path, cache: Path, *, ocr: bool) -> Mmdocir:
    """Read the `mmdocir` folder as far as it can be read.

    Parameters
    ----------
    root
        The `mmdocir` folder.
    cache
        Where the texts of PDFs are kept.
    ocr
        Read pages of PDFs without words by OCR, as a run does; else their text layer alone counts.
    """
    data = Mmdocir(pl.DataFrame(schema=QUERY_SCHEMA), pl.DataFrame(schema=PAGE_SCHEMA), NoImages(0))
    questions = _tried(data, "questions", lambda: read_questions(root / QUESTIONS_FILE))
    if questions is not None:
        data.questions = questions
    _tried(data, "pages", lambda: _read_pages(data, root, cache, ocr=ocr))
    if questions is not None:
        _tried(data, "gold", lambda: _read_gold(data, root))
    return data


def _tried(data: Mmdocir, name: str, read: Callable[[], T]) -> T | None:
    try:
        return read()
    except DataError as error:
        said = "; ".join(line.strip() for line in error.block().splitlines())
        data.findings.append(Finding(name, "problem", said, "a run stops at this"))
        return None


def _read_pages(data: Mmdocir, root: Path, cache: Path, *, ocr: bool) -> None:
    wanted = set(data.questions["doc_name"])
    table = next((root / name for name in PAGE_FILES if (root / name).is_file()), None)
    if table is not None:
        _from_table(data, table, wanted)
    elif (root / "pdfs").is_dir():
        _from_pdfs(data, root / "pdfs", cache, ocr=ocr)
    else:
        raise DataError("no pages", where=root, expected=f"{' or '.join(PAGE_FILES)}, or pdfs/", todo="data/README.md")


def _from_table(data: Mmdocir, path: Path, wanted: set[str]) -> None:
    with open_parquet(path) as file:
        names = file.schema_arrow.names
    texts = [name for name in ("vlm_text", "ocr_text") if name in names]
    require(names, ["doc_name", "passage_id", *(texts or ["ocr_text"])], path)
    try:
        raw = pl.read_parquet(path, columns=["doc_name", "passage_id", *texts])
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError("not a readable parquet file", where=path, got=str(error)[:200]) from None
    short = pl.col("doc_name").cast(pl.String).fill_null("").str.strip_suffix(".pdf")
    stripped = [pl.col(name).cast(pl.String).fill_null("").str.strip_chars() for name in texts]
    text = pl.concat_str(stripped, separator="\n").str.strip_chars()
    has = "image_binary" in names
    rows = pl.DataFrame(
        {"row": np.arange(raw.height), "image": _image_digests(path) if has else [None] * raw.height},
        schema={"row": pl.Int64, "image": pl.String},
    )
    pages = pl.concat(
        [
            raw.select(
                # As the reader does: a name with .pdf means the question's document without it
                doc_name=pl.when(short.is_in(list(wanted))).then(short).otherwise(pl.col("doc_name").cast(pl.String)),
                page=pl.col("passage_id").cast(pl.String).cast(pl.Int64, strict=False),
                text=text,
            ),
            rows,
        ],
        how="horizontal",
    ).sort("doc_name", "page", "row", nulls_last=True)
    data.pages, data.source, data.has_images, data.compared = _told(pages), path.name, has, has
    file_rows = np.where(pages["image"].is_null(), -1, pages["row"].to_numpy())
    data.images = TableImages(path, file_rows, _names(pages)) if has else NoImages(pages.height)


def _image_digests(path: Path) -> list[str | None]:
    """Return the digest of each row's image in the order of the file; None where there is none or it is empty."""
    found: list[str | None] = []
    try:
        with open_parquet(path) as file, bar("compare images", total=file.metadata.num_rows, unit="page") as shown:
            for batch in file.iter_batches(16, columns=["image_binary"]):
                found += [digest("image", value) if value else None for value in batch.column(0).to_pylist()]
                shown.update(batch.num_rows)
    except (OSError, pa.ArrowException) as error:
        raise DataError("the parquet file is damaged", where=path, got=str(error)[:200]) from None
    return found


def _from_pdfs(data: Mmdocir, folder: Path, cache: Path, *, ocr: bool) -> None:
    pdfs = find_pdfs(folder)
    faults = FaultLog()
    rows: list[tuple[str, int, str]] = []
    images: list[PdfPage | None] = []
    sums: dict[str, str] = {}
    for document in prepare_documents(pdfs, OcrConfig(enabled=ocr), cache, faults):
        sums[document.name] = document.sha256
        for number, page in enumerate(document.pages):
            rows.append((document.name, number, page.text))
            name = f"{document.name}, page {number}"
            images.append(PdfPage(pdfs[document.name], document.sha256, number, name))
    pages = pl.DataFrame(rows, schema={"doc_name": pl.String, "page": pl.Int64, "text": pl.String}, orient="row")
    data.pages = _told(pages.with_columns(image=pl.lit(None, pl.String)))
    data.images, data.has_images = PdfImages(images, PIXELS), True
    data.source = f"{len(pdfs)} PDFs, {'with OCR' if ocr else 'text layer only'}"
    data.file_digests = sums
    if len(faults):
        said = "; ".join(f"{fault.item}: {fault.error}" for fault in faults.faults[:3])
        data.findings.append(
            Finding(
                "readable PDFs",
                "problem",
                f"{len(faults)} PDFs or pages cannot be read, first: {said}",
                "a run counts them as faults and stops at more than data.allow_faults: mend or replace the files",
            )
        )
    else:
        data.findings.append(Finding("readable PDFs", "ok", f"{len(pdfs)} PDFs and all their pages can be read"))


def _told(pages: pl.DataFrame) -> pl.DataFrame:
    """Return the pages with the columns of `PAGE_SCHEMA` that follow from their text."""
    same = pl.col("text").str.to_lowercase().str.replace_all(r"\s+", " ").str.strip_chars()
    words = pl.col("text").str.count_matches(r"\S+")
    return pages.with_columns(words=words, same=same).select(list(PAGE_SCHEMA)).cast(dict(PAGE_SCHEMA))  # pyright: ignore[reportArgumentType]


def _names(pages: pl.DataFrame) -> list[str | None]:
    return [f"{name}, page {page}" for name, page in pages.select("doc_name", "page").iter_rows()]


def _read_gold(data: Mmdocir, root: Path) -> None:
    texts = data.questions["question"].to_list()
    annotated, data.evidence = read_annotations(root / ANNOTATIONS_FILE, data.questions, texts)
    named = read_gold(root / GOLD_FILE, data.questions)
    data.gold = named or annotated
    data.gold_source = GOLD_FILE if named else ANNOTATIONS_FILE if annotated else ""
