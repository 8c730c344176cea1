"""OCR of PDF pages and figures (PP-OCRv6 models from rapidocr's wheel), cached on disk by image content."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from common.atomic import write_text
from common.errors import ConfigError, DataError
from common.hashing import digest
from track1_mdr.datasets.ocr_models import LONG_SIDE, TextReader, precision
from track1_mdr.datasets.pdf import Box, Line, load_pdf, render_page

MIN_SCORE = 0.5
"""Lines that the recogniser trusts less are dropped."""
FIGURE_SCALE = 2.0
"""Pixels a point at which figures are read."""
FIGURE_PAGE_PIXELS = 2_000
"""Long side of the page that figures are cut from."""
MIN_CROP_PIXELS = 16
SAME_ROW = 0.5
"""Boxes whose centres differ by less than this share of their height are one row."""
TIMEOUT = 300.0
"""Seconds one page may take; the slowest of 603 real pages took 11 CPU-seconds."""

FIGURE_LONG_SIDE = 736
"""Small figures are enlarged for the detector to this long side: at 2 pixels a point they are sharp already."""
READER_VERSION = 1
"""Part of every cache key: raise it when an image would give other lines."""


@dataclass(frozen=True)
class OcrTask:
    """One page to read: whole at `pixels` long side, or only its `figures` when given.

    `engine` is the `engine_name` of the process that asks: on another machine it may be another.
    """

    pdf: Path
    page: int
    pixels: int
    figures: tuple[Box, ...] | None
    cache: Path
    engine: str


@cache
def engine_name() -> str:
    """Return the packages, number type, version and settings that decide what is read: part of every cache key.

    Raises
    ------
    ConfigError
        A package is not installed.
    """
    try:
        packages = " ".join(f"{name} {version(name)}" for name in ("rapidocr", "openvino"))
    except PackageNotFoundError as error:
        raise ConfigError(
            f"OCR needs the package {error.name}",
            todo="pip install -r requirements.txt, or switch OCR off with --set data.ocr.enabled=false",
        ) from None
    return (
        f"{packages} {precision()} reader {READER_VERSION} score {MIN_SCORE} figures {FIGURE_LONG_SIDE} rows {SAME_ROW}"
    )


def make_engine() -> TextReader:
    """Return a single-threaded reader: one process a core is faster than threads inside a page."""
    return TextReader()


def read_image(engine: Any, image: np.ndarray, long_side: int = LONG_SIDE) -> list[Line]:
    """Read an image (uint8 RGB [H, W, 3]); return its lines in reading order, boxes as shares of the image.

    Small images are enlarged for the detector to at most `long_side` pixels.
    """
    if min(image.shape[:2]) < MIN_CROP_PIXELS or image.min() == image.max():
        return []  # nothing can be on it: neither model runs
    height, width = image.shape[:2]
    found: list[Line] = []
    for line in engine(np.ascontiguousarray(image[:, :, ::-1]), long_side):  # the models were trained on BGR
        if line.score >= MIN_SCORE and line.text.strip():
            corners = np.asarray(line.corners, np.float64) / (width, height)
            low, high = corners.min(0).clip(0, 1), corners.max(0).clip(0, 1)
            box = (float(low[0]), float(low[1]), float(high[0]), float(high[1]))
            found.append(Line(line.text.strip(), tuple(round(value, 5) for value in box)))  # pyright: ignore[reportArgumentType]
    return reading_order(found)


def reading_order(lines: Sequence[Line]) -> list[Line]:
    """Sort lines top to bottom, and left to right where they share a row.

    >>> [l.text for l in reading_order([Line("b", (.5, .11, .9, .2)), Line("c", (0, .3, 1, .4)),
    ...                                 Line("a", (0, .1, .4, .2))])]
    ['a', 'b', 'c']
    """
    rows: list[list[Line]] = []
    for line in sorted(lines, key=lambda line: (line.box[1] + line.box[3], line.box)):
        first = rows[-1][0].box if rows else None
        if first is not None:
            apart = abs(first[1] + first[3] - line.box[1] - line.box[3]) / 2
            if apart < SAME_ROW * min(first[3] - first[1], line.box[3] - line.box[1]):
                rows[-1].append(line)
                continue
        rows.append([line])
    return [line for row in rows for line in sorted(row, key=lambda line: (line.box[0], line.box))]


class OcrCache:
    """Lines by image content: one JSON file an image, with a checksum, written atomically.

    Two runs may share it: both write the same bytes for the same key, and a rename replaces a file whole.
    A damaged file counts as absent.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def key(self, image: np.ndarray, long_side: int = LONG_SIDE) -> str:
        """Return the key of an image: its pixels and shape, and the engine with its settings."""
        return digest(image.tobytes(), str(image.shape), str(image.dtype), long_side, engine_name())

    def path(self, key: str) -> Path:
        """Return where the lines of `key` are kept."""
        return self.folder / key[:2] / f"{key}.json"

    def get(self, key: str) -> list[Line] | None:
        """Return the lines of `key`, or None where they are absent or damaged."""
        try:
            body = json.loads(self.path(key).read_bytes().decode("utf-8"))
            lines = [Line(str(text), (float(a), float(b), float(c), float(d))) for text, (a, b, c, d) in body["lines"]]
            return lines if body["sha256"] == _checksum(key, lines) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, key: str, lines: Sequence[Line]) -> None:
        """Keep the lines of `key`."""
        body = {"sha256": _checksum(key, lines), "lines": [[line.text, list(line.box)] for line in lines]}
        write_text(self.path(key), json.dumps(body, ensure_ascii=False))


