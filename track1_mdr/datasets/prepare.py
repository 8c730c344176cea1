"""`prepare`: a folder of PDFs to the official page and layout tables of MMDocIR."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from common.atomic import atomic_path
from common.engine.base import Engine, Failed, Item, Pool
from common.engine.local import LOCAL
from common.errors import DataError
from common.faults import FaultLog
from common.hashing import digest
from track1_mdr.config import OcrConfig
from track1_mdr.datasets.documents import Document, prepare_documents
from track1_mdr.datasets.ocr import OcrState
from track1_mdr.datasets.pdf import render_page

PAGES_FILE = "MMDocIR_doc_passages.parquet"
LAYOUTS_FILE = "MMDocIR_layouts.parquet"
JPEG_QUALITY = 85
RENDER_VERSION = 1
IMAGE_ROWS = 32
"""Page images in memory at once, and rows of a row group."""

PAGES_SCHEMA = pa.schema(
    [
        ("doc_name", pa.string()),
        ("domain", pa.string()),
        ("passage_id", pa.string()),
        ("image_path", pa.string()),
        ("image_binary", pa.binary()),
        ("ocr_text", pa.string()),
        ("vlm_text", pa.string()),
    ]
)
LAYOUTS_SCHEMA = pa.schema(
    [
        ("doc_name", pa.string()),
        ("domain", pa.string()),
        ("type", pa.string()),
        ("layout_id", pa.int64()),
        ("page_id", pa.int64()),
        ("image_path", pa.string()),
        ("image_binary", pa.binary()),
        ("text", pa.string()),
        ("ocr_text", pa.string()),
        ("vlm_text", pa.string()),
        ("bbox", pa.list_(pa.float64())),
        ("page_size", pa.list_(pa.float64())),
    ]
)


@dataclass(frozen=True)
class Prepared:
    """What `prepare_pdfs` wrote."""

    pages_file: Path
    layouts_file: Path
    documents: int
    pages: int
    layouts: int
    notes: tuple[str, ...]


def find_pdfs(folder: Path) -> dict[str, Path]:
    """Return document name (file name without .pdf) to file, sorted by name.

    Raises
    ------
    DataError
        No such folder, no PDF in it, or two files that differ only in the case of their suffix.
    """
    if not folder.is_dir():
        raise DataError("no such folder of PDFs", where=folder, todo="give the folder that holds the .pdf files")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() == ".pdf" and path.is_file():
            if path.stem in found:
                raise DataError("two PDFs have one name", where=path, got=found[path.stem].name, todo="rename one")
            found[path.stem] = path
    if not found:
        raise DataError("no PDF in the folder", where=folder, todo="put the .pdf files there")
    return found


def prepare_pdfs(
    pdf_folder: Path,
    out_folder: Path,
    ocr: OcrConfig,
    cache: Path,
    faults: FaultLog,
    *,
    documents: Collection[str] | None = None,
    images: bool = False,
    image_pixels: int = 1240,
    domains: Mapping[str, str] | None = None,
    engine: Engine = LOCAL,
) -> Prepared:
    """Write the page table and the layout table of the PDFs in `pdf_folder`, in the official schema.

    Works document by document; what is finished is kept in `cache`, so that a run that was stopped goes on.
    The tables are written row group by row group and moved into place at the end: memory does not grow with
    the number of pages. A document that cannot be opened is a fault and has no rows; a page that cannot be
    read is a fault and has a row with empty text.

    Parameters
    ----------
    documents
        Names to prepare; None = all in the folder.
    images
        Also write page images (JPEG, long side `image_pixels`); else image_binary is null.
    domains
        Document name to domain; "" where it is not given.
    engine
        Runs the workers, which read the PDFs; tables and pieces are written here.

    Raises
    ------
    DataError
        The folder is absent or empty, or a name in `documents` has no PDF.
    """
    pdfs = find_pdfs(pdf_folder)
    notes: tuple[str, ...] = ()
    if documents is not None:
        absent = sorted(set(documents) - set(pdfs))
        if absent:
            raise DataError(f"{len(absent)} documents have no PDF", where=pdf_folder, got=", ".join(absent[:5]))
        notes = (f"{len(pdfs) - len(set(documents))} of {len(pdfs)} PDFs are not asked for",)
        pdfs = {name: pdfs[name] for name in pdfs if name in set(documents)}
    pages_file, layouts_file = out_folder / PAGES_FILE, out_folder / LAYOUTS_FILE
    counts = {"documents": 0, "pages": 0, "layouts": 0}
    with ExitStack() as stack:
        pages_temporary = stack.enter_context(atomic_path(pages_file))
        layouts_temporary = stack.enter_context(atomic_path(layouts_file))
        pages_writer = stack.enter_context(pq.ParquetWriter(pages_temporary, PAGES_SCHEMA))
        layouts_writer = stack.enter_context(pq.ParquetWriter(layouts_temporary, LAYOUTS_SCHEMA))
        pool = stack.enter_context(engine.pool(render_task, OcrState, workers=ocr.workers)) if images else None
        for document in prepare_documents(pdfs, ocr, cache, faults, engine):
            domain = (domains or {}).get(document.name, "")
            pictures = _images(pool, document, pdfs[document.name], image_pixels, cache, faults)
            for start, binaries in pictures:
                pages_writer.write_table(_page_rows(document, domain, start, binaries))
            if document.layouts:
                layouts_writer.write_table(_layout_rows(document, domain, counts["layouts"]))
            counts["documents"] += document.error is None
            counts["pages"] += len(document.pages)
            counts["layouts"] += len(document.layouts)
    return Prepared(pages_file, layouts_file, counts["documents"], counts["pages"], counts["layouts"], notes)


def render_task(state: OcrState, task: tuple[Path, int, int]) -> Iterator[bytes]:
    """Yield once: page (path, number, long side in pixels) as JPEG. The function that render processes run."""
    path, number, pixels = task
    image = Image.fromarray(render_page(state.document(path), number, pixels))
    file = BytesIO()
    image.save(file, "JPEG", quality=JPEG_QUALITY)
    yield file.getvalue()


def page_image_key(sha256: str, page: int, pixels: int) -> str:
    """Return the content key of a rendered page, without rendering it."""
    return digest("pdf page", sha256, page, pixels, RENDER_VERSION)


def _images(
    pool: Pool | None, document: Document, path: Path, pixels: int, cache: Path, faults: FaultLog
) -> Iterator[tuple[int, list[bytes | None]]]:
    """Yield (first page, images of the next pages); from the cache where the document's are there."""
    count = len(document.pages)
    if pool is None or count == 0:
        if count:
            yield 0, [None] * count
        return
    piece = cache / "page_images" / f"{page_image_key(document.sha256, -1, pixels)}.parquet"
    if not _is_whole(piece, count):
        with atomic_path(piece) as temporary, pq.ParquetWriter(temporary, _IMAGES, write_page_checksum=True) as writer:
            for start in range(0, count, IMAGE_ROWS):
                tasks = [(path, number, pixels) for number in range(start, min(start + IMAGE_ROWS, count))]
                pictures: list[bytes | None] = [None] * len(tasks)
                for event in pool.run(tasks):
                    if isinstance(event, Item):
                        pictures[event.task] = event.value
                    elif isinstance(event, Failed):
                        faults.add("page image", f"{document.name}, page {start + event.task}", event.reason)
                writer.write_table(pa.table({"image_binary": pictures}, schema=_IMAGES))
    reader = pq.ParquetFile(piece)
    failed = False
    for group in range(reader.num_row_groups):
        pictures = reader.read_row_group(group)["image_binary"].to_pylist()
        failed |= None in pictures
        yield group * IMAGE_ROWS, pictures
    reader.close()
    if failed:
        piece.unlink(missing_ok=True)  # tried again in the next run


