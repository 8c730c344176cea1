"""Items as people see them: cover and title, for galleries and the map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from common.errors import DataError
from common.pages.blocks import Gap, Tile, Tone
from common.pages.images import Images, thumbnail
from track2_mmctr.datasets.microlens import INNER
from track2_mmctr.datasets.tables import CtrData, Split
from track2_mmctr.embeddings.catalogue import FEATURE, IMAGES, cover_path

COVER, DOT = (72, 96), (48, 48)
"""Width and height in pixels that a cover fits in, in galleries and beside a point of the map."""
GROUP_COLUMNS = ("item_genres", "item_genre", "item_category", "item_categories", "item_type")
"""Columns of item_feature.parquet that sort items into kinds, the first that is there."""
SHOWN_HISTORY = 7
SHOWN_TITLE = 90


@dataclass
class Shelf:
    """Titles and covers of one data root; a cover is read once it is shown, into the page's `images`.

    Attributes
    ----------
    folder
        Holds MicroLens_1M_x1/ and, where there are covers, item_images/.
    titles
        By item id, or None.
    images
        Of the page.
    without, damaged
        Items that were to be shown and have no cover, or one that cannot be read.
    """

    folder: Path
    titles: Sequence[str] | None
    images: Images
    without: set[int] = field(default_factory=set)
    damaged: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, data: CtrData, images: Images) -> Shelf:
        """Return the shelf of a data root."""
        return cls(data.folder, data.items.titles, images)

    def title(self, item: int) -> str:
        """Return an item's title, or its number where it has none."""
        found = self.titles[item] if self.titles is not None else ""
        if not found:
            return f"item {item}"
        return found if len(found) <= SHOWN_TITLE else found[: SHOWN_TITLE - 1].rstrip() + "…"

    def cover(self, item: int, size: tuple[int, int] = COVER) -> str | None:
        """Return the key of an item's cover in `images`, None where there is none to show; a larger one is as good."""
        from common.images import open_image

        large = f"item:{item}"
        key = large if size == COVER or large in self.images else f"{large}:{size[0]}"
        if key in self.images:
            return key
        if key in self.images.left_out or item in self.without or item in self.damaged:
            return None
        path = cover_path(self.folder, item) if self.has_covers else None
        if path is None:
            self.without.add(item)
            return None
        try:
            image = open_image(path, path.name)
        except DataError:
            self.damaged.add(item)
            return None
        return key if self.images.add(key, thumbnail(image, *size)) else None

    @property
    def has_covers(self) -> bool:
        """Whether there is a folder of covers."""
        return (self.folder / IMAGES).is_dir()

    def tile(self, item: int, *, badge: str = "", tone: Tone = "", lines: Sequence[str] = ()) -> Tile:
        """Return an item as a tile of a strip."""
        return Tile(self.title(item), self.cover(item), badge, tone, lines)

    def gaps(self) -> list[Gap]:
        """Return what was missing so far; ask once all tiles are made."""
        gaps: list[Gap] = []
        get = "python -m track2_mmctr download --help"
        if self.titles is None:
            todo = f"item_feature.parquet with item_title has them: {get}"
            gaps.append(Gap("The data has no titles: items are told by their number.", todo))
        if not self.has_covers:
            gaps.append(Gap(f"The data has no covers: no folder {IMAGES}.", f"unpack item_images there: {get}"))
        elif self.without:
            gaps.append(Gap(f"Shown without a cover, as {IMAGES} has none: {_items(self.without)}.", get))
        if self.damaged:
            gaps.append(Gap(f"Shown without a cover, as the file cannot be read: {_items(self.damaged)}.", get))
        return gaps


def _items(items: set[int]) -> str:
    some = ", ".join(str(item) for item in sorted(items)[:5])
    return f"{len(items):,} items, {some}, ..." if len(items) > 5 else f"item{'s' * (len(items) > 1)} {some}"


def history_of(split: Split, row: int, shown: int = SHOWN_HISTORY) -> tuple[list[int], int]:
    """Return the newest `shown` items of a row's history, newest first, and its whole length."""
    first, end = int(split.offsets[row]), int(split.offsets[row + 1])
    return [int(item) for item in split.history[max(first, end - shown) : end][::-1]], end - first


def history_label(shown: int, length: int) -> str:
    """Return the heading of a row's strip.

    >>> history_label(8, 31), history_label(3, 3), history_label(0, 0)
    ('target, then history, newest first (8 of 31)', 'target, then history, newest first', 'target; no history')
    """
    if not length:
        return "target; no history"
    return "target, then history, newest first" + (f" ({shown} of {length})" if length > shown else "")


def read_groups(folder: Path, items: int) -> tuple[str, list[str]] | None:
    """Return the catalogue's column of kinds and each item's first kind ("" = none): the items' colours in the map.

    None where item_feature.parquet is missing or has no such column of strings.

    Raises
    ------
    DataError
        The file is damaged.
    """
    import polars as pl

    from track2_mmctr.datasets.schema import Table

    path = next((place / FEATURE for place in (folder, folder / INNER) if (place / FEATURE).is_file()), None)
    if path is None:
        return None
    table = Table(path, {"item_id": "integer"})
    name = next((column for column in GROUP_COLUMNS if column in table.schema.names), None)
    if name is None or pl.read_parquet_schema(path)[name] != pl.String:
        return None
    kinds = [""] * items
    columns = pl.read_parquet(path, columns=["item_id", name])
    for item, text in columns.iter_rows():
        if 0 < item < items and text:
            kinds[item] = text.replace("|", ",").split(",")[0].strip()
    return name, kinds


def popular_first(data: CtrData, counts: np.ndarray | None) -> np.ndarray:
    """Return all items, those that are targets of a row most often first; then those of train; ties by id."""
    shown = [np.asarray(split.target) for name, split in data.splits.items() if name != "train"]
    asked = np.bincount(np.concatenate([np.zeros(0, np.int64), *shown]), minlength=len(data.items))
    trained = np.zeros(len(data.items), np.int64) if counts is None else counts
    ids = np.arange(1, len(data.items))
    return ids[np.lexsort((ids, -trained[ids], -asked[ids]))]
