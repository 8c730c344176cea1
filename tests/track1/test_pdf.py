from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from reportlab.lib.utils import ImageReader
from reportlab.pdfgen.canvas import Canvas

from common.errors import DataError
from tests.track1.pdf_files import PAGE, blank_pdf, image_pdf, text_pdf
from track1_mdr.datasets.blocks import group_lines
from track1_mdr.datasets.pdf import Line, clean_text, is_garbled, merge_boxes, open_pdf, read_page, render_page


def noise(width: int = 60, height: int = 40, seed: int = 1) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def test_text_of_each_page_in_order(tmp_path: Path) -> None:
    path = text_pdf(tmp_path / "a.pdf", [f"page number {i}\nsecond line" for i in range(5)])
    with open_pdf(path) as document:
        texts = [read_page(document, i, 0.03).text for i in range(len(document))]
    assert [text.split("\n")[0].strip() for text in texts] == [f"page number {i}" for i in range(5)]
    assert all("second line" in text and "\r" not in text for text in texts)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p.write_bytes(b""), "empty"),
        (lambda p: text_pdf(p, ["secret"], lock="pw"), "encrypted"),
        (lambda p: p.write_text("<html>not found</html>"), "not a PDF"),
        (lambda p: p.write_bytes(b"%PDF-1.4\n1 0 obj\n<< /Ty"), "truncated"),
        (lambda p: None, "absent"),
        (lambda p: blank_pdf(p, 6_000), "6,000 pages"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, make: object, message: str) -> None:
    path = tmp_path / "report_7.pdf"
    make(path)  # type: ignore[operator]
    with pytest.raises(DataError, match=message) as info, open_pdf(path):
        pass
    assert "report_7.pdf" in str(info.value)


def test_the_page_cap_is_inclusive(tmp_path: Path) -> None:
    path = blank_pdf(tmp_path / "a.pdf", 6)
    with open_pdf(path, max_pages=6) as document:
        assert len(document) == 6
        assert read_page(document, 5, 0.03).text == ""
    with pytest.raises(DataError, match="too many pages"), open_pdf(path, max_pages=5):
        pass


@pytest.mark.parametrize("size", [(14_400, 14_400), (200_000, 100), (20, 150_000)])
def test_a_huge_page_is_never_rendered_beyond_the_cap(tmp_path: Path, size: tuple[int, int]) -> None:
    path = text_pdf(tmp_path / "a.pdf", ["x"], size=size)
    with open_pdf(path) as document:
        assert max(render_page(document, 0, 1_000).shape[:2]) <= 1_001
        assert max(render_page(document, 0, 10**6).shape[:2]) <= 4_001
        assert min(render_page(document, 0, 1_000).shape[:2]) >= 1


def test_small_pages_are_not_blown_up_beyond_the_scale(tmp_path: Path) -> None:
    path = text_pdf(tmp_path / "a.pdf", ["x"], size=(100, 200))
    with open_pdf(path) as document:
        assert render_page(document, 0, 2_000, max_scale=2.0).shape == (400, 200, 3)


def test_line_boxes_fit_the_rendering(tmp_path: Path) -> None:
    """Oracle: ink. All dark pixels of the rendering lie inside the boxes of the lines."""
    path = text_pdf(tmp_path / "a.pdf", ["Some words here\n\n\nMore words there"])
    with open_pdf(path) as document:
        lines, image = read_page(document, 0, 0.03).lines, render_page(document, 0, 1_584)
    rows, columns = np.nonzero(image.min(2) < 128)
    inside = np.zeros(len(rows), bool)
    for line in lines:
        left, top, right, bottom = line.box
        y, x = rows / image.shape[0], columns / image.shape[1]
        inside |= (x >= left - 0.004) & (x <= right + 0.004) & (y >= top - 0.004) & (y <= bottom + 0.004)
    assert [line.text for line in lines] == ["Some words here", "More words there"]
    assert len(rows) > 100
    assert inside.mean() > 0.99


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("crop", [None, (50, 100, 562, 742)])
@pytest.mark.parametrize("form", [False, True])
def test_figure_boxes_fit_the_rendering(tmp_path: Path, rotation: int, crop: tuple | None, form: bool) -> None:
    """Oracle: ink, under rotation, a crop box and inside a form object that is moved and scaled."""
    canvas = Canvas(str(tmp_path / "a.pdf"), pagesize=PAGE)
    canvas.setPageRotation(rotation)
    if crop:
        canvas.setCropBox(crop)
    black = ImageReader(Image.new("RGB", (50, 50), "black"))
    if form:
        canvas.beginForm("f")
        canvas.drawImage(black, 0, 0, 100, 60)
        canvas.endForm()
        canvas.translate(150, 300)
        canvas.scale(2, 2)
        canvas.doForm("f")
    else:
        canvas.drawImage(black, 150, 300, 200, 120)
    canvas.save()
    with open_pdf(tmp_path / "a.pdf") as document:
        content, image = read_page(document, 0, 0.03), render_page(document, 0, 1_000)
    rows, columns = np.nonzero(image.max(2) < 50)
    height, width = image.shape[:2]
    ink = (columns.min() / width, rows.min() / height, (columns.max() + 1) / width, (rows.max() + 1) / height)
    assert len(content.figures) == 1
    assert content.figures[0] == pytest.approx(ink, abs=0.004)


