"""What Track 2 can download, and the check of what came: every file by the reader that runs use."""

from __future__ import annotations

import re
from pathlib import Path

from common.download.cli import Track
from common.download.parts import ARCHIVE, Offer, Part, Want

_PAGES = tuple(Offer("pages", f"{scheme}://recsys.westlake.edu.cn/MicroLens_1M_MMCTR/") for scheme in ("https", "http"))
_MIRROR = Offer("mirror", "yummyooo123/www2025-mmctr-data")  # a copy on Kaggle, not the organisers'
_OFFERS = (*_PAGES, _MIRROR)
_INNER = "microlens/MicroLens_1M_x1"
_COVER = re.compile(r"\d+\.(jpe?g|png|webp)", re.IGNORECASE)


def _table(name: str, title: str, folder: str = "microlens", *, default: bool = True, group: str = "tables") -> Part:
    return Part(name, title, group, (Want(folder, (rf"{name}\.parquet",)),), _OFFERS, default)


PARTS: tuple[Part, ...] = (
    _table("train", "training rows", _INNER, group="splits"),
    _table("valid", "validation rows", _INNER, group="splits"),
    _table("test", "test rows, without labels", _INNER, group="splits"),
    _table("item_info", "tags and the official embedding of each item", _INNER),
    _table("item_feature", "titles, tags and levels of each item"),
    Part(
        "images",
        "covers",
        "images",
        (Want("microlens/item_images", (rf"item_images{ARCHIVE}", r"item_images/.+"), folder=True),),
        _OFFERS,
    ),
    _table("item_emb", "text and image embeddings of the organisers", default=False, group="extra"),
    _table("item_seq", "sequences of all users", default=False, group="extra"),
)


def check(root: Path, cache: Path) -> list[str]:
    """Read what is under a data root with the readers of runs, and sum it up; the last line is the next command.

    Parameters
    ----------
    root
        The data root.
    cache
        Where packed splits are kept: the next run need not read them again.

    Raises
    ------
    DataError
        A file is damaged or breaks its schema; the message names file, row and column.
    """
    from track2_mmctr.config import DataConfig, FeatureConfig
    from track2_mmctr.datasets.microlens import INNER, load_data

    folder = next((place for place in (root / "microlens", root) if (place / INNER).is_dir()), root / "microlens")
    inner = folder / INNER
    lines: list[str] = []
    ready = all((inner / f"{name}.parquet").is_file() for name in ("train", "valid", "item_info"))
    if ready:
        data = load_data(folder, DataConfig(), FeatureConfig(), cache)
        lines += [f"microlens: {len(split):,} rows in {name}" for name, split in data.splits.items()]
        titles = "" if data.items.titles is None else f", {sum(map(bool, data.items.titles)):,} with a title"
        lines.append(f"microlens: {len(data.items) - 1:,} items{titles}")
        lines += [f"note: {note}" for note in data.notes]
    else:
        lines += _each(folder, inner)
    if (folder / "item_images").is_dir():
        lines.append(_covers(folder / "item_images", len(data.items) - 1 if ready else None))
    verb = "run" if ready else "download"
    return [*lines, f"next: python -m track2_mmctr {verb} --data {root}"]


def _each(folder: Path, inner: Path) -> list[str]:
    """Return a line for each table that is there, while the set is not complete."""
    from track2_mmctr.datasets.items import read_info
    from track2_mmctr.datasets.packing import open_split
    from track2_mmctr.datasets.schema import Table
    from track2_mmctr.datasets.tables import SPLITS

    lines = [
        f"microlens: {open_split(inner / f'{name}.parquet', name).rows:,} rows in {name}; their values are checked "
        "when train, valid and item_info are here"
        for name in SPLITS
        if (inner / f"{name}.parquet").is_file()
    ]
    if (inner / "item_info.parquet").is_file():
        lines.append(
            f"microlens: {len(read_info(inner / 'item_info.parquet', 'auto', lines)) - 1:,} items in item_info"
        )
    if (folder / "item_feature.parquet").is_file():
        table = Table(
            folder / "item_feature.parquet",
            {"item_id": "integer", "likes_level": "integer", "views_level": "integer"},
            {"item_title": "text"},
        )
        lines.append(f"microlens: {table.rows:,} rows in item_feature")
    for name, column in (("item_emb", "item_id"), ("item_seq", "user_id")):
        if (path := folder / f"{name}.parquet").is_file():
            lines.append(f"microlens: {Table(path, {column: 'integer'}).rows:,} rows in {name}")
    return lines


def _covers(folder: Path, items: int | None) -> str:
    count = sum(_COVER.fullmatch(path.name) is not None for path in folder.iterdir())
    of = "" if items is None else f" for {items:,} items"
    return f"microlens: {count:,} covers{of}"


TRACK = Track(PARTS, check)
