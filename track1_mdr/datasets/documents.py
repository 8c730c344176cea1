"""PDF documents to pages with text and layout blocks: text layer, OCR where it is needed, one cached piece each."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from common.atomic import write_text
from common.engine.base import Engine, Failed, Item, Pool
from common.engine.local import LOCAL
from common.faults import FaultLog
from common.hashing import digest, file_digest
from common.progress import bar
from track1_mdr.config import OcrConfig
from track1_mdr.datasets.blocks import Block, group_lines, join_lines
from track1_mdr.datasets.extract import PAGE_TIMEOUT, Extracted, extract_documents, extract_task, no_state
from track1_mdr.datasets.ocr import TIMEOUT, OcrState, OcrTask, engine_name, read_task
from track1_mdr.datasets.pdf import Box, Line, PageContent

PREPARATION_VERSION = 1
"""Part of every piece's key: raise it when the same PDF would give other text."""
BATCH = 16
"""Documents in memory at once."""
DOCUMENTS_PER_WORKER = 16
"""The same, for each worker of an engine of several machines: each batch waits for its last page."""
KNOWN_SHARE = 0.8
"""A figure's line is not repeated when this share of its words stands in the page's text already."""

_TOKEN = re.compile(r"\w+")


@dataclass(frozen=True)
class Page:
    """One page: size in points, text ("" where there is none)."""

    width: float
    height: float
    text: str


@dataclass(frozen=True)
class Layout:
    """One layout block of page `page`; `box` in shares of the page."""

    page: int
    kind: str
    text: str
    box: Box


@dataclass(frozen=True)
class Document:
    """One prepared PDF.

    `sha256` is the file's ("" where there is none); `error` says why it has no pages, else None; `faults` are
    (item, error) of pages that could not be read in full: they are in `pages` nevertheless.
    """

    name: str
    sha256: str
    pages: tuple[Page, ...]
    layouts: tuple[Layout, ...] = ()
    faults: tuple[tuple[str, str], ...] = ()
    error: str | None = None


def prepare_documents(
    pdfs: Mapping[str, Path], ocr: OcrConfig, cache: Path, faults: FaultLog, engine: Engine = LOCAL
) -> Iterator[Document]:
    """Yield the documents, sorted by name; finished ones come from the cache.

    Parameters
    ----------
    pdfs
        Document name to file.
    cache
        Folder of the pieces and of the OCR cache; two runs may share it.
    faults
        Takes the documents and pages that failed. They are tried again in the next run: only a piece
        without a fault is kept.
    engine
        Runs the workers. They read `pdfs`, and read and write the OCR cache; the pieces are written here.
    """
    names = sorted(pdfs)
    step = max(BATCH, DOCUMENTS_PER_WORKER * engine.parallel(ocr.workers)) if engine.spreads else BATCH
    with (
        engine.pool(extract_task, no_state, workers=ocr.workers, timeout=PAGE_TIMEOUT) as texts,
        engine.pool(read_task, OcrState, workers=ocr.workers, timeout=TIMEOUT) as readers,
        bar("prepare PDFs", total=len(names), unit="doc") as shown,
    ):
        for start in range(0, len(names), step):
            batch = {name: pdfs[name] for name in names[start : start + step]}
            for document in _prepare_batch(batch, ocr, cache, texts, readers):
                for item, error in document.faults:
                    faults.add("prepare", item, error)
                shown.update()
                yield document


def _prepare_batch(
    pdfs: Mapping[str, Path], ocr: OcrConfig, cache: Path, texts: Pool, readers: Pool
) -> Iterator[Document]:
    sums = {name: file_digest(path) if path.is_file() else "" for name, path in pdfs.items()}
    keys = {name: piece_key(sums[name], ocr) for name in pdfs}
    done = {name: _load_piece(_piece_path(cache, keys[name]), name, sums[name]) for name in pdfs}
    missing = {name: path for name, path in pdfs.items() if done[name] is None}
    found = extract_documents(texts, missing, ocr.figure_share)
    read, failed = _read_images(readers, missing, found, ocr, cache / "ocr")
    for name in pdfs:
        document = done[name]
        if document is None:
            document = _assemble(name, sums[name], found.pop(name), read, failed)
            if not document.faults:
                _save_piece(_piece_path(cache, keys[name]), document)
        yield document


def needs_ocr(page: PageContent, ocr: OcrConfig) -> bool:
    """Return whether a page is read whole: too few words in its text layer, or an unreadable one."""
    return ocr.enabled and (page.garbled or len(page.text.split()) < ocr.min_words)


