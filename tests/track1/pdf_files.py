"""PDFs for tests, made by reportlab."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from reportlab.lib.pdfencrypt import StandardEncryption
from reportlab.lib.utils import ImageReader
from reportlab.pdfgen.canvas import Canvas

PAGE = (612, 792)


def text_pdf(path: Path, pages: Sequence[str], size: tuple[float, float] = PAGE, lock: str | None = None) -> Path:
    """Each page has its lines from the top."""
    encrypt = StandardEncryption(lock, canPrint=0) if lock else None
    canvas = Canvas(str(path), pagesize=size, encrypt=encrypt, invariant=1)
    for text in pages:
        canvas.setFont("Helvetica", 12)
        for row, line in enumerate(text.split("\n")):
            canvas.drawString(72, size[1] - 72 - 16 * row, line)
        canvas.showPage()
    canvas.save()
    return path


def drawn_text(text: str, size: tuple[int, int] = (600, 160), points: int = 40) -> Image.Image:
    """An image of words."""
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    for row, line in enumerate(text.split("\n")):
        draw.text((20, 20 + row * (points + 20)), line, fill="black", font=ImageFont.load_default(points))
    return image


def image_pdf(
    path: Path, images: Sequence[Image.Image], text: str = "", box: tuple[float, ...] = (72, 300, 400, 200)
) -> Path:
    """One image a page at `box` (x, y, width, height in points), and the same text above it."""
    canvas = Canvas(str(path), pagesize=PAGE, invariant=1)
    for image in images:
        canvas.drawImage(ImageReader(image), *box)
        for row, line in enumerate(text.split("\n")):
            canvas.drawString(72, 720 - 16 * row, line)
        canvas.showPage()
    canvas.save()
    return path


def blank_pdf(path: Path, pages: int) -> Path:
    """Many empty pages in a flat page tree; quick to build."""
    return raw_pdf(path, ["<< /Type /Page /Parent 2 0 R >>"] * pages, [])


def broken_page_pdf(path: Path) -> Path:
    """Three pages; the object of the middle one is a number."""
    font = "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"
    contents = [f"BT /F1 12 Tf 72 700 Td ({word} page here) Tj ET" for word in ("first", "third")]
    streams = [f"<< /Length {len(text)} >>\nstream\n{text}\nendstream" for text in contents]
    page = "<< /Type /Page /Parent 2 0 R /Contents {} 0 R /Resources << /Font << /F1 6 0 R >> >> >>"
    return raw_pdf(path, [page.format(7), "42", page.format(8)], [font, *streams])


def raw_pdf(path: Path, pages: Sequence[str], others: Sequence[str]) -> Path:
    """Write a PDF from object bodies: pages are objects 3, 4, ...; the others follow."""
    kids = " ".join(f"{number} 0 R" for number in range(3, len(pages) + 3))
    tree = f"<< /Type /Pages /Count {len(pages)} /Kids [{kids}] /MediaBox [0 0 612 792] >>"
    bodies = ["<< /Type /Catalog /Pages 2 0 R >>", tree, *pages, *others]
    file = BytesIO()
    file.write(b"%PDF-1.4\n")
    offsets = []
    for number, body in enumerate(bodies, start=1):
        offsets.append(file.tell())
        file.write(f"{number} 0 obj\n{body}\nendobj\n".encode())
    start = file.tell()
    file.write(f"xref\n0 {len(offsets) + 1}\n0000000000 65535 f \n".encode())
    file.write("".join(f"{offset:010d} 00000 n \n" for offset in offsets).encode())
    file.write(f"trailer\n<< /Size {len(offsets) + 1} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n".encode())
    path.write_bytes(file.getvalue())
    return path
