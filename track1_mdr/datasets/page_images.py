"""Page images by table row: from the official parquet's image_binary, or rendered from PDFs when asked for."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from common.errors import DataError
from common.hashing import digest
from common.images import open_image
from track1_mdr.datasets.pdf import load_pdf, render_page
from track1_mdr.datasets.prepare import page_image_key

BATCH_ROWS = 16
"""Images of the official table in memory at once: about 10 MB."""
READ_BYTES = 1 << 20


class TableImages:
    """Images in a parquet column, read in small batches and never held together.

    Asking in the order of the file reads it once; a step back starts the row group again.

    Parameters
    ----------
    path
        The parquet file.
    rows
        Row in the file for each row of the passages table; -1 = no image. int64 [N].
    names
        What messages call each image.
    """

    def __init__(self, path: Path, rows: np.ndarray, names: Sequence[str | None]) -> None:
        self.path, self.rows, self.names = path, rows, names
        self._keys: dict[int, str | None] = {}
        self._lock = threading.Lock()
        self._file: pq.ParquetFile | None = None
        self._starts = np.zeros(1, np.int64)
        self._batches: Iterator[Any] | None = None
        self._end = 0  # the row group's rows end here
        self._first, self._batch = 0, []  # the batch at hand and its first row in the file

    def __len__(self) -> int:
        return len(self.rows)

    def key(self, row: int) -> str | None:
        """Return the SHA-256 key of the image's bytes, or None where there is no image."""
        if row not in self._keys:
            data = self._bytes(row)
            self._keys[row] = None if data is None else digest("image", data)
        return self._keys[row]

    def load(self, row: int) -> Image.Image:
        """Return the image as RGB; raise `DataError` naming it when it cannot be read."""
        name = self.names[row] or f"row {row}"
        data = self._bytes(row)
        if data is None:
            raise DataError("the page has no image", where=name, todo="use a page table with image_binary")
        return open_image(data, name)

    def _bytes(self, row: int) -> bytes | None:
        target = int(self.rows[row])
        if target < 0:
            return None
        with self._lock:
            while not self._first <= target < self._first + len(self._batch):
                self._advance(target)
            return self._batch[target - self._first].as_py()

    def _advance(self, target: int) -> None:
        """Read the next batch, of the target's row group from its start where the file is elsewhere."""
        if self._file is None:
            # Without these two a whole column chunk is read at once: gigabytes where a table has one row group.
            self._file = pq.ParquetFile(self.path, buffer_size=READ_BYTES, pre_buffer=False)
            sizes = [self._file.metadata.row_group(g).num_rows for g in range(self._file.num_row_groups)]
            self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        ahead = self._first + len(self._batch)
        batches = self._batches
        if batches is None or not ahead <= target < self._end:
            group = int(np.searchsorted(self._starts, target, side="right")) - 1
            batches = self._file.iter_batches(BATCH_ROWS, row_groups=[group], columns=["image_binary"])
            self._batches = batches
            ahead, self._end = int(self._starts[group]), int(self._starts[group + 1])
        self._first, self._batch = ahead, next(batches).column(0)


@dataclass(frozen=True)
class PdfPage:
    """A page of a PDF: its file, the file's SHA-256, and the page's number from 0."""

    pdf: Path
    sha256: str
    page: int
    name: str


class PdfImages:
    """Pages rendered when asked for, long side `pixels`; None = a row without an image.

    Keys come from the PDF's hash, so that nothing is rendered to see whether an embedding is known.
    """

    def __init__(self, pages: Sequence[PdfPage | None], pixels: int) -> None:
        self.pages, self.pixels = pages, pixels
        self._lock = threading.Lock()  # pdfium is not thread-safe
        self._open: tuple[Path, Any] | None = None

    def __len__(self) -> int:
        return len(self.pages)

    def key(self, row: int) -> str | None:
        """Return the content key of the row's page."""
        page = self.pages[row]
        return None if page is None else page_image_key(page.sha256, page.page, self.pixels)

    def load(self, row: int) -> Image.Image:
        """Return the rendered page; raise `DataError` naming it when it cannot be rendered."""
        page = self.pages[row]
        if page is None:
            raise DataError("the page has no image: its PDF cannot be opened", where=f"row {row}")
        with self._lock:
            try:
                return Image.fromarray(render_page(self._document(page.pdf), page.page, self.pixels))
            except DataError as error:
                raise DataError(error.what, where=page.name, got=error.got, todo=error.todo) from None

    def _document(self, path: Path) -> Any:
        if self._open is None or self._open[0] != path:
            if self._open is not None:
                self._open[1].close()
            self._open = None
            self._open = (path, load_pdf(path))
        return self._open[1]
