"""Text extraction of many PDFs in processes that may hang or die; a page that fails keeps its place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from common.engine.base import Failed, Item, Pool
from common.errors import UserError
from track1_mdr.datasets.pdf import PageContent, open_pdf, read_page

PAGE_TIMEOUT = 60.0
"""Seconds between two pages of a document; the slowest real page takes under 1."""
MAX_LOST_PAGES = 3
"""Pages of one document that may kill or stall a worker before its other pages are given up."""


@dataclass
class Extracted:
    """A document's pages: `pages[i]` is page i, or the reason why it could not be read.

    `error` is set, and `pages` empty, when the document could not be opened at all.
    """

    pages: list[PageContent | str] = field(default_factory=list)
    error: str | None = None


def no_state() -> None:
    """Make the state of processes that need none."""


def extract_task(_: None, task: tuple[Path, int, float]) -> Iterator[int | PageContent | str]:
    """Yield the page count, then each page from `start` on, or the reason why it cannot be read."""
    path, start, figure_share = task
    with open_pdf(path) as document:
        yield len(document)
        for index in range(start, len(document)):
            try:
                yield read_page(document, index, figure_share)
            except UserError as error:
                yield error.what + (f" ({error.got})" if error.got else "")
            except Exception as error:
                yield f"{type(error).__name__}: {error}"


def extract_documents(pool: Pool, pdfs: Mapping[str, Path], figure_share: float) -> dict[str, Extracted]:
    """Read all pages of the documents; `pool` runs `extract_task`.

    A page at which a worker dies or stalls is a failed page; reading goes on behind it in a new worker.
    """
    found = {name: Extracted() for name in pdfs}
    counts: dict[str, int] = {}
    lost: dict[str, int] = {}
    # The largest first, so that no worker starts a long document when the others are done.
    todo = sorted(pdfs, key=lambda name: -pdfs[name].stat().st_size if pdfs[name].is_file() else 0)
    while todo:
        names, todo = todo, []
        tasks = [(pdfs[name], len(found[name].pages), figure_share) for name in names]
        for event in pool.run(tasks):
            name = names[event.task]
            pages = found[name].pages
            if isinstance(event, Item):
                if isinstance(event.value, int):
                    counts[name] = event.value
                else:
                    pages.append(event.value)
            elif isinstance(event, Failed):
                if name not in counts or not event.lost:
                    found[name].error = event.reason
                    pages.clear()
                    continue
                lost[name] = lost.get(name, 0) + 1
                pages.append(event.reason)
                if lost[name] >= MAX_LOST_PAGES:
                    left = counts[name] - len(pages)
                    pages.extend([f"not read: {MAX_LOST_PAGES} earlier pages stopped their workers"] * left)
                elif len(pages) < counts[name]:
                    todo.append(name)
    return found
