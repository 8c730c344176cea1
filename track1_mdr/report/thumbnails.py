"""Thumbnails of pages, screenshots and query images: each once, the most important first, within the page's room."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from common.errors import DataError
from common.pages.blocks import Gap
from common.pages.images import Images, thumbnail
from common.progress import bar
from track1_mdr.datasets.tables import ImageSource
from track1_mdr.report.views import View

WIDTH, HEIGHT = 150, 210
"""Largest size in pixels: the proportions of a page."""
QUALITY = 45
FIRST = 200
"""Pictures made before it is known how large they are."""
_NAMED = 5


@dataclass(frozen=True)
class Wanted:
    """A picture: its key in the page, where it comes from, and what messages call it."""

    key: str
    source: ImageSource
    row: int
    name: str


def passage_picture(view: View, row: int) -> Wanted | None:
    """Return the picture of a passage; None where the data has none."""
    if view.passages is None:
        return None
    name = view.passages.table["image_name"][row]
    return None if name is None else Wanted(f"{view.task[:2]}{row}", view.images, row, name)


def query_picture(view: View, question: str) -> Wanted | None:
    """Return the picture that a question asks about; None where it asks about none."""
    row = view.question(question).row
    if not 0 <= row < len(view.query_images):
        return None
    names: Sequence[str | None] = getattr(view.query_images, "names", ())
    return Wanted(f"{view.task[:2]}q{row}", view.query_images, row, str(names[row])) if names and names[row] else None


def add_pictures(images: Images, wanted: Iterable[Wanted], what: str) -> list[Gap]:
    """Make thumbnails in the order of their importance until the room is used; return what could not be made.

    A batch is read in the order of the files, so that a PDF is opened once for it and a table read once.
    """
    waiting = list({one.key: one for one in wanted}.values())
    failed: list[str] = []
    size = 0
    with bar(what, total=len(waiting), unit="page") as shown:
        while waiting and not images.left_out:
            room = FIRST if not size else max(1, int(1.05 * (images.budget - images.used) / size) + 1)
            batch, waiting = waiting[:room], waiting[room:]
            made = _made(batch, failed)
            for one in batch:
                if one.key in made:
                    images.add(one.key, made[one.key])
            size = max(1, sum(map(len, made.values())) // max(1, len(made)))
            shown.update(len(batch))
    images.left_out |= {one.key for one in waiting}
    if not failed:
        return []
    more = f" and {len(failed) - _NAMED:,} more" if len(failed) > _NAMED else ""
    return [Gap(f"{len(failed):,} pictures could not be drawn: {', '.join(failed[:_NAMED])}{more}.")]


def _made(batch: Sequence[Wanted], failed: list[str]) -> dict[str, bytes]:
    order = sorted(batch, key=lambda one: (one.key[: -len(str(one.row))], one.row))
    made: dict[str, bytes] = {}
    for one in order:
        try:
            made[one.key] = thumbnail(one.source.load(one.row), WIDTH, HEIGHT, QUALITY)
        except DataError as error:
            failed.append(f"{one.name} ({error.what})")
    return made
