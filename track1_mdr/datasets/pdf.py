"""PDF pages: text layer, lines, raster figures and rendering (pypdfium2).

All boxes are shares (0..1) of the visible page: left, top, right, bottom, origin at the top left, after the
page's own rotation and crop. They fit the rendered image whatever its size.
"""

from __future__ import annotations

import ctypes
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pypdfium2 as pdfium
import pypdfium2.raw as raw

from common.errors import DataError

MAX_PAGES = 5_000
"""Pages above which a document is refused; the largest of MMDocIR has 844."""
MAX_RENDER_PIXELS = 4_000
"""Long side of any rendering, whatever is asked: 48 MB as RGB."""
MIN_FIGURE_POINTS = 30.0
"""Raster images with a shorter side are icons and rules."""
MAX_FORM_DEPTH = 4
GARBLED_JUNK = 0.2
"""Share of control and private-use characters above which a text layer is unreadable.

On 1,798 real pages with text, 7 (one document with broken fonts) lie above 0.8 and all others below 0.02.
"""
GARBLED_VOWELS = 0.25
"""Share of Latin words with a vowel below which a text layer is unreadable; real pages lie above 0.66."""

Box = tuple[float, float, float, float]
_HYPHEN = "\ufffe"  # what pdfium puts in the place of a hyphen and line break inside a word
_LINE = re.compile(f"[^\r\n{_HYPHEN}\x02]+[{_HYPHEN}\x02]?")
# Control, private-use and surrogate codes and non-characters: not text, except tab, line ends and the hyphen marks.
_JUNK = re.compile("[\x00\x01\x03-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ue000-\uf8ff\ufdd0-\ufdef\uffff]")
_SPACES = " \t\r\n\xa0"
_WORD = re.compile(r"[A-Za-z]{3,}")
_NO_VOWEL = re.compile(r"(?<![A-Za-z])[b-df-hj-np-tv-xzB-DF-HJ-NP-TV-XZ]{3,}(?![A-Za-z])")
# What `clean_text` looks for beside line ends: without any of it, a line stays as it is.
_UNCLEAN = re.compile(f"[\xad\x02{_HYPHEN}]|{_JUNK.pattern}")


@dataclass(frozen=True)
class Line:
    """One line of text. `text` ends in U+FFFE where its last word goes on in the next line."""

    text: str
    box: Box


@dataclass(frozen=True)
class PageContent:
    """What one page holds. `width` and `height` are points; `text` is "" when `garbled`."""

    width: float
    height: float
    text: str
    lines: tuple[Line, ...]
    figures: tuple[Box, ...]
    garbled: bool


@contextmanager
def open_pdf(path: Path, max_pages: int = MAX_PAGES) -> Iterator[pdfium.PdfDocument]:
    """Open a PDF; close it when the block ends.

    Raises
    ------
    DataError
        No such file, empty, encrypted, truncated or not a PDF, without pages, or more than `max_pages` pages.
    """
    document = load_pdf(path, max_pages)
    try:
        yield document
    finally:
        document.close()


def load_pdf(path: Path, max_pages: int = MAX_PAGES) -> pdfium.PdfDocument:
    """Open a PDF as `open_pdf` does; the caller closes it."""
    if not path.is_file():
        raise DataError("the PDF is absent", where=path, todo="put it there, or drop its questions")
    if path.stat().st_size == 0:
        raise DataError("the PDF is empty (0 bytes)", where=path, todo="download the file again")
    try:
        document = pdfium.PdfDocument(path)
    except pdfium.PdfiumError as error:
        raise _explain(path, error) from None
    pages = len(document)
    if not 1 <= pages <= max_pages:
        document.close()
        if pages < 1:
            raise DataError("the PDF has no pages", where=path, todo="download the file again")
        raise DataError(
            "the PDF has too many pages",
            where=path,
            expected=f"at most {max_pages:,} pages",
            got=f"{pages:,} pages",
            todo="split the document, or raise MAX_PAGES in track1_mdr/datasets/pdf.py",
        )
    return document


def _explain(path: Path, error: pdfium.PdfiumError) -> DataError:
    if getattr(error, "err_code", None) in (raw.FPDF_ERR_PASSWORD, raw.FPDF_ERR_SECURITY):
        return DataError("the PDF is encrypted", where=path, todo="remove its password, e.g. with qpdf --decrypt")
    with path.open("rb") as file:
        head = file.read(1024)
    if b"%PDF-" not in head:
        return DataError(
            "the file is not a PDF", where=path, expected="%PDF- at its start", got=repr(head[:16]), todo="replace it"
        )
    return DataError("the PDF is truncated or damaged", where=path, got=str(error), todo="download the file again")


