"""Track 1's PDFs: text beside pypdf and pdfplumber, OCR beside plain rapidocr."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.suite.meter import clock, peak
from benchmarks.suite.work import Context, Figure, Measured, System, Work

HERE = "benchmarks.suite.works_pages"
SAMPLE = Path(__file__).resolve().parents[2] / "data" / "sample"
WORDS = 10
"""Pages of fewer words in their text layer are read by OCR, as runs do."""
FEW = 8
"""Pages with a text layer on which the recall of OCR is told: the layer's words that it finds."""


def choose(root: str, out: str, pages: int, scanned: int) -> None:
    """Write which pages are read: whole documents with text until there are `pages`; `scanned` pages without."""
    import pypdfium2 as pdfium

    files = sorted((Path(root) / "mmdocir" / "pdfs").glob("*.pdf"))
    counts: dict[str, int] = {}
    bare: list[tuple[str, int]] = []
    full: list[tuple[str, int]] = []
    for path in files:
        document, already = pdfium.PdfDocument(path), len(full)
        for index in range(len(document)):
            words = len(document[index].get_textpage().get_text_bounded().split())
            if words < WORDS:
                bare.append((str(path), index))
            elif words > 2 * WORDS:
                full.append((str(path), index))
        if sum(counts.values()) < pages and len(full) - already > len(document) / 2:
            counts[str(path)] = len(document)
        document.close()
    body = {"files": list(counts), "pages": sum(counts.values())}
    body |= {"scanned": _spread(bare, scanned), "told": _spread(full, min(FEW, scanned))}
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    Path(out).write_text(json.dumps(body), encoding="utf-8")


