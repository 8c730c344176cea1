"""The challenge's files, each read on its own: one that a run would refuse leaves the others to be looked at."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from common.errors import DataError
from common.explore.copies import Copies, same_files
from common.explore.findings import Finding
from track2_mmctr.datasets.items import ItemFeatures, ItemInfo, read_features, read_info
from track2_mmctr.datasets.microlens import INNER, with_answers
from track2_mmctr.datasets.packing import pack
from track2_mmctr.datasets.schema import Place, Table, flat, plain
from track2_mmctr.datasets.tables import SPLITS, Split, SplitName

COVERS = "item_images"
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
T = TypeVar("T")


@dataclass
class Ctr:
    """What is there; `findings` are the faults that reading met, `notes` the readers' remarks.

    Attributes
    ----------
    items
        Number of rows of the item table, the padding item 0 included; 0 where it cannot be read.
    features
        Titles and levels by item; None without item_feature.parquet.
    sequences
        item_seq.parquet as a split without targets' meaning: users, history and offsets; None where it is absent.
    covers
        Item -> file; None without the folder.
    strangers
        Image files that belong to no item.
    copies
        Items whose covers have the same bytes.
    """

    folder: Path
    info: ItemInfo | None = None
    splits: dict[SplitName, Split] = field(default_factory=dict)
    features: ItemFeatures | None = None
    sequences: Split | None = None
    covers: dict[int, Path] | None = None
    strangers: list[str] = field(default_factory=list)
    copies: Copies[int] | None = None
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def items(self) -> int:
        """Return the number of rows of the item table."""
        return 0 if self.info is None else len(self.info)

    def title(self, item: int) -> str:
        """Return the item's title, else its number."""
        titles = None if self.features is None else self.features.titles
        return (titles[item] if titles is not None else "") or f"item {item}"


def read_ctr(folder: Path, cache: Path) -> Ctr:
    """Read what there is in the folder that holds MicroLens_1M_x1/. `cache` keeps packed splits, as for a run."""
    data = Ctr(folder)
    data.info = _tried(
        data, "item_info.parquet", lambda: read_info(folder / INNER / "item_info.parquet", "auto", data.notes)
    )
    _read_covers(data)
    if data.info is None:
        return data
    for name in SPLITS:
        path = folder / INNER / f"{name}.parquet"
        if path.is_file():
            split = _tried(data, path.name, lambda path=path, name=name: pack(path, name, data.items, cache).split)
            if split is not None:
                data.splits[name] = split
    if "test" in data.splits:
        test = data.splits["test"]
        data.splits["test"] = _tried(data, "answers.parquet", lambda: with_answers(test, folder, data.notes)) or test
    feature, sequences = (_beside(folder, name) for name in ("item_feature.parquet", "item_seq.parquet"))
    if feature is not None:
        data.features = _tried(data, feature.name, lambda: read_features(feature, data.items, data.notes))
    if sequences is not None:
        data.sequences = _tried(data, sequences.name, lambda: _read_sequences(sequences, data.items))
    return data


def _beside(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / INNER / name) if path.is_file()), None)


def _tried(data: Ctr, name: str, read: Callable[[], T]) -> T | None:
    try:
        return read()
    except DataError as error:
        said = "; ".join(line.strip() for line in error.block().splitlines())
        data.findings.append(Finding(name, "problem", said, "a run that reads this file stops at it"))
        return None


def _read_covers(data: Ctr) -> None:
    folder = data.folder / COVERS
    if not folder.is_dir():
        return
    found: dict[int, Path] = {}
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries)
    for name in sorted(names, key=lambda name: SUFFIXES.index(s) if (s := Path(name).suffix) in SUFFIXES else 9):
        stem, suffix = Path(name).stem, Path(name).suffix
        number = int(stem) if stem.isascii() and stem.isdigit() and str(int(stem)) == stem else 0
        if suffix not in SUFFIXES or number < 1 or (data.items and number >= data.items):
            data.strangers.append(name)
        else:
            found.setdefault(number, folder / name)
    data.covers = dict(sorted(found.items()))
    data.copies = same_files(data.covers)


def _read_sequences(path: Path, items: int) -> Split:
    """Read item_seq.parquet without padding; ids outside the item table are errors."""
    table = Table(path, {"user_id": "integer", "item_seq": "integers"})
    users, parts, lengths = [], [], []
    for first, batch in table.batches(what="read item_seq"):
        users.append(plain(batch.column("user_id"), Place(path, "user_id", first)))
        place = Place(path, "item_seq", first)
        values, widths = flat(batch.column("item_seq"), place)
        outside = (values < 0) | (values >= items)
        if outside.any():
            at = int(np.argmax(outside))
            row = int(np.searchsorted(np.cumsum(widths), at, side="right"))
            raise place.error(
                "an item id is outside the item table", row=row, expected=f"0..{items - 1}", got=values[at]
            )
        real = values > 0
        ends = np.concatenate([[0], np.cumsum(real)])[np.cumsum(widths)]
        lengths.append(np.diff(ends, prepend=0))
        parts.append(values[real].astype(np.int32))
    every = np.concatenate(users)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate(lengths))])
    nothing = np.zeros(len(every), np.int32)
    return Split(
        name="train",  # of the names that a split may have; item_seq has rows of all users
        users=every,
        history=np.concatenate(parts),
        offsets=offsets,
        target=nothing,
        levels=np.zeros((0, 2), np.int32),
        label=None,
        ids=None,
        digest="",
    )
