"""Runs on tiny data for the tests of pages: a root with covers and odd titles, and two runs made on it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from common.pages.blocks import Block, Card, Gallery, Gap, Page
from tests.track2.ctr_files import edit, put, write_layout
from track2_mmctr.app import run_config
from track2_mmctr.config import RunConfig

NASTY = "\"Quoted\" <script>window.hit = 1</script> & 'more'"
TINY = {"features": {"dim": 4}, "ranker": {"type": "din", "attention_units": [8], "hidden_units": [16]}}
B = TypeVar("B", bound=Block)
TINY |= {"train": {"batch_size": 64, "epochs": 3, "evaluations": 2, "seeds": 2}}


@dataclass(frozen=True)
class Made:
    """A data root (the folder above microlens/), and the folders of its runs."""

    root: Path
    home: Path
    neural: Path
    floor: Path
    submission: Path

    @property
    def cache(self) -> Path:
        return self.root / "cache"


def write_root(root: Path, *, covers: bool = True, **options: object) -> Path:
    """Write a data root: every title has an item's number, that of item 3 is not harmless, item 9 has no cover."""
    folder = root / "microlens"
    planted = write_layout(folder, **{"oracle": True, **options})
    count = len(planted.tags)
    if (folder / "item_feature.parquet").is_file():
        titles = [NASTY if item == 3 else f"title of item {item}" for item in range(1, count)]
        kinds = [("Drama, Comedy", "Comedy", "")[item % 3] for item in range(1, count)]
        path = folder / "item_feature.parquet"
        edit(path, lambda table: put(put(table, "item_title", titles), "item_genres", kinds))
    if covers:
        (folder / "item_images").mkdir()
        for item in range(1, count):
            if item != 9:
                colour = tuple(int(part) for part in np.random.default_rng(item).integers(0, 256, 3))
                Image.new("RGB", (40, 60), colour).save(folder / "item_images" / f"{item}.jpg")
    return root


def make(root: Path, home: Path, name: str, config: dict[str, object]) -> Path:
    """Run a configuration on the CPU and return the run's folder."""
    loaded = RunConfig.model_validate({"name": name, "device": "cpu", **config})
    out = home / "submissions" / f"{name}.zip"
    result = run_config(loaded, root, out, root / "cache", home, {}, lambda _: None)
    assert result is not None
    return result.folder


def make_runs(folder: Path) -> Made:
    """Write data, and run two configurations on it."""
    root, home = write_root(folder / "data"), folder / "home"
    neural = make(root, home, "tiny", TINY)
    floor = make(root, home, "floor", {"ranker": {"type": "similarity"}})
    return Made(root, home, neural, floor, home / "submissions" / "floor.zip")


def blocks(page: Page, key: str, kind: type[B]) -> list[B]:
    """Return the blocks of one kind in one section."""
    (section,) = [section for section in page.sections if section.key == key]
    return [block for block in section.blocks if isinstance(block, kind)]


def gaps(page: Page) -> str:
    """Return all that a page says is missing."""
    found = [block for section in page.sections for block in section.blocks if isinstance(block, Gap)]
    return "\n".join(f"{gap.what} -> {gap.todo}" for gap in found)


def cards(page: Page, key: str) -> list[Card]:
    """Return the cards of the section's galleries."""
    return [card for gallery in blocks(page, key, Gallery) for card in gallery.cards]


def keys_of(page: Page) -> Iterator[str]:
    """Give the key of every picture that a page shows."""
    for section in page.sections:
        for card in cards(page, section.key):
            for strip in card.strips:
                yield from (tile.image for tile in strip.tiles if tile.image)


def drop(path: Path, *columns: str) -> None:
    """Take columns from a parquet file."""
    pq.write_table(pq.read_table(path).drop_columns(list(columns)), path)