def test_strips_make_one_figure_and_small_images_none(tmp_path: Path) -> None:
    canvas = Canvas(str(tmp_path / "a.pdf"), pagesize=PAGE)
    for strip in range(10):
        canvas.drawImage(ImageReader(noise(seed=strip)), 100, 400 + 20 * strip, 300, 20)
    canvas.drawImage(ImageReader(noise()), 20, 100, 29, 700)  # tall, but too thin
    canvas.drawImage(ImageReader(noise()), 500, 100, 40, 40)  # wide enough, but a small share of the page
    canvas.save()
    with open_pdf(tmp_path / "a.pdf") as document:
        figures = read_page(document, 0, 0.03).figures
    assert len(figures) == 1
    assert figures[0] == pytest.approx((100 / 612, 192 / 792, 400 / 612, 392 / 792), abs=0.003)


def test_merge_boxes_leaves_no_overlap_and_loses_no_area() -> None:
    rng = np.random.default_rng(5)
    corners = rng.random((80, 2))
    boxes = [(x, y, x + w, y + h) for (x, y), (w, h) in zip(corners, rng.random((80, 2)) * 0.1, strict=True)]
    merged = merge_boxes(boxes)
    for a in boxes:
        assert any(b[0] <= a[0] and b[1] <= a[1] and b[2] >= a[2] and b[3] >= a[3] for b in merged)
    for i, a in enumerate(merged):
        for b in merged[i + 1 :]:
            assert not (a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3])
    assert set(merge_boxes(boxes[::-1])) == set(merged)
    assert len(merged) < len(boxes)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a\r\nb\rc", "a\nb\nc"),
        ("reason\ufffeing", "reasoning"),
        ("reason\x02\r\ning", "reasoning"),
        ("plan\xad\r\nning", "planning"),
        ("five\xadstar", "five-star"),
        ("\uf0b7 item\x07", "  item "),
        ("naïve 東京 №5", "naïve 東京 №5"),
    ],
)
def test_clean_text(source: str, expected: str) -> None:
    assert clean_text(source) == expected


def test_garbled_text_layers() -> None:
    sentence = "The annual report shows that revenue rose in every region of the country during the year. "
    assert not is_garbled(sentence * 3)
    assert not is_garbled("1 Changelog . . . . . . . . . . . . . . 141\r\n" * 20)  # a table of contents
    assert not is_garbled("12.5 13.0 (4,500) 7% " * 30)
    assert not is_garbled("")
    assert is_garbled("".join(chr(1 + ord(c) % 26) if c.isalpha() else c for c in sentence * 3))
    assert is_garbled("".join(chr(0xE000 + ord(c)) if c.isalpha() else c for c in sentence * 3))
    no_vowels = str.maketrans("aeiouAEIOU", "xzqwkXZQWK")
    assert is_garbled((sentence * 3).translate(no_vowels))


def test_blocks_by_geometry() -> None:
    lines = [
        Line("A Large Heading", (0.1, 0.05, 0.6, 0.08)),
        Line("First line of a para\ufffe", (0.1, 0.12, 0.9, 0.135)),
        Line("graph that goes on.", (0.1, 0.14, 0.9, 0.155)),
        Line("Figure 3: the caption", (0.1, 0.158, 0.9, 0.173)),
        Line("Far below.", (0.1, 0.5, 0.9, 0.515)),
        Line("1 2 3 4.5 6% 7", (0.1, 0.7, 0.9, 0.715)),
        Line("Table 2. Numbers", (0.1, 0.8, 0.9, 0.815)),
    ]
    blocks = group_lines(lines)
    assert [block.kind for block in blocks] == ["title", "text", "figure", "text", "table", "table"]
    assert blocks[1].text == "First line of a paragraph that goes on."
    assert blocks[1].box == (0.1, 0.12, 0.9, 0.155)


def test_image_only_page_has_no_text_but_a_figure(tmp_path: Path) -> None:
    path = image_pdf(tmp_path / "a.pdf", [noise()], box=(0, 0, 612, 792))
    with open_pdf(path) as document:
        content = read_page(document, 0, 0.03)
    assert content.text.strip() == ""
    assert content.figures == ((0.0, 0.0, 1.0, 1.0),)


@pytest.mark.real
def test_real_pdfs(real_data: Path) -> None:
    folder = real_data / "mmdocir" / "pdfs"
    with open_pdf(folder / "afe620b9beac86c1027b96d31d396407.pdf") as document:
        assert [read_page(document, i, 0.03).garbled for i in range(7)] == [True] * 7
    with open_pdf(folder / "2312.09390v1.pdf") as document:
        contents = [read_page(document, i, 0.03) for i in range(len(document))]
    assert not any(content.garbled for content in contents)
    assert sum(len(content.text.split()) for content in contents) > 10_000
    assert "supervision" in contents[0].text.lower()
    for content in contents[:10]:
        words = "".join(group.text for group in group_lines(content.lines)).split()
        assert len("".join(words)) == pytest.approx(len("".join(content.text.split())), rel=0.02)
