"""The item table: item_info by id, levels and titles of item_feature, an embedding of the user's choice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import ConfigError, DataError
from common.hashing import digest
from track2_mmctr.datasets.knowledge import Knowledge, UserCodes
from track2_mmctr.datasets.schema import Kind, Place, Table, is_list, shown
from track2_mmctr.datasets.semantic_ids import SemanticIds
from track2_mmctr.datasets.tables import LEVELS, ItemTable, Split

EMBEDDING = "item_emb_d128"
DIMENSION = 128
TAG_LIMIT = 1_000_000
"""A tag id beyond this is taken for a wrong column: the official vocabulary has 11,740."""


@dataclass(frozen=True)
class ItemInfo:
    """What item_info.parquet says, by id: row i is item i."""

    tags: np.ndarray
    embedding: np.ndarray | None

    def __len__(self) -> int:
        return len(self.tags)


def read_info(path: Path, embedding: str, notes: list[str]) -> ItemInfo:
    """Read and check item_info.parquet.

    Parameters
    ----------
    path
        The file: columns item_id, item_tags and, optionally, item_emb_d128.
    embedding
        `FeatureConfig.embedding`: `auto` reads item_emb_d128.
    notes
        Takes remarks: rows out of order, item 0 added, no embedding.

    Raises
    ------
    DataError
        The file is absent or damaged, ids are repeated, negative or not 0..N, item 0 is not all zeros, an
        embedding is not finite or not 128-dimensional.
    """
    table = Table(path, {"item_id": "integer", "item_tags": "integers"}, {EMBEDDING: "numbers"})
    ids = table.read("item_id")
    rows = rows_by_id(ids, path)
    place = Place(path, "item_tags")
    tags = table.read("item_tags")
    outside = ((tags < 0) | (tags > TAG_LIMIT)).any(1)
    place.refuse(outside, tags, "a tag id is out of range", f"0 (none), 1..{TAG_LIMIT}")
    vectors = None
    if embedding == "auto":
        if EMBEDDING in table:
            vectors = read_vectors(table, EMBEDDING, DIMENSION)
        else:
            notes.append(f"{path.name} has no column {EMBEDDING}: items have no embedding")
    if not (ids == np.arange(len(ids))).all() and not (ids == np.arange(1, len(ids) + 1)).all():
        notes.append(f"{path.name} is not in the order of item_id: read by id")
    if ids.min() == 1:
        notes.append(f"{path.name} has no row for item 0, the padding: zeros added")
    check_padding(rows, tags, place)
    if vectors is not None:
        check_padding(rows, vectors, Place(path, EMBEDDING))
    return ItemInfo(_by_id(rows, tags, np.int32), None if vectors is None else _by_id(rows, vectors, np.float32))


def rows_by_id(ids: np.ndarray, path: Path) -> np.ndarray:
    """Return the file row of each id 0..max, int64 [max + 1], -1 for an absent item 0; gaps are errors."""
    place = Place(path, "item_id")
    place.refuse(ids < 0, ids, "an item id is negative", "0 (padding), 1..N")
    check_unique(ids, place)
    count = len(ids) + (ids.min() > 0)
    if ids.max() >= count:
        missing = np.setdiff1d(np.arange(1, min(int(ids.max()), 10 * count) + 1), ids)
        raise place.error(
            f"{ids.max() + 1 - count} item ids between 0 and the largest are missing",
            expected=f"every id of 0..{ids.max()}",
            got=f"no row for {shown_ids(missing)}",
        )
    rows = np.full(count, -1, np.int64)
    rows[ids] = np.arange(len(ids))
    return rows


def check_unique(ids: np.ndarray, place: Place) -> None:
    """Refuse an id that is given twice."""
    order = np.argsort(ids, kind="stable")
    again = order[1:][ids[order[1:]] == ids[order[:-1]]]
    if len(again):
        row = int(again.min())
        raise place.error("an item id is given twice", row=row, expected="each id once", got=int(ids[row]))


def check_padding(rows: np.ndarray, values: np.ndarray, place: Place) -> None:
    """Refuse anything but zeros for item 0."""
    if rows[0] >= 0 and np.any(values[rows[0]]):
        raise place.error(
            "item 0 is the padding and is not all zeros",
            row=int(rows[0]),
            expected="zeros",
            got=shown(values[rows[0]]),
        )


def shown_ids(ids: np.ndarray, limit: int = 5) -> str:
    """Return the first ids for a message."""
    more = ", ..." if len(ids) > limit else ""
    return ", ".join(str(int(i)) for i in ids[:limit]) + more


def _by_id(rows: np.ndarray, values: np.ndarray, kind: type) -> np.ndarray:
    table = values.astype(kind)[rows]
    table[rows < 0] = 0
    return table


def read_vectors(table: Table, column: str, dimension: int | None = None) -> np.ndarray:
    """Return a column of vectors as float32 [R, D]; NaN, inf or another dimension are errors."""
    parts: list[np.ndarray] = []
    for place, values in table.rectangles(column, dimension):
        place.refuse(~np.isfinite(values).all(1), values, "an embedding has NaN or infinite values", "finite numbers")
        with np.errstate(over="ignore"):
            part = values.astype(np.float32)
        place.refuse(np.isinf(part).any(1), values, "an embedding is too large for float32", "|x| < 3e38")
        parts.append(part)
    return np.concatenate(parts)


def read_embedding(path: Path, items: int, column: str | None = None) -> np.ndarray:
    """Read a parquet file of item embeddings by id.

    Parameters
    ----------
    path
        Columns item_id and item_emb_d128, or item_id and one other column of lists.
    items
        Number of rows of the item table.
    column
        Which column to read; None finds it.

    Returns
    -------
    float32 [items, D]; row 0 is zeros.

    Raises
    ------
    DataError
        Ids are repeated or unknown, an item has no embedding, a value is not finite, item 0 is not all zeros.
    """
    column = column or _embedding_column(path)
    table = Table(path, {"item_id": "integer", column: "numbers"}, todo="`embed` writes such a file")
    ids = table.read("item_id")
    place = Place(path, "item_id")
    place.refuse((ids < 0) | (ids >= items), ids, "an item id is outside the item table", f"0..{items - 1}")
    check_unique(ids, place)
    vectors = read_vectors(table, column, DIMENSION if column == EMBEDDING else None)
    rows = np.full(items, -1, np.int64)
    rows[ids] = np.arange(len(ids))
    absent = np.flatnonzero(rows[1:] < 0) + 1
    if len(absent):
        raise Place(path, column).error(
            f"{len(absent)} items have no embedding",
            expected=f"one for each item 1..{items - 1}",
            got=f"none for item {shown_ids(absent)}",
            todo="make the file again from this data, with `embed`",
        )
    check_padding(rows, vectors, Place(path, column))
    return _by_id(rows, vectors, np.float32)


def _embedding_column(path: Path) -> str:
    schema = Table(path, {"item_id": "integer"}, todo="`embed` writes such a file").schema
    if EMBEDDING in schema.names:
        return EMBEDDING
    lists = [field.name for field in schema if is_list(field.type) and field.name != "item_tags"]
    if len(lists) != 1:
        raise DataError(
            "it is not clear which column is the embedding",
            where=path,
            expected=f"{EMBEDDING}, or one column of lists",
            got=", ".join(schema.names),
        )
    return lists[0]


def embedding_of(setting: str, info: ItemInfo) -> np.ndarray | None:
    """Return what `features.embedding` asks for: `auto`, `none`, or a parquet file."""
    if setting == "none":
        return None
    if setting == "auto":
        return info.embedding
    path = Path(setting)
    if not path.is_file():
        raise ConfigError(
            "no such embedding", where="features.embedding", expected="auto, none, or a parquet file", got=setting
        )
    return read_embedding(path, len(info))


@dataclass(frozen=True)
class ItemFeatures:
    """Levels int32 [N, 2] and titles of all items."""

    levels: np.ndarray
    titles: list[str] | None


def read_features(path: Path, items: int, notes: list[str]) -> ItemFeatures:
    """Read item_feature.parquet by id; items without a row have level 0 and no title, and are counted in a note."""
    columns: dict[str, Kind] = {"item_id": "integer", "likes_level": "integer", "views_level": "integer"}
    table = Table(path, columns, {"item_title": "text"})
    ids, place = table.read("item_id"), Place(path, "item_id")
    place.refuse((ids < 0) | (ids >= items), ids, "an item id is outside the item table", f"0..{items - 1}")
    check_unique(ids, place)
    levels = np.zeros((items, 2), np.int32)
    rows = np.full(items, -1, np.int64)
    rows[ids] = np.arange(len(ids))
    for number, column in enumerate(("likes_level", "views_level")):
        values, place = table.read(column), Place(path, column)
        place.refuse((values < 0) | (values >= LEVELS), values, "a level is out of range", f"0..{LEVELS - 1}")
        check_padding(rows, values, place)
        levels[ids, number] = values
    absent = np.flatnonzero(rows[1:] < 0) + 1
    if len(absent):
        notes.append(f"{path.name} has no row for {len(absent)} items ({shown_ids(absent)}): their levels are 0")
    titles = _titles(table, ids, items, notes)
    return ItemFeatures(levels, titles)


def _titles(table: Table, ids: np.ndarray, items: int, notes: list[str]) -> list[str] | None:
    if "item_title" not in table:
        notes.append(f"{table.path.name} has no column item_title: items have no titles")
        return None
    titles = [""] * items
    for item, title in zip(ids.tolist(), table.read_text("item_title"), strict=True):
        titles[item] = (title or "").strip()
    without = [item for item in range(1, items) if not titles[item]]
    if without:
        notes.append(f"{len(without)} items have no title ({shown_ids(np.array(without))})")
    return titles


def levels_from(train: Split | None, items: int, notes: list[str], name: str) -> ItemFeatures:
    """Levels without item_feature.parquet: those that the items had as targets of train, the last row's."""
    levels = np.zeros((items, 2), np.int32)
    if train is None:
        notes.append(f"no {name} and no train.parquet: all items have level 0")
        return ItemFeatures(levels, None)
    levels[np.asarray(train.target)] = train.levels  # of rows with the same target the last one stays
    seen = np.unique(train.target)
    notes.append(
        f"no {name}: levels of items are those of train's targets (the last row's); "
        f"{items - 1 - len(seen)} items that are never a target have level 0; no titles"
    )
    return ItemFeatures(levels, None)


