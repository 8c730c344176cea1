"""The sample's MMDocIR half: read `sample_source/*.txt` and draw them as PDFs with questions and gold.

One source file is one document. Lines: `@doc name | domain | text or slides`, `=== heading` starts a page,
`- ` a bullet, `%table caption` and `%bar|line|pie[!] caption` start a block of rows (`!` = drawn as pixels),
`? type :: question :: answer` asks about the page it stands on, `?+2,5 ...` about several pages (from 0).
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from reportlab.lib.pagesizes import A4
from reportlab.lib.utils import ImageReader, simpleSplit
from reportlab.pdfgen.canvas import Canvas as PdfCanvas

from data.sample_drawing import COLOURS, chart_image, draw_slide

MARGIN = 64


@dataclass
class Block:
    """A table or a chart: rows of cells as written."""

    kind: str
    caption: str
    pixels: bool
    rows: list[list[str]] = field(default_factory=list)

    @property
    def values(self) -> list[tuple[str, float]]:
        """The labels and values of a chart."""
        return [(label, float(value)) for label, value in self.rows]


@dataclass
class Page:
    """One page: heading, then paragraphs, bullets and blocks in their order."""

    heading: str
    parts: list[str | Block] = field(default_factory=list)


@dataclass(frozen=True)
class Question:
    """A question with its gold pages, from 0."""

    text: str
    answer: str
    kind: str
    pages: tuple[int, ...]


@dataclass
class Document:
    """One source file."""

    name: str
    domain: str
    slides: bool
    pages: list[Page] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)


def read_source(path: Path) -> Document:
    """Read one source file; raise `ValueError` naming the line that has no meaning."""
    lines = path.read_text(encoding="utf-8").splitlines()
    name, domain, style = (part.strip() for part in lines[0].removeprefix("@doc ").split("|"))
    document = Document(name, domain, style == "slides")
    for number, line in enumerate(lines[1:], start=2):
        if line.startswith("=== "):
            document.pages.append(Page(line[4:]))
        elif line.startswith("?"):
            document.questions.append(_question(line, len(document.pages) - 1))
        elif line.startswith("%"):
            kind, _, caption = line[1:].partition(" ")
            document.pages[-1].parts.append(Block(kind.rstrip("!"), caption, kind.endswith("!")))
        elif line:
            _add_line(document.pages[-1], line, f"{path.name}:{number}")
    return document


def _add_line(page: Page, line: str, where: str) -> None:
    block = page.parts[-1] if page.parts else None
    if isinstance(block, Block) and block.kind == "table" and "|" in line:
        block.rows.append([cell.strip() for cell in line.split("|")])
    elif isinstance(block, Block) and block.kind != "table" and _is_value(line):
        label, _, value = line.rpartition(": ")
        block.rows.append([label, value])
    elif "|" in line:
        raise ValueError(f"{where}: a table row outside a table")
    else:
        page.parts.append(line)


def _is_value(line: str) -> bool:
    _, colon, value = line.rpartition(": ")
    return bool(colon) and value.lstrip("-").replace(".", "", 1).isdigit()


def _question(line: str, page: int) -> Question:
    head, text, answer = (part.strip() for part in line.split(" :: "))
    mark, _, kind = head.partition(" ")
    pages = tuple(int(number) for number in mark[2:].split(",")) if mark.startswith("?+") else (page,)
    return Question(text, answer, f"['{kind}']", pages)


def write_pdf(document: Document, path: Path) -> None:
    """Draw `document` as a PDF whose bytes depend on its content alone.

    Streams are not compressed, since two builds of zlib may compress differently.
    """
    canvas = PdfCanvas(str(path), pagesize=A4, invariant=1, pageCompression=0)
    canvas.setTitle(document.name)
    for number, page in enumerate(document.pages, start=1):
        if document.slides:
            rows = [(p.kind, p.caption, p.rows) if isinstance(p, Block) else ("text", p, []) for p in page.parts]
            canvas.setPageSize((720, 540))
            canvas.drawImage(_jpeg(draw_slide(page.heading, rows, number)), 0, 0, 720, 540)
        else:
            _draw_page(canvas, page, number)
        canvas.showPage()
    canvas.save()


def _jpeg(image: Image.Image) -> ImageReader:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=62)
    buffer.seek(0)
    return ImageReader(buffer)


def _draw_page(canvas: PdfCanvas, page: Page, number: int) -> None:
    width, height = A4
    canvas.setFont("Helvetica-Bold", 17)
    y = height - 80.0
    for line in simpleSplit(page.heading, "Helvetica-Bold", 17, width - 2 * MARGIN):
        canvas.drawString(MARGIN, y, line)
        y -= 22
    y -= 10
    for part in page.parts:
        y = _draw_text(canvas, part, y) if isinstance(part, str) else _draw_block(canvas, part, y)
    canvas.setFont("Helvetica", 9)
    canvas.drawCentredString(width / 2, 36, str(number))


def _draw_text(canvas: PdfCanvas, text: str, y: float) -> float:
    bullet = text.startswith("- ")
    left = MARGIN + (14 if bullet else 0)
    canvas.setFont("Times-Roman", 12)
    if bullet:
        canvas.circle(MARGIN + 4, y + 3.5, 1.8, fill=1)
    for line in simpleSplit(text.removeprefix("- "), "Times-Roman", 12, A4[0] - MARGIN - left):
        canvas.drawString(left, y, line)
        y -= 16
    return y - 8


def _draw_block(canvas: PdfCanvas, block: Block, y: float) -> float:
    if block.kind == "table":
        return _draw_table(canvas, block, y)
    if block.pixels:
        canvas.drawImage(_jpeg(chart_image(block.kind, block.caption, block.values)), MARGIN, y - 250, 360, 240)
        return y - 272
    canvas.setFont("Helvetica-Oblique", 10)
    canvas.drawString(MARGIN, y, block.caption)
    base, top = y - 190, max(value for _, value in block.values)
    points = [(MARGIN + 40 + 70 * i, base + 150 * value / top) for i, (_, value) in enumerate(block.values)]
    canvas.setFont("Helvetica", 9)
    canvas.line(MARGIN, base, MARGIN + 70 * len(points) + 10, base)
    for i, ((label, value), (x, tip)) in enumerate(zip(block.values, points, strict=True)):
        canvas.setFillColorRGB(*(channel / 255 for channel in COLOURS[i % len(COLOURS)]))
        if block.kind == "bar":
            canvas.rect(x - 20, base, 40, tip - base, fill=1, stroke=0)
        elif i:
            canvas.line(*points[i - 1], x, tip)
        canvas.setFillColorRGB(0, 0, 0)
        canvas.drawCentredString(x, tip + 4, f"{value:g}")
        canvas.drawCentredString(x, base - 12, label)
    return base - 36


def _draw_table(canvas: PdfCanvas, block: Block, y: float) -> float:
    canvas.setFont("Helvetica-Oblique", 10)
    canvas.drawString(MARGIN, y, block.caption)
    y -= 8
    columns = len(block.rows[0])
    step = (A4[0] - 2 * MARGIN) / columns
    for i, row in enumerate(block.rows):
        y -= 18
        canvas.setFont("Helvetica-Bold" if i == 0 else "Helvetica", 10)
        for column, cell in enumerate(row):
            canvas.drawString(MARGIN + 4 + column * step, y + 5, cell)
        canvas.line(MARGIN, y, MARGIN + columns * step, y)
    return y - 24
