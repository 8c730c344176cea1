"""Drawn web pages with pictures in them, and altered copies of the pictures as queries: planted M2KR data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image, ImageDraw, ImageFont

PAGE_WIDTH = 980
ALTERATIONS = ("resized", "recompressed", "cut", "brightened")


@dataclass(frozen=True)
class PlantedSizes:
    """How much is planted."""

    pages: int = 60
    figures: int = 3
    paragraphs: int = 12


def draw_picture(rng: np.random.Generator, side: int = 260) -> Image.Image:
    """Return a drawn picture: smooth colour, shapes and texture, different for each state of `rng`."""
    width, height = side, int(side * rng.uniform(0.65, 1.3))
    small = rng.integers(30, 226, size=(5, 6, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(18, 40))):
        x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
        w, h = int(rng.integers(6, width // 3)), int(rng.integers(6, height // 3))
        colour = tuple(int(v) for v in rng.integers(0, 256, size=3))
        box = (x - w // 2, y - h // 2, x + w // 2, y + h // 2)
        kind = int(rng.integers(0, 4))
        if kind == 0:
            draw.ellipse(box, fill=colour)
        elif kind == 1:
            draw.rectangle(box, fill=colour)
        elif kind == 2:
            draw.polygon([(x, y - h // 2), (x + w // 2, y), (x - w // 3, y + h // 2)], fill=colour)
        else:
            draw.line((x, y, x + w - width // 6, y + h - height // 6), fill=colour, width=int(rng.integers(2, 6)))
    noise = rng.normal(0, 6, size=(height, width, 1))
    return Image.fromarray((np.asarray(image, dtype=np.float64) + noise).clip(0, 255).astype(np.uint8))


def draw_page(rng: np.random.Generator, figures: Sequence[Image.Image], paragraphs: int) -> Image.Image:
    """Return a page: a title, lines of text, and the figures at the right or in the middle."""
    line, gap = 20, 28
    rows = [12] * paragraphs
    height = 140 + sum(n * line + gap for n in rows) + sum(f.height + 40 for f in figures)
    page = Image.new("RGB", (PAGE_WIDTH, height), "white")
    draw = ImageDraw.Draw(page)
    font, title = ImageFont.load_default(15), ImageFont.load_default(30)
    draw.text((30, 40), _words(rng, 4), fill="black", font=title)
    draw.line((30, 100, PAGE_WIDTH - 30, 100), fill=(160, 160, 160))
    y = 130
    places = set(rng.choice(paragraphs, size=len(figures), replace=False).tolist())
    waiting = list(figures)
    for number, lines in enumerate(rows):
        if number in places:
            figure = waiting.pop()
            x = int(rng.integers(30, PAGE_WIDTH - 30 - figure.width))
            page.paste(figure, (x, y))
            y += figure.height + 6
            draw.text((x, y), _words(rng, 5), fill=(60, 60, 60), font=font)
            y += 34
        for _ in range(lines):
            draw.text((30, y), _words(rng, 16), fill="black", font=font)
            y += line
        y += gap
    return page


def alter(rng: np.random.Generator, image: Image.Image, how: str) -> Image.Image:
    """Return a copy of a picture as a query would show it; `how` is one of `ALTERATIONS`."""
    width, height = image.size
    if how == "resized":
        scale = rng.uniform(0.6, 1.7)
        return image.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
    if how == "cut":
        w, h = round(width * rng.uniform(0.7, 0.9)), round(height * rng.uniform(0.7, 0.9))
        x, y = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
        return image.crop((x, y, x + w, y + h))
    if how == "brightened":
        pixels = np.asarray(image, dtype=np.float64)
        return Image.fromarray((pixels * rng.uniform(0.75, 1.25) + rng.uniform(-15, 15)).clip(0, 255).astype(np.uint8))
    return Image.open(BytesIO(_jpeg(image, 35)))


def write_m2kr(
    root: Path,
    seed: int,
    sizes: PlantedSizes,
    pictures: Sequence[Image.Image] | None = None,
) -> list[str]:
    """Write an M2KR folder in the challenge's format; return each query's alteration.

    Passage i shows `sizes.figures` pictures (of `pictures`, in order, or drawn), and query i one of them, altered.
    """
    rng = np.random.default_rng(seed)
    for name in ("query_images", "Challenge", "challenge_data", "challenge_passage"):
        (root / name).mkdir(parents=True, exist_ok=True)
    kinds: list[str] = []
    for number in range(sizes.pages):
        own = [
            pictures[number * sizes.figures + i]
            if pictures is not None
            else draw_picture(rng, int(rng.integers(150, 320)))
            for i in range(sizes.figures)
        ]
        draw_page(rng, own, sizes.paragraphs).save(root / "Challenge" / f"page_{number}.png")
        kind = ALTERATIONS[number % len(ALTERATIONS)]
        kinds.append(kind)
        query = alter(rng, own[int(rng.integers(0, len(own)))], kind)
        (root / "query_images" / f"query_{number}.jpg").write_bytes(_jpeg(query, 80))
    gold = [f"P{i}" for i in range(sizes.pages)]
    count = range(sizes.pages)
    pl.DataFrame(
        {
            "question_id": [str(i) for i in count],
            "question": [""] * sizes.pages,
            "instruction": ["Which document shows this image?"] * sizes.pages,
            "img_path": [f"query_{i}.jpg" for i in count],
            "pos_item_ids": [[] for _ in count],
        },
        schema_overrides={"pos_item_ids": pl.List(pl.String)},
    ).write_parquet(root / "challenge_data" / "train-00000-of-00001.parquet")
    pl.DataFrame(
        {
            "passage_id": [f"P{i}" for i in count],
            "passage_content": [f"page {i}" for i in count],
            "page_screenshot": [f"page_{i}.png" for i in count],
        }
    ).write_parquet(root / "challenge_passage" / "train-00000-of-00001.parquet")
    lines = [
        "question_id,passage_id",
        *(f'{i},"{json.dumps([g]).replace(chr(34), chr(34) * 2)}"' for i, g in enumerate(gold)),
    ]
    (root / "gold.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return kinds


def _words(rng: np.random.Generator, count: int) -> str:
    letters = "".join("etaoinshrdlucmfwyp"[i] for i in rng.integers(0, 18, size=8 * count))
    lengths = rng.integers(2, 9, size=count).tolist()
    return " ".join(letters[8 * i : 8 * i + length] for i, length in enumerate(lengths))


def _jpeg(image: Image.Image, quality: int) -> bytes:
    stream = BytesIO()
    image.convert("RGB").save(stream, "JPEG", quality=quality)
    return stream.getvalue()
