"""Seeded samples: rows with the covers of their history and target, items with their covers."""

from __future__ import annotations

import numpy as np

from common.errors import DataError
from common.explore.counts import plural
from common.explore.sample import spread_rows
from common.images import open_image
from common.pages.blocks import Block, Card, Choice, Gallery, Gap, Strip, Tile
from common.pages.images import Images, thumbnail
from track2_mmctr.datasets.tables import Split
from track2_mmctr.explore.rows import Rows

SIZE = (120, 160)
HISTORY = 8
"""Items of a history that are shown: the newest."""
POOL = 20_000
"""Rows of a file that a sample is drawn from."""
TITLE = 60


class Covers:
    """Thumbnails of covers, made once; `broken` are those that cannot be decoded."""

    def __init__(self, rows: Rows, images: Images) -> None:
        self.rows, self.images = rows, images
        self.broken: dict[int, str] = {}

    def key(self, item: int) -> str | None:
        """Return the key of the item's thumbnail, None where there is none to show."""
        key = f"item:{item}"
        if key in self.images:
            return key
        path = (self.rows.data.covers or {}).get(item)
        if path is None or item in self.broken:
            return None
        try:
            return key if self.images.add(key, thumbnail(open_image(path, path.name), *SIZE)) else None
        except DataError as error:
            self.broken[item] = f"{path.name}: {error.what}"
            return None

    def tile(self, item: int, badge: str = "", *, clicked: bool = False) -> Tile:
        """Return an item with its cover and title."""
        title = self.rows.data.title(item)
        short = title if len(title) <= TITLE else title[: TITLE - 1] + "…"
        lines = [f"item {item}"] if title != f"item {item}" else []
        return Tile(short, self.key(item), badge, "good" if clicked else "", lines)

    def gaps(self) -> list[Block]:
        """Return what is to be said of covers that cannot be shown."""
        if self.rows.data.covers is None:
            return [
                Gap("There are no covers: items are shown by their titles.", "python -m track2_mmctr download --help")
            ]
        if not self.broken:
            return []
        first = next(iter(self.broken.values()))
        return [Gap(f"{plural(len(self.broken), 'cover')} cannot be decoded, first: {first}", "get the files again")]


def row_gallery(rows: Rows, images: Images, samples: int, seed: int) -> list[Block]:
    """Return a gallery of at most `samples` rows, spread over files and labels: history, target, label."""
    data, covers = rows.data, Covers(rows, images)
    if not data.splits:
        return [Gap("There are no rows that can be read.", "python -m track2_mmctr download --help")]
    pool: list[tuple[Split, int]] = []
    for split in data.splits.values():
        every = np.random.default_rng(seed).permutation(len(split))[:POOL]
        pool += [(split, int(row)) for row in np.sort(every)]
    groups = [(split.name, None if split.label is None else float(split.label[row])) for split, row in pool]
    chosen = sorted(spread_rows(groups, samples, seed))
    cards = [_row_card(rows, covers, *pool[place]) for place in chosen]
    filters = [Choice("file", "File"), Choice("label", "Label"), Choice("seen", "Target in history")]
    sorts = [
        Choice("length", "Longest history", descending=True),
        Choice("popularity", "Most popular target", descending=True),
    ]
    return [*covers.gaps(), Gallery(cards, "rows", filters, sorts)]


def _row_card(rows: Rows, covers: Covers, split: Split, row: int) -> Card:
    target = int(split.target[row])
    history = split.history[split.offsets[row] : split.offsets[row + 1]]
    clicked = None if split.label is None else bool(split.label[row] > 0)
    label = "no label" if clicked is None else "clicked" if clicked else "not clicked"
    seen = bool(rows.own[split.name][row])
    count = int(rows.shown[target])
    shown = [covers.tile(int(item)) for item in history[-HISTORY:]]
    whole = f"history, {len(history)}" if len(history) <= HISTORY else f"history, last {HISTORY} of {len(history)}"
    likes, views = (int(level) for level in split.levels[row])
    strips = [
        Strip(whole, shown or [Tile("no history")]),
        Strip("target", [covers.tile(target, label, clicked=clicked is True)]),
    ]
    facts = [
        ("file", f"{split.name}, row {row}"),
        ("user", str(int(split.users[row]))),
        ("likes, views", f"{likes}, {views}"),
        ("in train", f"{count:,} rows"),
    ]
    facets = {"file": [split.name], "label": [label], "seen": ["yes" if seen else "no"]}
    return Card(rows.data.title(target), facts, strips, facets, {"length": len(history), "popularity": count})


def item_gallery(rows: Rows, images: Images, samples: int, seed: int) -> list[Block]:
    """Return a gallery of at most `samples` items, spread over those with and without rows of train."""
    data, covers = rows.data, Covers(rows, images)
    if data.info is None:
        return [Gap("The item table cannot be read.", "python -m track2_mmctr download --help")]
    known = ["with rows of train" if count else "without" for count in rows.shown[1:]]
    cards: list[Card] = []
    for place in sorted(spread_rows(known, samples, seed)):
        item = place + 1
        tags = [str(tag) for tag in data.info.tags[item] if tag]
        facts = [("id", str(item)), ("tags", ", ".join(tags) or "none"), ("rows of train", f"{rows.shown[item]:,}")]
        facts.append(("in histories", f"{rows.in_histories[item]:,}"))
        if data.features is not None:
            facts.append(("likes, views", ", ".join(str(int(level)) for level in data.features.levels[item])))
        there = data.covers is not None and item in data.covers
        facets = {"train": [known[place]], "cover": ["yes" if there else "no"]}
        numbers = {"popularity": int(rows.shown[item]), "id": item}
        cards.append(Card(data.title(item), facts, [Strip("cover", [covers.tile(item)])], facets, numbers))
    filters = [Choice("train", "Rows of train"), Choice("cover", "Cover")]
    sorts = [Choice("popularity", "Most rows of train", descending=True), Choice("id", "Id")]
    return [*covers.gaps(), Gallery(cards, "items", filters, sorts)]