def _spread(items: Sequence[Any], count: int) -> list[Any]:
    """Return `count` items, evenly spread over the list."""
    return [items[i * len(items) // count] for i in range(count)] if len(items) > count else list(items)


# --- text ---

Reader = Callable[[str, int | None], Sequence[str | None]]


def text(system: str, chosen: str) -> Measured:
    """Read the text of all pages of the documents, in one process; a page that the library refuses is counted."""
    body = json.loads(Path(chosen).read_text(encoding="utf-8"))
    readers: dict[str, Reader] = {
        "kit": _kit_text, "pypdf": _pypdf, "pdfplumber": _pdfplumber, "pypdfium2": _pypdfium2
    }  # fmt: skip
    read = readers[system]
    read(body["files"][0], 1)  # imports
    with clock() as took:
        texts = [page for path in body["files"] for page in read(path, None)]
    assert len(texts) == body["pages"]
    words = sum(len(page.split()) for page in texts if page is not None)
    refused = sum(page is None for page in texts)
    return Measured({"text": took.sample(len(texts))}, {"k words": words / 1000, "pages refused": refused})


def _kit_text(path: str, most: int | None) -> list[str]:
    """Text, lines and figures' boxes of the pages, as `prepare` reads them."""
    from track1_mdr.datasets.pdf import open_pdf, read_page

    with open_pdf(Path(path)) as document:
        return [read_page(document, index, 0.05).text for index in range(most or len(document))]


def _pypdfium2(path: str, most: int | None) -> list[str]:
    """Return the text alone, by the library that the kit reads PDFs with."""
    import pypdfium2 as pdfium

    document = pdfium.PdfDocument(path)
    try:
        return [document[index].get_textpage().get_text_bounded() for index in range(most or len(document))]
    finally:
        document.close()


def _pypdf(path: str, most: int | None) -> list[str | None]:
    """Return the text, None of a page that is too much for it: it reads a limited number of tokens a page."""
    from pypdf import PageObject, PdfReader
    from pypdf.errors import LimitReachedError

    def text_of(page: PageObject) -> str | None:
        try:
            return page.extract_text()
        except LimitReachedError:
            return None

    return [text_of(page) for page in PdfReader(path).pages[:most]]


def _pdfplumber(path: str, most: int | None) -> list[str]:
    import pdfplumber

    with pdfplumber.open(path) as document:
        return [page.extract_text() or "" for page in document.pages[:most]]


def pdf(context: Context) -> Work:
    """Return the readers of PDF text."""
    pages, scanned = context.pick((400, 40), (76, 6), (10, 1))
    systems = (
        _system("pypdf", "pypdf", "text", context, peer=True, needs=("pypdf",), repeats=1),
        _system("pdfplumber", "pdfplumber", "text", context, peer=True, needs=("pdfplumber",), repeats=1),
        _system("pypdfium2", "pypdfium2, text alone", "text", context, peer=True),
        _system("kit", "text, lines, figures", "text", context, against=("pypdf", "pdfplumber", "pypdfium2")),
    )
    figures = (Figure("text", "PDF text", "pages/s"),)
    prepare = _choose(context, pages, scanned)
    return Work("pdf", "text of PDF pages", figures, systems, prepare, context.pick(3, 1, 1), 900)


def _system(name: str, label: str, call: str, context: Context, **more: Any) -> System:
    arguments = {"system": name, "chosen": str(context.folder / "pages" / "chosen.json")}
    return System(name, label, f"{HERE}:{call}", arguments, **more)


def _choose(context: Context, pages: int, scanned: int) -> System:
    real = context.data is not None and (context.data / "mmdocir" / "pdfs").is_dir() and context.size != "tiny"
    root = str(context.data if real else SAMPLE)
    out = str(context.folder / "pages" / "chosen.json")
    arguments = {"root": root, "out": out, "pages": pages, "scanned": scanned}
    return System("choose", "pages", f"{HERE}:choose", arguments)


# --- OCR ---


def ocr(system: str, chosen: str) -> Measured:
    """Render and read pages without a text layer in one process; then, off the clock, a few that have one."""
    from track1_mdr.config import OcrConfig

    body = json.loads(Path(chosen).read_text(encoding="utf-8"))
    read = {"kit": _kit_ocr, "rapidocr": _rapidocr}[system](OcrConfig().page_pixels)
    list(read(body["scanned"][:1]))  # models are loaded
    with clock() as took:
        texts = list(read(body["scanned"]))
    largest = peak()
    facts = {"words": float(sum(len(text.split()) for text in texts))} | _recall(read, body["told"])
    return Measured({"pages": took.sample(len(texts))}, facts, largest)


Read = Callable[[Sequence[Sequence[Any]]], Iterator[str]]


def _kit_ocr(pixels: int) -> Read:
    from track1_mdr.datasets.ocr import make_engine, read_image
    from track1_mdr.datasets.pdf import open_pdf, render_page

    engine = make_engine()

    def read(pages: Sequence[Sequence[Any]]) -> Iterator[str]:
        for path, index in pages:
            with open_pdf(Path(path)) as document:
                image = render_page(document, index, pixels)
            yield "\n".join(line.text for line in read_image(engine, image))

    return read


def _rapidocr(pixels: int) -> Read:
    """Return a reader by rapidocr as it comes, on the same images."""
    from rapidocr import RapidOCR

    from track1_mdr.datasets.pdf import open_pdf, render_page

    engine = RapidOCR()

    def read(pages: Sequence[Sequence[Any]]) -> Iterator[str]:
        for path, index in pages:
            with open_pdf(Path(path)) as document:
                image = render_page(document, index, pixels)
            found = engine(image[:, :, ::-1].copy())
            yield "\n".join(getattr(found, "txts", None) or ())

    return read


def _recall(read: Read, pages: Sequence[Sequence[Any]]) -> dict[str, float]:
    """Return the share of the text layers' different words that OCR finds on rendered pages, in percent."""
    import re

    from track1_mdr.datasets.pdf import open_pdf, read_page

    found = wanted = 0
    for (path, index), text in zip(pages, read(pages), strict=True):
        with open_pdf(Path(path)) as document:
            layer = read_page(document, index, 0.05).text
        words = set(re.findall(r"[a-z0-9]{3,}", layer.lower()))
        found += len(words & set(re.findall(r"[a-z0-9]{3,}", text.lower())))
        wanted += len(words)
    return {"recall": 100 * found / wanted} if wanted else {}


def scans(context: Context) -> Work:
    """Return the readers of pages without text."""
    pages, scanned = context.pick((400, 40), (76, 6), (10, 1))
    systems = (
        _system("rapidocr", "rapidocr as it comes", "ocr", context, peer=True),
        _system("kit", "OCR of this kit", "ocr", context, against=("rapidocr",)),
    )
    figures = (Figure("pages", "OCR", "CPU-s a page", per="time", clock="cpu"),)
    prepare = _choose(context, pages, scanned)
    return Work("ocr", "pages without a text layer", figures, systems, prepare, context.pick(2, 1, 1), 900)