def read_page(document: pdfium.PdfDocument, index: int, figure_share: float) -> PageContent:
    """Read page `index` (from 0): text, lines and the raster figures of at least `figure_share` of its area.

    Raises
    ------
    DataError
        The page cannot be loaded or has no area.
    """
    page = _load_page(document, index)
    try:
        width, height = page.get_size()
        transform = _Transform(page)
        textpage = page.get_textpage()
        try:
            source = textpage.get_text_range()
            garbled = is_garbled(source)
            lines = () if garbled else tuple(_lines(textpage, source, transform))
        finally:
            textpage.close()
        boxes = merge_boxes([transform(*corners) for corners in _images(page.raw, _IDENTITY, 0)], 3 / width, 3 / height)
        figures = tuple(
            box
            for box in boxes
            if _area(box) >= figure_share
            and min((box[2] - box[0]) * width, (box[3] - box[1]) * height) >= MIN_FIGURE_POINTS
        )
        return PageContent(width, height, "" if garbled else clean_text(source), lines, figures, garbled)
    finally:
        page.close()


def render_page(document: pdfium.PdfDocument, index: int, pixels: int, max_scale: float | None = None) -> np.ndarray:
    """Render page `index` as uint8 RGB [H, W, 3].

    The scale is chosen from the long side, so that it has `pixels` pixels at most (and never more than
    `MAX_RENDER_PIXELS`) however large the page says it is; `max_scale` (pixels a point) bounds it further.
    """
    page = _load_page(document, index)
    try:
        scale = min(pixels, MAX_RENDER_PIXELS) / max(page.get_size())
        if max_scale is not None:
            scale = min(scale, max_scale)
        bitmap = page.render(scale=scale, rev_byteorder=True)  # pyright: ignore[reportArgumentType]
        image = np.ascontiguousarray(bitmap.to_numpy()[:, :, :3])
        bitmap.close()
        return image
    except pdfium.PdfiumError as error:
        raise DataError("the page cannot be rendered", where=f"page {index}", got=str(error)) from None
    finally:
        page.close()


def clean_text(text: str) -> str:
    r"""Join words that a line end cut, and drop what is not text.

    >>> clean_text("rea\ufffesoning with\r\na five\xadstar \uf0b7hotel")
    'reasoning with\na five-star  hotel'
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = re.sub("[\ufffe\x02\xad]\n[ \t]*|[\ufffe\x02]", "", text)
    # Elsewhere a soft hyphen is a glyph that the page shows.
    text = text.replace("\xad", "-")
    return _JUNK.sub(" ", text)


def is_garbled(text: str) -> bool:
    """Return whether a text layer is unreadable: fonts whose codes map to no letters, or to wrong ones."""
    marks = len(text) - sum(text.count(space) for space in _SPACES)
    if marks and len(_JUNK.findall(text)) + text.count("\ufffd") > GARBLED_JUNK * marks:
        return True
    words = len(_WORD.findall(text))
    if words < 20:
        return False
    return words - len(_NO_VOWEL.findall(text)) < GARBLED_VOWELS * words


def _load_page(document: pdfium.PdfDocument, index: int) -> pdfium.PdfPage:
    try:
        page = document[index]
    except pdfium.PdfiumError as error:
        raise DataError("the page cannot be loaded", where=f"page {index}", got=str(error)) from None
    if min(page.get_size()) <= 0:
        page.close()
        raise DataError("the page has no area", where=f"page {index}")
    return page


class _Transform:
    """Boxes in page coordinates to shares of the visible page, by the page's own rotation and crop box."""

    def __init__(self, page: pdfium.PdfPage) -> None:
        left, bottom, right, top = page.get_bbox()
        size = 1_000_000
        corners = []
        for x, y in ((left, bottom), (right, bottom), (left, top)):
            dx, dy = ctypes.c_int(), ctypes.c_int()
            raw.FPDF_PageToDevice(page.raw, 0, 0, size, size, 0, x, y, dx, dy)
            corners.append((dx.value / size, dy.value / size))
        (ox, oy), (ax, ay), (bx, by) = corners
        width, height = (right - left) or 1.0, (top - bottom) or 1.0
        self.origin, self.corner = (ox, oy), (left, bottom)
        self.along = ((ax - ox) / width, (ay - oy) / width)
        self.up = ((bx - ox) / height, (by - oy) / height)

    def __call__(self, left: float, bottom: float, right: float, top: float) -> Box:
        (ox, oy), (cx, cy), (ax, ay), (bx, by) = self.origin, self.corner, self.along, self.up
        u, v, w, z = left - cx, bottom - cy, right - cx, top - cy
        x0, x1 = ox + u * ax + v * bx, ox + w * ax + z * bx
        y0, y1 = oy + u * ay + v * by, oy + w * ay + z * by
        return (_share(min(x0, x1)), _share(min(y0, y1)), _share(max(x0, x1)), _share(max(y0, y1)))