def item_table(
    info: ItemInfo,
    features: ItemFeatures,
    embedding: np.ndarray | None,
    semantic_ids: SemanticIds | None = None,
    knowledge: Knowledge | None = None,
    user_codes: UserCodes | None = None,
    generator: str = "",
) -> ItemTable:
    """Put the table together; its digest is that of the arrays a ranker reads, and of the generator of candidates."""
    likes, views = (np.ascontiguousarray(features.levels[:, column]) for column in (0, 1))
    arrays = [info.tags, likes, views, *([] if embedding is None else [embedding])]
    parts: list[str | bytes] = [part for array in arrays for part in (str(array.shape), array.tobytes())]
    if semantic_ids is not None:
        parts += ["semantic ids", semantic_ids.version, str(semantic_ids.sizes), semantic_ids.codes.tobytes()]
    if knowledge is not None:
        parts += ["knowledge", *knowledge.parts()]
    if user_codes is not None:
        parts += ["user codes", *user_codes.parts()]
    if generator:
        parts += ["candidates", generator]
    return ItemTable(
        tags=info.tags,
        likes=likes,
        views=views,
        embedding=embedding,
        titles=features.titles,
        tag_vocabulary=int(info.tags.max(initial=0)) + 1,
        digest=digest("items", *parts),
        semantic_ids=semantic_ids,
        knowledge=knowledge,
        user_codes=user_codes,
    )
