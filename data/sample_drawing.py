"""Words, charts and slides drawn as pixels, with the font that reportlab ships (same bytes everywhere)."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path

import reportlab
from PIL import Image, ImageDraw, ImageFont

_FOLDER = Path(reportlab.__file__).parent / "fonts"
FONT = _FOLDER / "Vera.ttf"
FONT_BOLD = _FOLDER / "VeraBd.ttf"
COLOURS = (
    (46, 108, 164),
    (214, 110, 49),
    (86, 150, 84),
    (160, 72, 130),
    (120, 120, 120),
    (204, 170, 40),
    (60, 150, 160),
)
BLACK, GREY = (20, 20, 20), (110, 110, 110)


@functools.lru_cache(maxsize=64)
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return the font at `size` pixels, with Pillow's own layout engine."""
    return ImageFont.truetype(str(FONT_BOLD if bold else FONT), size, layout_engine=ImageFont.Layout.BASIC)


def wrap(text: str, size: int, width: int, bold: bool = False) -> list[str]:
    """Break `text` into lines of at most `width` pixels."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font(size, bold).getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def chart_image(
    kind: str, caption: str, values: Sequence[tuple[str, float]], size: tuple[int, int] = (720, 480)
) -> Image.Image:
    """Draw a bar, line or pie chart with its numbers written beside it."""
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    draw.text((20, 12), caption, BLACK, font(20))
    (_pie if kind == "pie" else _axes)(draw, kind, values, size)
    return image


def _axes(draw: ImageDraw.ImageDraw, kind: str, values: Sequence[tuple[str, float]], size: tuple[int, int]) -> None:
    width, height = size
    base, low = height - 60, min(0.0, *(value for _, value in values))
    scale = (height - 150) / (max(value for _, value in values) - low)
    step = (width - 80) / len(values)
    last: tuple[float, float] | None = None
    for i, (label, value) in enumerate(values):
        x, tip = round(40 + step * (i + 0.5)), round(base - (value - low) * scale)
        colour = COLOURS[i % len(COLOURS)]
        if kind == "bar":
            draw.rectangle((x - step * 0.3, tip, x + step * 0.3, base), colour)
        else:
            if last:
                draw.line((*last, x, tip), COLOURS[0], 4)
            draw.ellipse((x - 6, tip - 6, x + 6, tip + 6), COLOURS[1])
        draw.text((x, tip - 10), f"{value:g}", BLACK, font(20), anchor="mb")
        draw.text((x, base + 12), label, BLACK, font(20), anchor="mt")
        last = (x, tip)
    draw.line((40, base, width - 40, base), BLACK, 2)


def _pie(draw: ImageDraw.ImageDraw, kind: str, values: Sequence[tuple[str, float]], size: tuple[int, int]) -> None:
    del kind
    radius = (size[1] - 100) // 2
    cx, cy = 40 + radius, 60 + radius
    total, start = sum(value for _, value in values), -90.0
    for i, (label, value) in enumerate(values):
        end = start + 360 * value / total
        draw.pieslice((cx - radius, cy - radius, cx + radius, cy + radius), start, end, COLOURS[i % len(COLOURS)])
        middle = math.radians((start + end) / 2)
        spot = (round(cx + radius * 0.65 * math.cos(middle)), round(cy + radius * 0.65 * math.sin(middle)))
        draw.text(spot, f"{value:g}", "white", font(20, bold=True), anchor="mm")
        y = 90 + 44 * i
        draw.rectangle((cx + radius + 40, y, cx + radius + 64, y + 24), COLOURS[i % len(COLOURS)])
        draw.text((cx + radius + 76, y), label, BLACK, font(20))
        start = end


def draw_slide(heading: str, parts: Sequence[tuple[str, str, list[list[str]]]], number: int) -> Image.Image:
    """Draw one slide, 960 x 720: `parts` are (kind, text or caption, rows)."""
    image = Image.new("RGB", (960, 720), "white")
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, 960, 14), COLOURS[number % 4])
    draw.text((60, 56), heading, BLACK, font(40, bold=True))
    y = 140
    for kind, text, rows in parts:
        if kind == "table":
            y = _slide_table(draw, text, rows, y)
        elif kind == "text":
            y = _slide_text(draw, text, y)
        else:
            chart = chart_image(kind, text, [(label, float(value)) for label, value in rows], (840, 500))
            image.paste(chart, (60, y))
            y += 510
    draw.text((900, 684), str(number), GREY, font(18), anchor="rt")
    return image


def _slide_text(draw: ImageDraw.ImageDraw, text: str, y: int) -> int:
    bullet = text.startswith("- ")
    if bullet:
        draw.ellipse((64, y + 10, 76, y + 22), COLOURS[0])
    for line in wrap(text.removeprefix("- "), 28, 800):
        draw.text((96 if bullet else 60, y), line, BLACK, font(28))
        y += 40
    return y + 20


def _slide_table(draw: ImageDraw.ImageDraw, caption: str, rows: list[list[str]], y: int) -> int:
    draw.text((60, y), caption, GREY, font(22))
    y += 46
    step = 840 // len(rows[0])
    for i, row in enumerate(rows):
        for column, cell in enumerate(row):
            draw.text((68 + column * step, y + 10), cell, BLACK, font(26, bold=i == 0))
        y += 54
        draw.line((60, y, 900, y), GREY, 2)
    return y + 20