def _checksum(key: str, lines: Sequence[Line]) -> str:
    return digest(key, *(part for line in lines for part in (line.text, *line.box)))


class OcrState:
    """What one OCR process keeps: its engine, made when first needed, and the last document it opened."""

    def __init__(self) -> None:
        self._engine: Any = None
        self._path: Path | None = None
        self._document: Any = None

    def document(self, path: Path) -> Any:
        """Return the open document."""
        if self._path != path:
            if self._document is not None:
                self._document.close()
            self._path, self._document = None, None
            self._document = load_pdf(path)
            self._path = path
        return self._document

    def read(self, image: np.ndarray, store: OcrCache, long_side: int = LONG_SIDE) -> list[Line]:
        """Return the image's lines, from the cache where they are."""
        key = store.key(image, long_side)
        lines = store.get(key)
        if lines is None:
            if self._engine is None:
                self._engine = make_engine()
            lines = read_image(self._engine, image, long_side)
            store.put(key, lines)
        return lines


def read_task(state: OcrState, task: OcrTask) -> Iterator[list[list[Line]]]:
    """Yield once: the lines of the whole page, or one list of lines a figure; boxes as shares of the page.

    The function that OCR processes run.

    Raises
    ------
    DataError
        This machine would read otherwise than the process that asks.
    """
    if task.engine != engine_name():
        raise DataError(
            "a worker reads otherwise than this process",
            expected=task.engine,
            got=engine_name(),
            todo="give every node the same packages, and processors with the same number types",
        )
    document, store = state.document(task.pdf), OcrCache(task.cache)
    if task.figures is None:
        yield [state.read(render_page(document, task.page, task.pixels), store)]
        return
    page = render_page(document, task.page, FIGURE_PAGE_PIXELS, FIGURE_SCALE)
    height, width = page.shape[:2]
    results = []
    for left, top, right, bottom in task.figures:
        x0, y0 = int(left * width), int(top * height)
        x1, y1 = min(width, int(right * width) + 1), min(height, int(bottom * height) + 1)
        lines = state.read(np.ascontiguousarray(page[y0:y1, x0:x1]), store, FIGURE_LONG_SIDE)
        results.append(
            [Line(line.text, _place(line.box, x0 / width, y0 / height, x1 / width, y1 / height)) for line in lines]
        )
    yield results


def _place(box: Box, left: float, top: float, right: float, bottom: float) -> Box:
    """Turn shares of a part into shares of the whole."""
    wide, high = right - left, bottom - top
    return (
        round(left + box[0] * wide, 5),
        round(top + box[1] * high, 5),
        round(left + box[2] * wide, 5),
        round(top + box[3] * high, 5),
    )