def _share(value: float) -> float:
    return round(min(max(value, 0.0), 1.0), 5)


def _lines(textpage: pdfium.PdfTextPage, source: str, transform: _Transform) -> Iterator[Line]:
    wide = [i for i, c in enumerate(source) if c > "\uffff"] if max(source, default="") > "\uffff" else []
    clean = _UNCLEAN.search(source) is None
    left, top, right, bottom = edges = [ctypes.c_double() for _ in range(4)]
    handle, get_rect = textpage.raw, raw.FPDFText_GetRect
    for match in _LINE.finditer(source):
        whole = match.group()
        text = (whole if clean else clean_text(whole.rstrip("\ufffe\x02"))).strip()
        if not text:
            continue
        first = match.start()
        shift = sum(i < first for i in wide)  # pdfium counts UTF-16 units
        start = raw.FPDFText_GetCharIndexFromTextIndex(handle, first + shift)
        low_x, low_y, high_x, high_y = math.inf, math.inf, -math.inf, -math.inf
        for rect in range(max(0, raw.FPDFText_CountRects(handle, max(start, 0), len(whole)))):
            if get_rect(handle, rect, *edges):
                low_x, high_x = min(low_x, left.value), max(high_x, right.value)
                low_y, high_y = min(low_y, bottom.value), max(high_y, top.value)
        if start >= 0 and low_x <= high_x:
            broken = whole[-1] in "\ufffe\x02"
            yield Line(text + _HYPHEN * broken, transform(low_x, low_y, high_x, high_y))


_Matrix = tuple[float, float, float, float, float, float]
_IDENTITY: _Matrix = (1.0, 0.0, 0.0, 1.0, 0.0, 0.0)


def _images(holder: object, matrix: _Matrix, depth: int) -> Iterator[Box]:
    """Yield left, bottom, right, top of each image in page coordinates, also those inside form objects."""
    count, get = (
        (raw.FPDFFormObj_CountObjects, raw.FPDFFormObj_GetObject)
        if depth
        else (raw.FPDFPage_CountObjects, raw.FPDFPage_GetObject)
    )
    edges = [ctypes.c_float() for _ in range(4)]
    get_kind = raw.FPDFPageObj_GetType
    for number in range(max(0, count(holder))):
        item = get(holder, number)
        kind = get_kind(item)
        if kind == raw.FPDF_PAGEOBJ_IMAGE:
            if raw.FPDFPageObj_GetBounds(item, *edges):
                # Bounds are in the coordinates of the form that holds the image.
                yield _apply(matrix, *(edge.value for edge in edges))
        elif kind == raw.FPDF_PAGEOBJ_FORM and depth < MAX_FORM_DEPTH:
            inner = raw.FS_MATRIX()
            if raw.FPDFPageObj_GetMatrix(item, inner):
                own = (inner.a, inner.b, inner.c, inner.d, inner.e, inner.f)
                yield from _images(item, _compose(own, matrix), depth + 1)


def _compose(inner: _Matrix, outer: _Matrix) -> _Matrix:
    a, b, c, d, e, f = inner
    p, q, r, s, t, u = outer
    return (a * p + b * r, a * q + b * s, c * p + d * r, c * q + d * s, e * p + f * r + t, e * q + f * s + u)


def _apply(matrix: _Matrix, left: float, bottom: float, right: float, top: float) -> Box:
    a, b, c, d, e, f = matrix
    points = [(a * x + c * y + e, b * x + d * y + f) for x in (left, right) for y in (bottom, top)]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return (min(xs), min(ys), max(xs), max(ys))


def _area(box: Box) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def merge_boxes(boxes: list[Box], gap_x: float = 0.0, gap_y: float = 0.0) -> list[Box]:
    """Join boxes that overlap or lie within the gaps of each other, until none do; top to bottom.

    Images are often stored as strips or tiles; a figure is what they make together.
    """
    gap = np.asarray([gap_x, gap_y])
    merged = np.empty((0, 4))
    for box in boxes:
        if _area(box) <= 0:
            continue
        current = np.asarray(box)
        while True:
            near = (merged[:, :2] <= current[2:] + gap).all(1) & (current[:2] <= merged[:, 2:] + gap).all(1)
            if not near.any():
                break
            group = np.vstack([merged[near], current])
            current = np.concatenate([group[:, :2].min(0), group[:, 2:].max(0)])
            merged = merged[~near]
        merged = np.vstack([merged, current])
    return sorted((tuple(float(v) for v in row) for row in merged), key=lambda b: (b[1], b[0], b[3], b[2]))  # pyright: ignore[reportReturnType]