_IMAGES = pa.schema([("image_binary", pa.binary())])


def _is_whole(piece: Path, rows: int) -> bool:
    """Return whether a piece is there, undamaged and complete."""
    try:
        with pq.ParquetFile(piece, page_checksum_verification=True) as file:
            groups = range(file.num_row_groups)
            return sum(file.read_row_group(group).num_rows for group in groups) == rows
    except (OSError, pa.ArrowException):
        return False


def _page_rows(document: Document, domain: str, start: int, images: list[bytes | None]) -> pa.Table:
    numbers = range(start, start + len(images))
    return pa.table(
        {
            "doc_name": [document.name] * len(images),
            "domain": [domain] * len(images),
            "passage_id": [str(number) for number in numbers],
            "image_path": [f"{document.name}_{number}.jpg" for number in numbers],
            "image_binary": images,
            "ocr_text": [document.pages[number].text for number in numbers],
            "vlm_text": [""] * len(images),
        },
        schema=PAGES_SCHEMA,
    )


def _layout_rows(document: Document, domain: str, first: int) -> pa.Table:
    """Rows of the layout table; figures and tables have their words in ocr_text, as in the official one."""
    rows: list[dict[str, Any]] = []
    for number, block in enumerate(document.layouts, start=first):
        page = document.pages[block.page]
        drawn = block.kind in ("figure", "table")
        size = (page.width, page.height)
        rows.append(
            {
                "doc_name": document.name,
                "domain": domain,
                "type": block.kind,
                "layout_id": number,
                "page_id": block.page,
                "image_path": f"{document.name}_{block.page}_{number}.jpg",
                "image_binary": None,
                "text": "" if drawn else block.text,
                "ocr_text": block.text if drawn else "",
                "vlm_text": "",
                "bbox": [round(share * size[edge % 2], 2) for edge, share in enumerate(block.box)],
                "page_size": list(size),
            }
        )
    return pa.Table.from_pylist(rows, schema=LAYOUTS_SCHEMA)