_Read = dict[tuple[str, int], list[list[Line]]]


def _read_images(
    pool: Pool, pdfs: Mapping[str, Path], found: Mapping[str, Extracted], ocr: OcrConfig, cache: Path
) -> tuple[_Read, dict[tuple[str, int], str]]:
    """Read pages without text and figures on pages with text; return the lines, and why some pages failed."""
    owners: list[tuple[str, int]] = []
    tasks: list[OcrTask] = []
    for name, path in pdfs.items():
        for number, page in enumerate(found[name].pages):
            if isinstance(page, str) or not ocr.enabled:
                continue
            whole = needs_ocr(page, ocr)
            if whole or (ocr.figures and page.figures):
                owners.append((name, number))
                figures = None if whole else page.figures
                tasks.append(OcrTask(path, number, ocr.page_pixels, figures, cache, engine_name()))
    read: _Read = {}
    failed: dict[tuple[str, int], str] = {}
    with bar("OCR", total=len(tasks), unit="page") as shown:
        for event in pool.run(tasks):
            if isinstance(event, Item):
                read[owners[event.task]] = event.value
            else:
                shown.update()
                if isinstance(event, Failed):
                    failed[owners[event.task]] = event.reason
    return read, failed


def _assemble(name: str, sha256: str, found: Extracted, read: _Read, failed: Mapping[tuple[str, int], str]) -> Document:
    if found.error is not None:
        return Document(name, sha256, (), faults=((name, found.error),), error=found.error)
    pages: list[Page] = []
    layouts: list[Layout] = []
    faults: list[tuple[str, str]] = []
    for number, content in enumerate(found.pages):
        item = f"{name}, page {number}"
        if isinstance(content, str):
            faults.append((item, content))
            pages.append(Page(0.0, 0.0, ""))
            continue
        if (name, number) in failed:
            faults.append((item, f"OCR failed: {failed[name, number]}"))
        text, blocks = _page_text(content, read.get((name, number), []))
        pages.append(Page(round(content.width, 2), round(content.height, 2), text))
        layouts += [Layout(number, block.kind, block.text, block.box) for block in blocks]
    return Document(name, sha256, tuple(pages), tuple(layouts), tuple(faults))


def _page_text(page: PageContent, read: Sequence[Sequence[Line]]) -> tuple[str, list[Block]]:
    """Return a page's text and blocks: its text layer, then what OCR read and the text layer lacks."""
    own = group_lines(page.lines)
    regions = page.figures if len(read) == len(page.figures) and page.lines and page.figures else None
    extra: list[str] = []
    known = set(_TOKEN.findall(page.text.lower()))
    for lines in read:
        extra += [line.text for line in lines if not _is_known(line.text, known)]
    blocks = list(own)
    for position, lines in enumerate(read):
        if regions is None:
            blocks += group_lines(lines)
        elif lines:
            blocks.append(Block("figure", join_lines(lines), regions[position]))
    text = page.text.strip()
    return "\n".join([text, *extra] if text else extra), [block for block in blocks if block.text]


def _is_known(line: str, known: set[str]) -> bool:
    words = _TOKEN.findall(line.lower())
    return bool(words) and sum(word in known for word in words) >= KNOWN_SHARE * len(words)


def piece_key(sha256: str, ocr: OcrConfig) -> str:
    """Return the key of a document's piece: its bytes, this version, and the settings that change its text."""
    settings = ocr.model_dump_json(exclude={"workers"}) + engine_name() if ocr.enabled else "no OCR"
    return digest("piece", sha256, PREPARATION_VERSION, ocr.figure_share, settings)


def _piece_path(cache: Path, key: str) -> Path:
    return cache / "documents" / f"{key}.json"


def _save_piece(path: Path, document: Document) -> None:
    body = json.dumps(
        {"pages": [asdict(p) for p in document.pages], "layouts": [asdict(b) for b in document.layouts]},
        ensure_ascii=False,
    )
    write_text(path, digest(body) + "\n" + body)


def _load_piece(path: Path, name: str, sha256: str) -> Document | None:
    """Return the cached document, or None where it is absent or damaged."""
    try:
        checksum, _, body = path.read_bytes().decode("utf-8").partition("\n")
    except (OSError, UnicodeDecodeError):
        return None
    if checksum != digest(body):
        return None
    data = json.loads(body)
    pages = tuple(Page(**page) for page in data["pages"])
    layouts = tuple(Layout(**{**block, "box": tuple(block["box"])}) for block in data["layouts"])
    return Document(name, sha256, pages, layouts)
