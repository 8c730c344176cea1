"""MMDocIR (Task 1): the official tables, or a folder of PDFs, become the typed tables.

The folder `mmdocir` holds::

    MMDocIR_gt_remove.jsonl           questions
    MMDocIR_doc_passages.parquet      pages (or MMDocIR_pages.parquet), or:
    pdfs/<doc_name>.pdf               the documents
    MMDocIR_layouts.parquet           layout blocks, optional beside the page table
    gold.csv                          gold pages, or MMDocIR_annotations.jsonl; optional
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import polars as pl

from common.engine.base import Engine
from common.engine.local import LOCAL
from common.errors import DataError
from common.faults import FaultLog
from track1_mdr.config import DataConfig
from track1_mdr.datasets.documents import Document, prepare_documents
from track1_mdr.datasets.page_images import PdfImages, PdfPage, TableImages
from track1_mdr.datasets.page_table import check_range, read_layouts, read_pages
from track1_mdr.datasets.prepare import LAYOUTS_FILE, PAGES_FILE, find_pdfs
from track1_mdr.datasets.questions import read_questions
from track1_mdr.datasets.tables import (
    LAYOUT_SCHEMA,
    PASSAGE_SCHEMA,
    Candidates,
    NoImages,
    Passages,
    Qrels,
    Queries,
    TaskTables,
)
from track1_mdr.gold import read_annotations, read_gold

QUESTIONS_FILE = "MMDocIR_gt_remove.jsonl"
PAGE_FILES = (PAGES_FILE, "MMDocIR_pages.parquet")
ANNOTATIONS_FILE = "MMDocIR_annotations.jsonl"
GOLD_FILE = "gold.csv"


def load_mmdocir(
    root: Path, data: DataConfig, cache: Path, faults: FaultLog, layouts: bool = True, engine: Engine = LOCAL
) -> TaskTables:
    """Read and check the `mmdocir` folder.

    Parameters
    ----------
    root
        The `mmdocir` folder.
    data
        Which page source and which text to use; OCR and image settings for PDFs.
    cache
        Where prepared documents and OCR results are kept.
    faults
        Takes PDFs that cannot be opened and pages that cannot be read; their rows are there with empty text.
    layouts
        Whether to read the layout table, which is the larger part of the time where there is one.
    engine
        Has the workers that prepare PDFs.

    Raises
    ------
    DataError
        A file is missing or damaged, ids are repeated or unknown, or a document's pages are not exactly
        0 .. num_of_pages - 1.
    """
    questions = read_questions(root / QUESTIONS_FILE)
    counts = dict(zip(questions["doc_name"], questions["num_of_pages"], strict=True))
    table = _page_table(root, data)
    passages, notes = (
        _from_table(root, table, counts, data, layouts)
        if table
        else _from_pdfs(root / "pdfs", counts, data, cache, faults, engine)
    )
    qrels, note = _gold(root, questions)
    return TaskTables(
        "mmdocir",
        passages,
        Queries(questions, NoImages(questions.height)),
        Candidates.by_document(questions["doc_name"].to_list(), passages.table["doc_name"].to_list()),
        qrels,
        (*notes, note),
    )


def _page_table(root: Path, data: DataConfig) -> Path | None:
    """Return the page table to read, or None for the PDFs."""
    present = [root / name for name in PAGE_FILES if (root / name).is_file()]
    if data.page_source == "pdfs" or (data.page_source == "auto" and not present and (root / "pdfs").is_dir()):
        return None
    if not present:
        raise DataError(
            "no pages",
            where=root,
            expected=" or ".join(PAGE_FILES) + ("" if data.page_source == "table" else ", or a folder pdfs"),
            todo="see data/README.md for where they come from",
        )
    return present[0]


def _from_table(
    root: Path, path: Path, counts: dict[str, int], data: DataConfig, with_layouts: bool
) -> tuple[Passages, list[str]]:
    pages = read_pages(path, counts, data.text)
    images = (
        TableImages(path, pages.file_rows, pages.table["image_name"].to_list())
        if pages.has_images
        else NoImages(pages.table.height)
    )
    notes = [f"mmdocir: {pages.table.height} pages of {len(counts)} documents from {path.name}", *pages.notes]
    layouts = None
    if with_layouts and (root / LAYOUTS_FILE).is_file():
        layouts, more = read_layouts(root / LAYOUTS_FILE, _first_rows(pages.table), counts)
        notes += [f"mmdocir: {layouts.height} layout blocks from {LAYOUTS_FILE}", *more]
    return Passages(pages.table, images, layouts), notes


def _first_rows(table: pl.DataFrame) -> dict[str, int]:
    first: dict[str, int] = {}
    for row, name in enumerate(table["doc_name"]):
        first.setdefault(name, row)
    return first


def _from_pdfs(
    folder: Path, counts: dict[str, int], data: DataConfig, cache: Path, faults: FaultLog, engine: Engine
) -> tuple[Passages, list[str]]:
    pdfs = find_pdfs(folder)
    wanted = {name: pdfs.get(name, folder / f"{name}.pdf") for name in counts}
    absent = [name for name in wanted if name not in pdfs]
    if len(absent) == len(wanted):
        raise DataError("no document of the questions has a PDF", where=folder, got=f"{len(pdfs)} other PDFs")
    documents = prepare_documents(wanted, data.ocr, cache, faults, engine)
    passages = _assemble(documents, wanted, counts, data.image_pixels)
    notes = [f"mmdocir: {len(passages)} pages of {len(counts)} documents from PDFs"]
    unused = len(pdfs) - len(wanted) + len(absent)
    if unused:
        notes.append(f"mmdocir: {unused} of {len(pdfs)} PDFs belong to no question and were not prepared")
    if absent:
        notes.append(f"mmdocir: {len(absent)} documents have no PDF: {', '.join(sorted(absent)[:5])}")
    return passages, notes


def _assemble(documents: Iterable[Document], pdfs: dict[str, Path], counts: dict[str, int], pixels: int) -> Passages:
    rows: list[tuple[str, str, str, str | None]] = []
    layouts: list[tuple[int, str, str, list[float]]] = []
    images: list[PdfPage | None] = []
    for document in documents:
        name, count = document.name, counts[document.name]
        if document.error is None:
            check_range(name, range(len(document.pages)), count, pdfs[name])
            layouts += [(len(rows) + b.page, b.kind, b.text, list(b.box)) for b in document.layouts]
        for page in range(count):
            image = f"{name}_{page}.jpg"
            known = document.error is None
            rows.append((str(page), name, document.pages[page].text if known else "", image if known else None))
            images.append(PdfPage(pdfs[name], document.sha256, page, image) if known else None)
    return Passages(
        pl.DataFrame(rows, schema=PASSAGE_SCHEMA, orient="row"),
        PdfImages(images, pixels),
        pl.DataFrame(layouts, schema=LAYOUT_SCHEMA, orient="row"),
    )


def _gold(root: Path, questions: pl.DataFrame) -> tuple[Qrels, str]:
    """Return the gold and a note that says where it is from."""
    if (root / GOLD_FILE).is_file():
        gold = read_gold(root / GOLD_FILE, questions)
        return gold, f"mmdocir: gold of {len(gold)} of {questions.height} questions from {GOLD_FILE}"
    path = root / ANNOTATIONS_FILE
    gold, _ = read_annotations(path, questions, questions["question"].to_list())
    if not gold:
        return {}, "mmdocir: no gold"
    pages = dict(zip(questions["question_id"], questions["num_of_pages"], strict=True))
    for question, passages in gold.items():
        wrong = [page for page in passages if not 0 <= int(page) < pages[question]]
        if wrong:
            raise DataError(
                "an annotated page is out of range",
                where=f"{path}, question {question}",
                expected=f"0 to {pages[question] - 1}",
                got=", ".join(wrong),
            )
    return gold, f"mmdocir: gold of {len(gold)} of {questions.height} questions from {ANNOTATIONS_FILE}"
